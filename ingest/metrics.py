"""Every metric of the service, in one place, by Prometheus' conventions (prometheus.io/docs/practices/naming): base units,
and the unit in the name. README.md tells what to watch.

Labels have few values, all of them ours: endpoints, statuses, codes, streams, verdicts, stages. Nothing that a client writes
becomes one.

A worker writes into files that it shares with the others (prometheus_client's multiprocess mode), and whichever of them is
asked adds up what all have counted. The files are named by the workers' numbers and not by their processes: one that is
started again goes on counting where the one before it ended, and there are never more files than workers. A service in one
process has no files.
"""

import os
import resource
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from enum import Enum
from pathlib import Path

import prometheus_client
from msgspec import Struct
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, exposition, multiprocess, values
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from ingest import __version__

FILES_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
WORKER_VARIABLE = "INGEST_WORKER"
"""What the supervisor sets for a worker: the folder of the files, and the worker's number. They count at import."""

_WORKER = os.environ.get(WORKER_VARIABLE)
if _WORKER is not None:
    values.ValueClass = values.MultiProcessValue(lambda: int(_WORKER))  # type: ignore[no-untyped-call]
# Else there were a series beside each other one, which nothing of ours reads.
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]

REGISTRY = CollectorRegistry()

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_EVENTS = (1, 10, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 100_000)


def _gauge(name: str, words: str, labels: Sequence[str] = (), *, among_workers: str = "livesum") -> Gauge:
    return Gauge(name, words, labels, registry=REGISTRY, multiprocess_mode=among_workers)  # type: ignore[arg-type]


HTTP_REQUESTS = Counter(
    "ingest_http_requests",
    "Requests that were answered. endpoint: a path of ours, other, or none where the request was not read to its end.",
    ["endpoint", "status"],
    registry=REGISTRY,
)
HTTP_REQUEST_DURATION = Histogram(
    "ingest_http_request_duration_seconds",
    "From the head of a request to the end of its answer, the wait for its body included.",
    ["endpoint"],
    buckets=_SECONDS,
    registry=REGISTRY,
)
REFUSED_REQUESTS = Counter(
    "ingest_refused_requests", "Requests that were answered with an error, by its code.", ["code"], registry=REGISTRY
)
EVENTS = Counter(
    "ingest_events",
    "Items of batches that were processed, by what became of them: accepted, duplicate, conflict, rejected.",
    ["stream", "verdict"],
    registry=REGISTRY,
)
SANITIZED_EVENTS = Counter(
    "ingest_sanitized_events",
    "Accepted items whose text was changed so that PostgreSQL can hold it.",
    ["stream"],
    registry=REGISTRY,
)
COMPRESSED_BYTES = Counter("ingest_compressed_bytes", "Bytes of bodies, as they were sent.", ["stream"], registry=REGISTRY)
DECOMPRESSED_BYTES = Counter("ingest_decompressed_bytes", "Bytes of bodies, inflated.", ["stream"], registry=REGISTRY)
BATCH_EVENTS = Histogram(
    "ingest_batch_events", "Items of a batch that was processed.", ["stream"], buckets=_EVENTS, registry=REGISTRY
)
STAGE_DURATION = Histogram(
    "ingest_batch_stage_duration_seconds",
    "How long a batch took. stage: receive (the body came), decode, wait (for a writer), commit (its transaction).",
    ["stream", "stage"],
    buckets=_SECONDS,
    registry=REGISTRY,
)
STORE_RETRIES = Counter(
    "ingest_store_retries",
    "Transactions that were tried again. reason: transaction (another one was in the way), apart (a group's batches, each by "
    "itself), bisection (looking for the rows that the database refuses).",
    ["reason"],
    registry=REGISTRY,
)
QUEUE_ROWS = _gauge("ingest_queue_rows", "Rows that wait for a writer.")
QUEUE_ROWS_LIMIT = _gauge("ingest_queue_rows_limit", "MAX_QUEUED_ROWS, of all workers.")
QUEUE_BYTES = _gauge("ingest_queue_bytes", "Bytes of the rows that wait for a writer.")
INFLIGHT_BYTES = _gauge("ingest_inflight_bytes", "Inflated bytes of all bodies in work.")
INFLIGHT_BYTES_LIMIT = _gauge("ingest_inflight_bytes_limit", "MAX_INFLIGHT_BYTES, of all workers.")
DB_CONNECTIONS = _gauge("ingest_db_connections", "Connections of writers to the database. state: busy, idle.", ["state"])
DB_CONNECTIONS_LIMIT = _gauge("ingest_db_connections_limit", "DB_POOL_SIZE, of all workers.")
CLIENT_CONNECTIONS = _gauge("ingest_client_connections", "Connections of clients.")
CLIENT_CONNECTIONS_LIMIT = _gauge("ingest_client_connections_limit", "MAX_CONNECTIONS, of all workers.")
DATABASE_UP = _gauge(
    "ingest_database_up", "Whether events can be stored now: 1, or 0 where a worker can't.", among_workers="livemin"
)
WORKERS = _gauge("ingest_workers", "Processes that serve.")
WORKERS_WANTED = _gauge("ingest_workers_wanted", "Processes that should serve: --workers.", among_workers="livemax")
WORKER_RESTARTS = Counter(
    "ingest_worker_restarts", "Workers that were started because the one before ended.", registry=REGISTRY
)
START_TIME = _gauge(
    "ingest_worker_start_time_seconds", "When a process which serves was started, in seconds since 1970.", ["worker"]
)
RESIDENT_MEMORY = _gauge("ingest_worker_resident_memory_bytes", "Memory that a process which serves holds.", ["worker"])
OPEN_FDS = _gauge("ingest_worker_open_fds", "File descriptors that a process which serves has open.", ["worker"])
CPU_SECONDS = Counter(
    "ingest_worker_cpu_seconds",
    "Processor time of a process which serves, user and system; without the processes that decode large bodies.",
    ["worker"],
    registry=REGISTRY,
)
LOG_RECORDS_SUPPRESSED = Counter(
    "ingest_log_records_suppressed",
    "Lines of the log that were left out because there were too many like them.",
    registry=REGISTRY,
)


