"""Memory of the service under many batches at once, and over a soak; and whether it answers a health check meanwhile.

First 64 connections send batches as fast as they are answered; then a few send at a moderate rate for a long time. The
resident memory of the service's process is looked at every second, alone and together with that of its children, which decode
large bodies. GET /livez is asked every 20 ms all the while, on a connection of its own.
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import uvloop
from msgspec import Struct

from benchmarks import comparison, facts, jobs, liveness, postgres, programs
from benchmarks.bodies import Bodies
from benchmarks.errors import BenchmarkError
from benchmarks.http_client import ClientError, Connection
from benchmarks.liveness import Polls
from benchmarks.measurements import Measurements
from benchmarks.programs import Running
from benchmarks.progress import progress
from benchmarks.results import Axis, Check, Column, Findings, Plot, Scalar, Series, Table
from benchmarks.sender import Sender
from benchmarks.workload import Closed, Steady, Workload

TINY = {"connections": 8, "burst_seconds": 2, "soak_seconds": 2, "rate": 2000}
FULL = {"connections": 64, "burst_seconds": 30, "soak_seconds": 600, "rate": 20_000}
SOAK_CONNECTIONS = 4
SAMPLE_SECONDS = 1.0
MIB = 1024 * 1024

BURST, SOAK = "burst", "soak"


class _Sample(Struct, frozen=True):
    seconds: float
    """Since the phase began."""
    worker_mib: float
    together_mib: float
    """Worker and children; pages that they share count twice."""


class _Phase(Struct):
    samples: list[_Sample]
    polls: Polls
    measured: Measurements
    events: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `memory`."""
    programs.add_database_option(parser)
    parser.add_argument("--batch", type=comparison.at_least_one, default=1000, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--connections", type=comparison.at_least_one, metavar="N", help="of the burst (default: 64)")
    parser.add_argument("--burst-seconds", type=comparison.at_least_one, metavar="N", help="(default: 30)")
    parser.add_argument("--soak-seconds", type=comparison.at_least_one, metavar="N", help="(default: 600)")
    parser.add_argument("--rate", type=comparison.at_least_one, metavar="N", help="events/s of the soak (default: 20000)")


def run(options: argparse.Namespace) -> Findings:
    """Measures. Raises BenchmarkError or errors.IngestError where it can't be done."""
    comparison.set_defaults(options, **(TINY if options.tiny else FULL))
    bodies = Bodies(options.seed, options.batch)
    soaking = Bodies(options.seed + 1, options.batch)
    with ExitStack() as stack:
        server = stack.enter_context(programs.database_server(options.db_url))
        url = stack.enter_context(programs.scratch_database(server))
        paused = jobs.pause(url)
        session = stack.enter_context(postgres.session(url))
        running = stack.enter_context(programs.service(url))
        idle_mib = running.process.memory_info().rss / MIB
        phases = {
            BURST: _phase(running, BURST, Closed(bodies), options.connections, options.burst_seconds),
            SOAK: _phase(
                running, SOAK, Steady(soaking, options.rate, options.soak_seconds), SOAK_CONNECTIONS, options.soak_seconds
            ),
        }
        peak_mib = _peak_mib(running)
        stored, ids = session.stored("analytics.usage_events")
        database = facts.database(url.reveal())
    sent = sum(phase.events for phase in phases.values())
    polls = {name: phase.polls for name, phase in phases.items()}
    return Findings(
        parameters={
            "batch": options.batch,
            "connections of the burst": options.connections,
            "seconds of the burst": options.burst_seconds,
            "seconds of the soak": options.soak_seconds,
            "events/s of the soak": options.rate,
        },
        database=database,
        tables=[_memory_table(phases, idle_mib, peak_mib), liveness.table(polls)],
        plots=[*(_memory_plot(name, phase.samples) for name, phase in phases.items()), _liveness_plot(polls)],
        notes=[
            "The slope is that of a straight line through the samples of the soak's second half, by least squares. Memory "
            "is resident memory, shared libraries among it; the peak is what the kernel has seen (VmHWM).",
            *([jobs.NOTE] if paused else []),
        ],
        checks=[
            liveness.check(polls),
            Check("every event is stored, once", sent == stored == ids, f"{sent:,} sent, {stored:,} stored, {ids:,} ids"),
        ],
    )


def _phase(running: Running, name: str, workload: Workload, connections: int, seconds: int) -> _Phase:
    with liveness.polling(running.url) as polling, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        samples, measured, events = runner.run(_send(running, name, workload, connections, seconds))
    return _Phase(samples, polling.polls, measured, events)


async def _send(
    running: Running, name: str, workload: Workload, connections: int, seconds: int
) -> tuple[list[_Sample], Measurements, int]:
    samples: list[_Sample] = []
    measured = Measurements(0.0)
    opened = [Connection(running.url) for _ in range(connections)]
    sender = Sender(opened, workload, measured)
    with progress(name, seconds, "s") as shown:

        async def watch() -> None:
            start = time.perf_counter()
            while True:
                # In a thread: to look for children is to read about every process of the machine, some milliseconds' work.
                found = await asyncio.to_thread(_sample, running, time.perf_counter() - start)
                samples.append(found)
                shown.set(min(float(seconds), found.seconds), f"{found.worker_mib:.0f} MiB")
                await asyncio.sleep(SAMPLE_SECONDS)

        watching = asyncio.create_task(watch())
        try:
            await sender.run(seconds)
        except ClientError as error:
            raise BenchmarkError(f"The connections can't be made: {error}") from None
        finally:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching
            for connection in opened:
                connection.close()
    if sender.unacknowledged:
        raise BenchmarkError(f"{len(sender.unacknowledged)} requests were not taken.")
    return samples, measured, sum(receipt.stored for receipt in sender.acknowledged)


def _sample(running: Running, seconds: float) -> _Sample:
    return _Sample(seconds, programs.resident_bytes([running.process.pid]) / MIB, programs.resident_bytes(running.pids) / MIB)


def _peak_mib(running: Running) -> float | None:
    """The most that the process ever held, where the kernel tells: Linux does (proc_pid_status(5), VmHWM, in kB of 1024)."""
    status = Path(f"/proc/{running.process.pid}/status")
    if not status.exists():
        return None
    return next((int(line.split()[1]) / 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM")), None)


def _memory_table(phases: Mapping[str, _Phase], idle_mib: float, peak_mib: float | None) -> Table:
    columns = [
        Column("phase"),
        Column("throughput", "events/s"),
        Column("lowest", "MiB"),
        Column("median", "MiB"),
        Column("highest", "MiB"),
        Column("with children, highest", "MiB"),
        Column("slope", "MiB/minute"),
    ]
    rows: list[list[Scalar]] = [["before", None, idle_mib, idle_mib, idle_mib, None, None]]
    for name, phase in phases.items():
        worker = [sample.worker_mib for sample in phase.samples]
        rows.append(
            [
                name,
                phase.measured.events_per_second,
                min(worker),
                statistics.median(worker),
                max(worker),
                max(sample.together_mib for sample in phase.samples),
                slope_a_minute([(sample.seconds, sample.worker_mib) for sample in phase.samples]) if name == SOAK else None,
            ]
        )
    rows.append(["at any time", None, None, None, peak_mib, None, None])
    return Table("Memory of the service", columns, rows)


def slope_a_minute(points: Sequence[tuple[float, float]]) -> float | None:
    """By how much a value rises in a minute: of a straight line through the second half of points (seconds, value), by least
    squares. None where that are fewer than two."""
    half = points[len(points) // 2 :]
    if len(half) < 2:
        return None
    seconds, values = zip(*half, strict=True)
    return 60 * statistics.linear_regression(seconds, values).slope


def _memory_plot(name: str, samples: Sequence[_Sample]) -> Plot:
    seconds = [sample.seconds for sample in samples]
    series = [
        Series("the service's process", seconds, [sample.worker_mib for sample in samples]),
        Series("with its children", seconds, [sample.together_mib for sample in samples]),
    ]
    return Plot(f"Resident memory, {name}", "line", Axis("time", "s"), Axis("resident", "MiB"), series)


def _liveness_plot(polls: Mapping[str, Polls]) -> Plot:
    series = [Series(name, *found.longest_ms(SAMPLE_SECONDS)) for name, found in polls.items()]
    title = f"GET {liveness.PATH}, the longest of each second"
    return Plot(title, "line", Axis("time since the phase began", "s"), Axis("latency", "ms"), series)
