"""How long `GET /livez` takes while a service is under load: the lag of its event loop, as a health check meets it.

The answer needs nothing but a turn of the event loop, so what it takes is what the loop did meanwhile, and what the machine
did in place of the loop. To tell the two apart it is also measured by how much the poller itself woke up too late: it is a
process of its own that does nothing else, and meets the machine's scheduler alone.

A poll is due every INTERVAL_SECONDS. One that was due while the last one was still waiting counts from when it was due: a
loop that stalls for a second is met by fifty health checks, not by one.
"""

import argparse
import http.client
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from benchmarks.errors import BenchmarkError
from benchmarks.measurements import Latencies
from benchmarks.results import Check, Column, Scalar, Table

INTERVAL_SECONDS = 0.02
TIMEOUT_SECONDS = 30.0
PATH = "/livez"

PERCENTILES = (50.0, 99.0, 99.9, 100.0)

READY = b"ready\n"


class Poll(Struct, frozen=True, array_like=True, gc=False):
    """A poll that was made. Moments are seconds from the first one on."""

    due: float
    sent: float
    done: float
    ok: bool
    """Whether it was answered with 200."""


class Polls(Struct, frozen=True):
    """What a poller met, in order of time."""

    polls: list[Poll]

    @property
    def latencies(self) -> Latencies:
        """From when a poll was due, or from when it was sent if the poller was free but woke up late, to the answer."""
        found = Latencies()
        for latency in self.latency_seconds:
            found.record(latency)
        return found

    @property
    def woke_late(self) -> Latencies:
        """By how much the poller was late though it was free."""
        found = Latencies()
        free = 0.0
        for poll in self.polls:
            found.record(poll.sent - max(poll.due, free))
            free = poll.done
        return found

    @property
    def latency_seconds(self) -> list[float]:
        """That of each poll."""
        found = []
        free = 0.0
        for poll in self.polls:
            found.append(poll.done - (poll.due if poll.due < free else poll.sent))
            free = poll.done
        return found

    @property
    def failed(self) -> int:
        """How many were not answered with 200."""
        return sum(not poll.ok for poll in self.polls)

    def longest_ms(self, interval_seconds: float) -> tuple[list[float], list[float | None]]:
        """The longest latency of the polls that were due in each interval: its middle, in seconds, and ms."""
        longest: list[float | None] = []
        for poll, latency in zip(self.polls, self.latency_seconds, strict=True):
            place = int(poll.due / interval_seconds)
            longest += [None] * (place + 1 - len(longest))
            longest[place] = max(longest[place] or 0.0, latency * 1000)
        return [(place + 0.5) * interval_seconds for place in range(len(longest))], longest


class Polling:
    """A poller at work; `polls` is there when its context was left."""

    polls: Polls


@contextmanager
def polling(url: str) -> Iterator[Polling]:
    """Polls the service at `url` (http://HOST:PORT), in a process of its own, while the context is open.

    Raises BenchmarkError if the poller fails.
    """
    this = Polling()
    poller = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.liveness", url],
        cwd=Path(__file__).resolve().parent.parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert poller.stdout is not None
        if poller.stdout.readline() != READY:
            raise BenchmarkError(f"The poller of {PATH} did not start.")
        yield this
        output, _ = poller.communicate()
    finally:
        poller.kill()
        poller.wait()
        for pipe in (poller.stdin, poller.stdout):
            if pipe is not None:
                pipe.close()
    try:
        this.polls = msgspec.json.decode(output, type=Polls)
    except msgspec.DecodeError:
        raise BenchmarkError(f"The poller of {PATH} ended early.") from None


def table(measured: dict[str, Polls]) -> Table:
    """Two rows for each of the polls, by the names of what went on meanwhile."""
    rows: list[list[Scalar]] = []
    for name, polls in measured.items():
        for what, latencies in (("answered", polls.latencies), ("the poller woke up late by", polls.woke_late)):
            found = [latencies.percentile_ms(percentile) for percentile in PERCENTILES]
            rows.append([f"{name}: {what}", latencies.count, *found])
    columns = [Column("what"), Column("polls"), *(Column(name, "ms") for name in ("50 %", "99 %", "99.9 %", "longest"))]
    return Table(f"GET {PATH} every {INTERVAL_SECONDS * 1000:.0f} ms, on a connection of its own", columns, rows)


def check(measured: dict[str, Polls]) -> Check:
    """A service that works hard is alive all the same."""
    polls = sum(len(found.polls) for found in measured.values())
    failed = sum(found.failed for found in measured.values())
    return Check(
        f"every GET {PATH} under load was answered with 200", polls > 0 and not failed, f"{failed:,} of {polls:,} were not"
    )


def poll_until_closed(url: str) -> Polls:
    """Polls until standard input is closed."""
    address = urlsplit(url).netloc
    client = http.client.HTTPConnection(address, timeout=TIMEOUT_SECONDS)
    polls: list[Poll] = []
    start = time.perf_counter()
    while True:
        due = len(polls) * INTERVAL_SECONDS
        left = due - (time.perf_counter() - start)
        if select.select([sys.stdin], [], [], max(left, 0.0))[0]:
            client.close()
            return Polls(polls)
        sent = time.perf_counter() - start
        ok = _is_alive(client)
        polls.append(Poll(due, sent, time.perf_counter() - start, ok))


def _is_alive(client: http.client.HTTPConnection) -> bool:
    try:
        client.request("GET", PATH)
        with client.getresponse() as answer:
            answer.read()
            return answer.status == HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        client.close()  # the next poll makes a new connection
        return False


def main() -> int:
    """Polls the service that the command line names until standard input is closed, then writes what it met, as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.liveness", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("url")
    options = parser.parse_args()
    # Ctrl-C is for the benchmark; when that ends, standard input is closed.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.stdout.buffer.write(READY)
    sys.stdout.flush()
    sys.stdout.buffer.write(msgspec.json.encode(poll_until_closed(options.url)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