class PolicyRun(Struct, frozen=True):
    """How a policy fares. `last_run_timestamp`: seconds since 1970; None where it did not run yet."""

    policy: str
    failures: int
    is_failing: bool
    last_run_timestamp: float | None


class Ledger(Struct, frozen=True):
    """A ledger's size, its indexes included. `rows` is an estimate."""

    stream: str
    rows: int
    bytes: int


class DatabaseFigures(Struct, frozen=True):
    """What the database says of itself."""

    edition: str
    server_version: str
    timescaledb_version: str | None
    policies: Sequence[PolicyRun]
    ledgers: Sequence[Ledger]


class _Database(Collector):
    """What any process says in the same words: it is asked of the database, and added up by nobody."""

    def __init__(self, figures: DatabaseFigures | None) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        build = GaugeMetricFamily("ingest_build_info", "The program that runs.", labels=["version"])
        build.add_metric([__version__], 1)
        yield build
        info = GaugeMetricFamily(
            "ingest_database_info",
            "The database, as it was found.",
            labels=["edition", "server_version", "timescaledb_version"],
        )
        failures = CounterMetricFamily("ingest_policy_failures", "Runs of a policy's job that failed.", labels=["policy"])
        failing = GaugeMetricFamily("ingest_policy_failing", "Whether its last run failed: 1 or 0.", labels=["policy"])
        last_run = GaugeMetricFamily(
            "ingest_policy_last_run_timestamp_seconds", "When a policy's job began last.", labels=["policy"]
        )
        rows = GaugeMetricFamily("ingest_ledger_rows", "Ids that are remembered; an estimate.", labels=["stream"])
        size = GaugeMetricFamily("ingest_ledger_bytes", "Bytes of a ledger with its indexes.", labels=["stream"])
        if self._figures is not None:
            known = self._figures
            info.add_metric([known.edition, known.server_version, known.timescaledb_version or ""], 1)
            for run in known.policies:
                failures.add_metric([run.policy], run.failures)
                failing.add_metric([run.policy], run.is_failing)
                if run.last_run_timestamp is not None:
                    last_run.add_metric([run.policy], run.last_run_timestamp)
            for ledger in known.ledgers:
                rows.add_metric([ledger.stream], ledger.rows)
                size.add_metric([ledger.stream], ledger.bytes)
        yield from (info, failures, failing, last_run, rows, size)


class Format(Enum):
    """How the metrics are written: its media type, and what writes it."""

    TEXT = "text/plain; version=0.0.4; charset=utf-8", exposition.generate_latest
    OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8", openmetrics.generate_latest

    def __init__(self, media_type: str, encode: Callable[[CollectorRegistry], bytes]) -> None:
        self.media_type = media_type
        self.encode = encode

    @classmethod
    def wanted(cls, accept: str) -> "Format":
        """What a request with this field gets: OpenMetrics where it names that. One version of each, whichever it asks for:
        prometheus_client's own choice takes any, and repeats what it does not know."""
        return cls.OPENMETRICS if "application/openmetrics-text" in accept.lower() else cls.TEXT


def answer(figures: DatabaseFigures | None, written: Format) -> bytes:
    """All metrics of all workers. figures: None while the database can't be asked."""
    registry = CollectorRegistry()
    registry.register(_Database(figures))
    if _WORKER is None:
        registry.register(_Registered())
    else:
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return written.encode(registry)


class _Registered(Collector):
    def collect(self) -> Iterable[Metric]:
        return REGISTRY.collect()


def note_process() -> None:
    """Takes down what this process uses now. What can't be told at the moment, for want of a descriptor, stays as it was."""
    worker = _WORKER or "1"
    with suppress(OSError):
        RESIDENT_MEMORY.labels(worker).set(int(_STATM.read_text().split()[1]) * resource.getpagesize())
        OPEN_FDS.labels(worker).set(len(os.listdir("/proc/self/fd")))  # noqa: PTH208 - many, and only their number counts
    global _cpu_seconds
    times = os.times()
    CPU_SECONDS.labels(worker).inc(times.user + times.system - _cpu_seconds)
    _cpu_seconds = times.user + times.system
    START_TIME.labels(worker).set(_STARTED_AT)


_STATM = Path("/proc/self/statm")  # Linux
_STARTED_AT = time.time()
_cpu_seconds = 0.0


def forget_worker(number: int, folder: str) -> None:
    """Drops the gauges of a worker that has ended; what it counted stays. For the supervisor."""
    multiprocess.mark_process_dead(number, folder)  # type: ignore[no-untyped-call]


def names() -> frozenset[str]:
    """The names of all series there may be, as a query has them."""
    found: set[str] = set()
    for metric in [*REGISTRY.collect(), *_Database(None).collect()]:
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}.get(metric.type, ("",))
        found.update(metric.name + suffix for suffix in suffixes)
    return frozenset(found)
