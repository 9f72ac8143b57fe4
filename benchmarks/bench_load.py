"""A load generator for any running instance: throughput, latency, errors, and an audit of what was acknowledged.

Closed (the default): each connection sends as soon as it was answered; that finds the highest throughput. Open (--rate,
--trace): requests are due at times of their own, whatever the service does; that finds the latency that users meet. At the
end it is audited that what was acknowledged is stored, once. Ctrl-C ends the load early, and what was measured is told.
"""

import argparse
import asyncio
import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import uvloop
from msgspec import Struct

from benchmarks import audit, facts
from benchmarks.bodies import Bodies
from benchmarks.errors import BenchmarkError
from benchmarks.generate import trace_rows
from benchmarks.http_client import TIMEOUT_SECONDS, ClientError, Connection
from benchmarks.measurements import Measurements
from benchmarks.programs import database_url
from benchmarks.progress import progress, say
from benchmarks.results import Check, Column, Database, Findings, Scalar, Table
from benchmarks.sender import Sender
from benchmarks.workload import Closed, Steady, Traced, Workload, calls_of_trace
from ingest.settings import DatabaseUrl

DURATION_SECONDS = 30.0
WARMUP_SECONDS = 2.0

TINY = {"batch": 100, "connections": 2, "duration": 1.5, "warmup": 0.5}
"""What --tiny makes of the options that are not given."""
FULL = {"batch": 1000, "connections": 4, "duration": None, "warmup": None}

PROGRESS_EVERY_SECONDS = 0.25
BUSY_CORES = 0.8
"""A generator that uses more than that of the one core it can use is not measuring the service alone."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `load`."""
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="of the service (default: %(default)s)")
    parser.add_argument(
        "--header", action="append", default=[], metavar="'NAME: VALUE'", help="sent along; may be given again"
    )
    parser.add_argument("--batch", type=_whole, metavar="N", help="events a request, at most (default: 1000)")
    parser.add_argument("--connections", type=_whole, metavar="N", help="(default: 4)")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--closed", action="store_true", help="send as soon as there is an answer; the default")
    mode.add_argument("--rate", type=_positive, metavar="EVENTS", help="send so many events a second, in equal distances")
    mode.add_argument(
        "--trace",
        type=Path,
        metavar="FILE",
        help="send as a trace has it: CSV with TIMESTAMP, ContextTokens, GeneratedTokens; each row is an event",
    )
    parser.add_argument("--speed", type=_positive, default=1.0, metavar="N", help="times the trace's (default: %(default)g)")
    parser.add_argument(
        "--flush-seconds",
        type=_positive,
        default=1.0,
        metavar="N",
        help="of a trace: a batch that is not full is sent so long after its first event (default: %(default)g)",
    )
    parser.add_argument(
        "--duration",
        type=_positive,
        metavar="SECONDS",
        help=f"that are measured (default: {DURATION_SECONDS:g}, or the whole trace)",
    )
    parser.add_argument(
        "--warmup",
        type=_not_negative,
        metavar="SECONDS",
        help=f"before, that are not measured (default: {WARMUP_SECONDS:g}; of a trace 0)",
    )
    parser.add_argument(
        "--timeout", type=_positive, default=TIMEOUT_SECONDS, metavar="SECONDS", help="(default: %(default)g)"
    )
    parser.add_argument("--retry", action="store_true", help="send again what was refused for now or lost, as an SDK does")
    parser.add_argument("--uuid-version", type=int, choices=(4, 7), default=7, help="of the event ids (default: %(default)s)")
    parser.add_argument(
        "--db-url",
        type=database_url,
        metavar="URL",
        help="of the service's own database, for a user who may read it: audits in SQL too",
    )
    parser.add_argument("--no-audit", action="store_true", help="don't look whether what was acknowledged is stored")


def run(options: argparse.Namespace) -> Findings:
    """Sends the load and audits it.

    Raises BenchmarkError if the service can't be reached, or an option can't be used.
    """
    for name, value in (TINY if options.tiny else FULL).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    if options.warmup is None:
        options.warmup = 0.0 if options.trace else WARMUP_SECONDS
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(options))


