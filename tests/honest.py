"""A client that does nothing wrong, while others do: whether it is served, and how fast."""

import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection

import msgspec

from tests import rawhttp
from tests.samples import wire_event
from tests.service import REQUESTS, RunningService

PAUSE_SECONDS = 0.02


def small() -> bytes:
    """A batch of 10 events."""
    return msgspec.json.encode([wire_event() for _ in range(10)])


def middle() -> bytes:
    """A batch of 300 events, 150 KB, of an SDK that is newer than the service and sends a field that is not known here."""
    return msgspec.json.encode([wire_event(prompt="x" * 300, region="eu") for _ in range(300)])


@dataclass
class Honest:
    """What became of its batches."""

    statuses: Counter[int] = field(default_factory=Counter)
    latencies_ms: list[float] = field(default_factory=list)
    """Of those that were stored."""
    resets: int = 0
    """Connections that ended without an answer, and were made anew."""

    def p99_ms(self) -> float:
        """The 99th percentile, or the longest of fewer than a hundred."""
        return statistics.quantiles(self.latencies_ms, n=100, method="inclusive")[98]

    def __str__(self) -> str:
        return (
            f"{sum(self.statuses.values())} batches, p99 {self.p99_ms():.0f} ms, {dict(self.statuses)}, {self.resets} resets"
        )


@contextmanager
def posting(service: RunningService, clients: int = 1, make: Callable[[], bytes] = small) -> Iterator[Honest]:
    """Clients that post batches, one after the other, each on a connection that it keeps, while the context is open."""
    done = Honest()
    stop = threading.Event()
    threads = [threading.Thread(target=_post, args=(service, make, done, stop), daemon=True) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield done
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def measured(service: RunningService, seconds: float = 1.0) -> Honest:
    """An honest client by itself."""
    with posting(service) as done:
        time.sleep(seconds)
    return done


def _post(service: RunningService, make: Callable[[], bytes], done: Honest, stop: threading.Event) -> None:
    connection = HTTPConnection(*rawhttp.address(service), timeout=60)
    while not stop.is_set():
        body = make()
        began = time.monotonic()
        try:
            connection.request("POST", REQUESTS, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
        except OSError:
            done.resets += 1
            connection.close()
            continue
        done.statuses[answer.status] += 1
        if answer.status == 200:
            done.latencies_ms.append((time.monotonic() - began) * 1000)
        stop.wait(PAUSE_SECONDS)
    connection.close()
