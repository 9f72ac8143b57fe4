"""The rollups, computed a second time in Python from the events, and the jobs that compute the real ones."""

import asyncio
import bisect
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from ingest.events import UsageEvent
from ingest.settings import DatabaseUrl
from ingest.store.maintenance import Maintenance
from tests import servers

ROLLUPS = {
    "usage_hourly": (timedelta(hours=1), ("team", "service", "provider", "model")),
    "usage_daily": (timedelta(days=1), ("team", "service", "provider", "model")),
    "usage_daily_by_user": (timedelta(days=1), ("user_id", "team", "service", "provider", "model")),
}
"""Width of a bucket, and what it is grouped by."""

LATENCY_BOUNDS_MS = (
    *(10, 16, 25, 40, 63, 100, 160, 250, 400, 630, 1000, 1600, 2500, 4000, 6300, 10_000, 16_000, 25_000, 40_000, 63_000),
    *(100_000, 160_000, 250_000, 400_000, 630_000),
)

Row = tuple[Any, ...]


def expected(rollup: str, events: Iterable[UsageEvent]) -> list[Row]:
    """The rows that the rollup must have for these events, in the order of `stored`. Each event counts once."""
    width, dimensions = ROLLUPS[rollup]
    groups: dict[Row, list[UsageEvent]] = defaultdict(list)
    for event in events:
        bucket = event.event_time - (event.event_time - datetime(1970, 1, 1, tzinfo=event.event_time.tzinfo)) % width
        groups[bucket, *(getattr(event, name) for name in dimensions)].append(event)
    return sorted((*key, *_measures(group)) for key, group in groups.items())


def stored(url: DatabaseUrl, rollup: str) -> list[Row]:
    """The rows of the rollup, in the order of their keys."""
    _, dimensions = ROLLUPS[rollup]
    rows = servers.query(
        url,
        f"SELECT bucket, {', '.join(dimensions)}, requests, errors, total_tokens, latency_count, latency_ms_sum,"
        f" latency_ms_max, latency_le FROM analytics.{rollup}",
    )
    # In UTC: times of one zone are compared by their wall clock, which shows an hour twice when it is put back.
    return sorted((row[0].astimezone(UTC), *row[1:-1], tuple(row[-1])) for row in rows)  # type: ignore[attr-defined, arg-type]


def assert_equal(url: DatabaseUrl, events: Sequence[UsageEvent]) -> None:
    """All rollups hold these events and no others, row by row."""
    for rollup in ROLLUPS:
        assert stored(url, rollup) == expected(rollup, events), rollup


def stop_scheduler(url: DatabaseUrl) -> None:
    """TimescaleDB runs no job by itself any more, so that a test says when."""
    if edition(url) == "timescaledb":
        servers.execute(url, "SELECT _timescaledb_functions.stop_background_workers()")


def start_scheduler(url: DatabaseUrl) -> None:
    """TimescaleDB runs the jobs of this database from now on; a database that was copied it finds within a minute."""
    if edition(url) == "timescaledb":
        servers.execute(url, "SELECT _timescaledb_functions.start_background_workers()")


def edition(url: DatabaseUrl) -> str:
    """The edition on which the tables were made."""
    [(name,)] = servers.query(url, "SELECT edition FROM analytics.installation")
    return str(name)


def run_jobs(url: DatabaseUrl) -> None:
    """Runs every job of the policies once: those of TimescaleDB as its scheduler would, the others as `ingest maintain`."""
    if edition(url) == "timescaledb":
        jobs = servers.query(url, "SELECT job_id FROM timescaledb_information.jobs WHERE job_id >= 1000 ORDER BY job_id")
        for (job,) in jobs:
            servers.execute(url, f"CALL run_job({job})")
        return
    for run in asyncio.run(Maintenance(url).run_all()):
        assert run.error is None, f"{run.policy}: {run.error}"


def _measures(group: Sequence[UsageEvent]) -> Row:
    latencies = sorted(event.latency_ms for event in group if event.latency_ms is not None)
    return (
        len(group),
        sum((event.status_code or 0) >= 400 or event.error_type is not None for event in group),
        sum(event.total_tokens or 0 for event in group),
        len(latencies),
        sum(latencies) if latencies else None,
        latencies[-1] if latencies else None,
        tuple(bisect.bisect_right(latencies, bound) for bound in LATENCY_BOUNDS_MS),
    )