async def _run(options: argparse.Namespace) -> Findings:
    headers = dict(_header(text) for text in options.header)
    workload, seconds = _workload(options)
    try:
        connections = [Connection(options.url, timeout_seconds=options.timeout) for _ in range(options.connections)]
    except ValueError as error:
        raise BenchmarkError(f"--url: {error}") from None
    service = await _ask_service(connections[0], options.url)
    measurements = Measurements(options.warmup)
    sending = Sender(connections, workload, measurements, headers=headers, retries=options.retry)
    await _send(sending, measurements, seconds)

    checks = [
        Check("events were acknowledged", measurements.events > 0, f"{measurements.events:,} while it was measured"),
        Check(
            "no event was refused or in conflict",
            not measurements.rejected + measurements.conflicts,
            f"{measurements.rejected:,} rejected, {measurements.conflicts:,} in conflict",
        ),
    ]
    notes = _notes(options, measurements, sending)
    database = service.known_database()
    if options.db_url is not None:
        database = await asyncio.to_thread(_facts_of, options.db_url)
    if not options.no_audit:
        # In SQL first: sending again would store what is missing.
        if options.db_url is not None:
            check, stored = await asyncio.to_thread(
                audit.in_sql, options.db_url, workload, sending.acknowledged, sending.unacknowledged
            )
            checks.append(check)
            if sending.unacknowledged:
                notes.append(f"{stored.unacknowledged:,} events that were not acknowledged are stored all the same.")
        auditing = audit.over_http(connections, workload, sending.acknowledged, headers=headers)
        checks.append(await _audit_over_http(auditing))
    for connection in connections:
        connection.close()
    is_open = workload.requests is not None
    tables = [
        measurements.throughput_table(),
        measurements.latency_table(open_loop=is_open),
        measurements.error_table(),
        _generator_table(measurements, sending, open_loop=is_open),
    ]
    return Findings(
        parameters=_parameters(options, service, seconds),
        database=database,
        tables=[table for table in tables if table is not None],
        plots=measurements.plots(open_loop=is_open),
        notes=notes,
        checks=checks,
    )


def _workload(options: argparse.Namespace) -> tuple[Workload, float]:
    """What is sent, and how long that takes, with the warm-up."""
    bodies = Bodies(options.seed, options.batch, uuid_version=options.uuid_version)
    if options.trace is None:
        seconds = options.warmup + (options.duration or DURATION_SECONDS)
        return (Closed(bodies) if options.rate is None else Steady(bodies, options.rate, seconds)), seconds
    try:
        traced = Traced(bodies, calls_of_trace(trace_rows(options.trace), options.speed), options.flush_seconds)
    except (OSError, ValueError) as error:
        raise BenchmarkError(f"--trace: {error}") from None
    if not traced.requests:
        raise BenchmarkError(f"--trace: {options.trace} has no rows.")
    # Behind the last request a moment is left in which it can be sent.
    seconds = traced.seconds + options.flush_seconds
    if options.duration is not None and options.warmup + options.duration < seconds:
        seconds = options.warmup + options.duration
        traced.cut(seconds)
    return traced, seconds


class _Service(Struct):
    """What the service says of itself at /."""

    name: str
    version: str
    database: dict[str, Any]

    def known_database(self) -> Database | None:
        """None while the service has not reached it."""
        if not self.database.get("server_version"):
            return None
        return msgspec.convert({**self.database, "settings": {}}, Database)


async def _ask_service(connection: Connection, url: str) -> _Service:
    try:
        return msgspec.json.decode((await connection.get("/")).content, type=_Service)
    except ClientError as error:
        raise BenchmarkError(f"No service answers at {url}: {error}") from None
    except msgspec.DecodeError:
        raise BenchmarkError(f"What answers at {url} is not this service.") from None


def _facts_of(url: DatabaseUrl) -> Database:
    try:
        return facts.database(url.reveal())
    except psycopg.Error as error:
        raise BenchmarkError(f"--db-url: {str(error).splitlines()[0]}") from None


async def _send(sending: Sender, measurements: Measurements, seconds: float) -> None:
    def end_early() -> None:
        say("Ending early; the audit is still to come.")
        sending.stop()

    showing = asyncio.create_task(_show(sending, measurements, seconds))
    try:
        with _at_interrupt(end_early):
            await sending.run(seconds)
    except ClientError as error:
        raise BenchmarkError(f"The connections can't be made: {error}") from None
    finally:
        showing.cancel()
        with suppress(asyncio.CancelledError):
            await showing


async def _audit_over_http(auditing: Coroutine[Any, Any, Check]) -> Check:
    task = asyncio.create_task(auditing)
    with _at_interrupt(task.cancel):
        try:
            return await task
        except asyncio.CancelledError:
            return Check(audit.SENT_AGAIN, passed=False, detail="the audit was broken off")


@contextmanager
def _at_interrupt(do: Callable[[], object]) -> Iterator[None]:
    """Calls `do` at the first Ctrl-C; the second one ends the program."""
    loop = asyncio.get_running_loop()

    def interrupted() -> None:
        loop.remove_signal_handler(signal.SIGINT)
        do()

    loop.add_signal_handler(signal.SIGINT, interrupted)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)


async def _show(sending: Sender, measurements: Measurements, seconds: float) -> None:
    with progress("Load", seconds, "s") as shown:
        while True:
            await asyncio.sleep(PROGRESS_EVERY_SECONDS)
            shown.set(min(sending.elapsed_seconds, seconds), measurements.note())


def _generator_table(measurements: Measurements, sending: Sender, *, open_loop: bool) -> Table:
    rows: list[list[Scalar]] = [["CPU of the generator, in cores", sending.cpu_seconds / sending.sent_seconds]]
    if open_loop:
        rows += [
            [f"sent late by the generator itself, {name} (ms)", measurements.sent_late.percentile_ms(percentile)]
            for name, percentile in (("50 %", 50.0), ("99 %", 99.0), ("longest", 100.0))
        ]
    return Table("The generator", [Column("what"), Column("value")], rows)


def _notes(options: argparse.Namespace, measurements: Measurements, sending: Sender) -> list[str]:
    notes = []
    if options.trace is None and options.rate is None:
        notes.append(
            "Closed loop: a connection waits for its answer before it sends again, so a slow answer also keeps back the "
            "requests that would have met the same wait. Latencies that users meet are those of --rate or --trace."
        )
    else:
        notes.append(
            "Latency from when a request was due has in it the wait for a free connection, and by how much the generator "
            "itself sent late (its timer has whole milliseconds)."
        )
    if measurements.unsent:
        notes.append(
            f"{measurements.unsent:,} requests were due, but no connection was free until the end. They stand in the "
            "percentiles with the time they had waited by then, which is less than it would have been."
        )
    if sending.unacknowledged:
        notes.append(
            f"{len(sending.unacknowledged):,} requests were not acknowledged. One whose answer was lost may be stored; that "
            "is no error, and sending it again is safe."
        )
    partly = sum(receipt.stored < receipt.items for receipt in sending.acknowledged)
    if partly and options.db_url is not None and not options.no_audit:
        notes.append(f"{partly:,} requests of which not all events were stored are left out of the audit in SQL.")
    if sending.cpu_seconds / sending.sent_seconds > BUSY_CORES:
        notes.append("The generator was busy nearly all the time: it limits what is measured.")
    return notes


def _parameters(options: argparse.Namespace, service: _Service, seconds: float) -> dict[str, Scalar]:
    mode = "closed" if options.rate is None else f"{options.rate:g} events/s"
    if options.trace is not None:
        mode = f"trace {options.trace.name}, {options.speed:g} times as fast, flushed after {options.flush_seconds:g} s"
    return {
        "service": f"{service.name} {service.version}",
        "mode": mode,
        "batch": options.batch,
        "connections": options.connections,
        "seconds to measure": seconds - options.warmup,
        "seconds of warm-up": options.warmup,
        "timeout in seconds": options.timeout,
        "retries": options.retry,
        "version of UUIDs": options.uuid_version,
    }


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise BenchmarkError("--header: it must be 'NAME: VALUE'.")
    return name.strip(), value.strip()


def _whole(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text} is no whole number from 1 on")
    return int(text)


def _positive(text: str) -> float:
    if (number := _not_negative(text)) == 0:
        raise argparse.ArgumentTypeError("it must be more than 0")
    return number


def _not_negative(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is no number from 0 on")
    return number
