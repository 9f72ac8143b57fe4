"""Rollups: the same figures on every edition, late data and duplicates included, and after the raw rows are gone."""

import asyncio
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.generate import Generator
from ingest.events import USAGE_EVENTS, UsageEvent
from ingest.settings import DatabaseUrl
from ingest.store import migrate, policies, status
from ingest.store.database import Database
from ingest.store.writer import BatchWriter
from tests import rollups, samples, servers, storing
from tests.service import started

SETTINGS = {
    "chunk_time_interval_hours": 24,
    "compression_after_days": 7,
    "retention_days": 180,
    "dedupe_window_days": 180,
}


def generated(seed: int, count: int, span: timedelta, end: datetime) -> list[UsageEvent]:
    """Realistic events of the time before `end`."""
    events = Generator(seed, now=end).usage_events(count, span)
    return msgspec.json.decode(msgspec.json.encode(events), type=list[UsageEvent])


async def store(url: DatabaseUrl, events: Sequence[UsageEvent], chunk_hours: int = 24) -> int:
    """Stores events as the service does, but for the check of their age. Returns how many were new."""
    database = Database(url, connections_max=2, timeout_seconds=30, queue_timeout_seconds=20)
    await database.open()
    try:
        writer = BatchWriter(database, chunk_interval=timedelta(hours=chunk_hours))
        stored = 0
        for start in range(0, len(events), 1000):
            part = events[start : start + 1000]
            stored += len(part) - len((await storing.store(writer, USAGE_EVENTS, part)).outcomes)
        return stored
    finally:
        await database.close()


def count(url: DatabaseUrl, what: str) -> Any:
    [(value,)] = servers.query(url, f"SELECT {what}")
    return value


def test_rollups_outlive_the_raw_rows(owner_url: DatabaseUrl, writer_url: DatabaseUrl, database_url: DatabaseUrl) -> None:
    """200 days of events with a retention of 180, then with one of 365: no refresh reaches back over what was dropped."""
    rollups.stop_scheduler(database_url)
    now = datetime.now(UTC)
    events = generated(1, 40_000, timedelta(days=200), now)
    assert asyncio.run(store(writer_url, events)) == len(events)

    policies.apply(owner_url, SETTINGS)
    for _ in range(2):
        rollups.run_jobs(owner_url)

    oldest = count(database_url, "min(event_time) FROM analytics.usage_events")
    assert now - timedelta(days=184) < oldest < now - timedelta(days=180)
    rollups.assert_equal(database_url, events)
    assert policies.plan(owner_url, SETTINGS).pending == []

    longer = {**SETTINGS, "retention_days": 365, "dedupe_window_days": 365}
    policies.apply(owner_url, longer)
    for _ in range(2):
        rollups.run_jobs(owner_url)
    rollups.assert_equal(database_url, events)
    assert policies.plan(owner_url, longer).pending == []


def test_late_events_and_events_sent_twice(
    owner_url: DatabaseUrl, writer_url: DatabaseUrl, database_url: DatabaseUrl
) -> None:
    """Late ones go into compressed chunks where there are any; the next refresh has them, once."""
    rollups.stop_scheduler(database_url)
    now = datetime.now(UTC)
    events = generated(2, 6000, timedelta(days=20), now)
    on_time, late = events[::2], events[1::2]
    asyncio.run(store(writer_url, on_time))
    policies.apply(owner_url, SETTINGS)
    rollups.run_jobs(owner_url)
    rollups.assert_equal(database_url, on_time)

    assert asyncio.run(store(writer_url, late)) == len(late)
    assert asyncio.run(store(writer_url, events)) == 0
    rollups.run_jobs(owner_url)

    rollups.assert_equal(database_url, events)
    assert count(database_url, "count(*) FROM analytics.usage_events") == len(events)


def test_what_is_not_refreshed_yet_is_in_the_rollups(
    owner_url: DatabaseUrl, writer_url: DatabaseUrl, database_url: DatabaseUrl
) -> None:
    """They are real-time: all that is newer than the last refresh is computed by the query."""
    rollups.stop_scheduler(database_url)
    policies.apply(owner_url, SETTINGS)
    events = generated(3, 3000, timedelta(days=3), datetime.now(UTC))
    asyncio.run(store(writer_url, events))

    rollups.assert_equal(database_url, events)


def test_refreshing_again_changes_nothing(owner_url: DatabaseUrl, writer_url: DatabaseUrl, database_url: DatabaseUrl) -> None:
    """Only what changed is computed: after a second run no row of a rollup table was written again."""
    if rollups.edition(database_url) == "timescaledb":
        pytest.skip("TimescaleDB's own invalidation log decides there")
    asyncio.run(store(writer_url, generated(4, 3000, timedelta(days=3), datetime.now(UTC))))
    policies.apply(owner_url, SETTINGS)
    rollups.run_jobs(owner_url)
    written = when_written(database_url)

    rollups.run_jobs(owner_url)
    assert when_written(database_url) == written

    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=30)
    asyncio.run(store(writer_url, [samples.event(event_time=hour + timedelta(minutes=5))]))
    rollups.run_jobs(owner_url)
    rewritten = when_written(database_url)
    assert {bucket for bucket in rewritten if rewritten[bucket] != written.get(bucket)} == {hour}


def when_written(url: DatabaseUrl) -> dict[object, object]:
    """For each hour of the rollup's table, the transaction that wrote it."""
    rows = servers.query(url, "SELECT bucket, max(xmin::text::bigint) FROM analytics.usage_hourly_stored GROUP BY 1")
    return {row[0]: row[1] for row in rows}


def test_a_batch_in_flight_during_a_refresh_is_counted_by_the_next(
    owner_url: DatabaseUrl, writer_url: DatabaseUrl, database_url: DatabaseUrl
) -> None:
    """The refresh does not see what is not committed; its note is what brings it back."""
    if rollups.edition(database_url) == "timescaledb":
        pytest.skip("TimescaleDB's own invalidation log decides there")
    policies.apply(owner_url, SETTINGS)
    yesterday = datetime.now(UTC) - timedelta(days=1)
    first, second = (
        samples.event(event_time=yesterday, user_id="first"),
        samples.event(event_time=yesterday, user_id="second"),
    )
    asyncio.run(store(writer_url, [first]))
    with servers.connected(database_url) as in_flight:
        in_flight.execute(
            "INSERT INTO analytics.usage_events (event_id, event_time, user_id, team, service, provider, model, total_tokens)"
            " VALUES (%s, %s, 'second', 'search', 'chat', 'openai', 'gpt-4o', 1234)",
            (second.event_id, yesterday),
        )
        in_flight.execute(
            "INSERT INTO analytics.usage_changes VALUES ('usage_hourly', date_bin('1 hour', %s, '2000-01-01 00:00:00+00'))",
            (yesterday,),
        )
        rollups.run_jobs(owner_url)
        rollups.assert_equal(database_url, [first])
        in_flight.commit()

    rollups.run_jobs(owner_url)
    rollups.assert_equal(database_url, [first, second])


def test_the_editions_agree_row_by_row() -> None:
    """The same batches, late and repeated ones among them, into every database that can be had here: the same rollups."""
    now = datetime.now(UTC)
    events = generated(5, 8000, timedelta(days=30), now)
    found: dict[str, dict[str, list[rollups.Row]]] = {}
    for kind, start in servers.SERVERS.items():
        with ExitStack() as stack:
            try:
                server = stack.enter_context(start())
            except servers.Unavailable:
                continue
            name = f"ingest_test_{os.getpid()}_agree"
            servers.execute(server.admin, f"CREATE DATABASE {name}")
            stack.callback(servers.execute, server.admin, f"DROP DATABASE {name} WITH (FORCE)")
            url = server.url_of(name)
            migrate.migrate(url, chunk_interval_hours=24)
            rollups.stop_scheduler(url)
            asyncio.run(store(url, events[::3] + events[::6]))
            policies.apply(url, SETTINGS)
            rollups.run_jobs(url)
            asyncio.run(store(url, events[1::3] + events[2::3] + events[::2]))
            rollups.run_jobs(url)
            found[f"{kind}: {rollups.edition(url)}"] = {rollup: rollups.stored(url, rollup) for rollup in rollups.ROLLUPS}

    assert found
    recomputed = {rollup: rollups.expected(rollup, events) for rollup in rollups.ROLLUPS}
    for edition, rows in found.items():
        for rollup in rollups.ROLLUPS:
            assert rows[rollup] == recomputed[rollup], (edition, rollup)


def test_the_bounds_of_the_buckets_are_documented_right(database_url: DatabaseUrl) -> None:
    [(bounds,)] = servers.query(database_url, "SELECT analytics.latency_bounds()")

    assert tuple(bounds) == rollups.LATENCY_BOUNDS_MS  # type: ignore[arg-type]
    assert max(high / low for low, high in zip(rollups.LATENCY_BOUNDS_MS, rollups.LATENCY_BOUNDS_MS[1:], strict=False)) <= 1.6


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_percentile_is_off_by_a_factor_of_1_6_at_most(shared_database_url: DatabaseUrl, data: st.DataObject) -> None:
    latencies = sorted(data.draw(st.lists(st.integers(0, 3_000_000), min_size=1, max_size=200)))
    fraction = data.draw(st.sampled_from([0.5, 0.95, 0.99, 0.001, 1.0]))
    counted = [sum(latency <= bound for latency in latencies) for bound in rollups.LATENCY_BOUNDS_MS]

    [(answer, exact)] = servers.query(
        shared_database_url,
        "SELECT analytics.latency_percentile(%s::bigint[], %s, %s, %s),"
        " (SELECT percentile_disc(%s) WITHIN GROUP (ORDER BY latency) FROM unnest(%s::integer[]) latency)",
        *(counted, len(latencies), latencies[-1], fraction, fraction, latencies),
    )

    assert isinstance(answer, float)
    assert isinstance(exact, int)
    if exact <= 10:
        assert 0 <= answer <= 10
    elif exact <= 630_000:
        assert exact / 1.6 <= answer <= exact * 1.6
    else:
        assert 630_000 <= answer <= latencies[-1]


def test_percentiles_of_rows_that_are_added_up(
    owner_url: DatabaseUrl, writer_url: DatabaseUrl, database_url: DatabaseUrl
) -> None:
    rollups.stop_scheduler(database_url)
    policies.apply(owner_url, SETTINGS)
    latencies = [20, 200, 2000]
    asyncio.run(store(writer_url, [samples.event(latency_ms=ms, team=f"team-{ms}") for ms in latencies for _ in range(100)]))

    [(p50, p95, p99)] = servers.query(
        database_url,
        "SELECT p50, p95, p99 FROM ("
        "SELECT analytics.sum_latency_le(latency_le) AS le, sum(latency_count)::bigint AS n, max(latency_ms_max) AS longest"
        " FROM analytics.usage_daily) added, analytics.latency_percentiles(le, n, longest)",
    )

    assert 160 < p50 <= 250 < 1600 < p95 <= p99 <= 2000  # type: ignore[operator]


def test_old_chunks_take_a_quarter_of_the_room_or_less(
    owner_url: DatabaseUrl, writer_url: DatabaseUrl, database_url: DatabaseUrl
) -> None:
    if rollups.edition(database_url) != "timescaledb":
        pytest.skip("only TimescaleDB Community compresses")
    rollups.stop_scheduler(database_url)
    now = datetime.now(UTC)
    asyncio.run(store(writer_url, generated(6, 30_000, timedelta(days=2), now - timedelta(days=9))))
    asyncio.run(store(writer_url, generated(7, 2000, timedelta(days=3), now)))
    policies.apply(owner_url, SETTINGS)
    rollups.run_jobs(owner_url)

    [usage] = [table for table in status.status(owner_url).tables if table.table_name == "usage_events"]

    assert usage.compressed_chunks == count(
        database_url,
        "count(*) FROM timescaledb_information.chunks"
        " WHERE hypertable_name = 'usage_events' AND range_end < now() - interval '7 days'",
    )
    assert usage.compressed_chunks in range(1, usage.chunks)
    assert usage.ratio is not None
    assert usage.ratio >= 4


def test_a_day_that_was_dropped_takes_no_events_though_the_retention_grew(
    owner_url: DatabaseUrl, writer_url: DatabaseUrl, database_url: DatabaseUrl
) -> None:
    """Its rollup is final and its ids are forgotten: what came then would be counted twice, or not at all."""
    rollups.stop_scheduler(database_url)
    now = datetime.now(UTC)
    times = [now - timedelta(days=days) for days in (300, 250, 100)]
    asyncio.run(store(writer_url, [samples.event(event_time=time) for time in times]))
    policies.apply(owner_url, SETTINGS)
    for _ in range(2):
        rollups.run_jobs(owner_url)
    longer = {**SETTINGS, "retention_days": 365, "dedupe_window_days": 365}
    policies.apply(owner_url, longer)
    rollups.run_jobs(owner_url)

    with started({"DB_URL": writer_url.reveal(), "RETENTION_DAYS": "365"}) as service:
        late = samples.wire_event(event_time=(now - timedelta(days=251)).isoformat())
        assert service.post([late]).json()["errors"][0]["code"] == "too_old"
        assert service.verdict([samples.wire_event(event_time=(now - timedelta(days=120)).isoformat())])["accepted"] == 1
    rollups.run_jobs(owner_url)
    assert count(database_url, "sum(requests) FROM analytics.usage_daily") == 4


@pytest.mark.parametrize("hours", [1, 6, 36, 168])
def test_chunks_of_any_width(owner_url: DatabaseUrl, writer_url: DatabaseUrl, database_url: DatabaseUrl, hours: int) -> None:
    """Where the data begins in the middle of a day, nothing is lost; where chunks go, everything is kept."""
    rollups.stop_scheduler(database_url)
    migrate.migrate(owner_url, chunk_interval_hours=hours)
    chosen = {**SETTINGS, "chunk_time_interval_hours": hours, "retention_days": 5, "dedupe_window_days": 5}
    now = datetime.now(UTC)
    young = generated(8, 300, timedelta(minutes=40), now)
    asyncio.run(store(writer_url, young, hours))
    policies.apply(owner_url, chosen)
    rollups.run_jobs(owner_url)
    assert servers.query(database_url, "SELECT moment FROM analytics.time_bounds WHERE name = 'raw_rows_from'") == []

    late = generated(9, 3000, timedelta(days=4), now)
    asyncio.run(store(writer_url, late, hours))
    rollups.run_jobs(owner_url)
    rollups.assert_equal(database_url, [*young, *late])

    shorter = {**chosen, "retention_days": 1, "dedupe_window_days": 1}
    later = generated(10, 500, timedelta(days=4), now)
    asyncio.run(store(writer_url, later, hours))
    policies.apply(owner_url, shorter, allow_data_loss=True)
    for _ in range(2):
        rollups.run_jobs(owner_url)
    rollups.assert_equal(database_url, [*young, *late, *later])


def test_a_shorter_retention_takes_late_events_into_the_rollups_first(
    owner_url: DatabaseUrl, writer_url: DatabaseUrl, database_url: DatabaseUrl
) -> None:
    rollups.stop_scheduler(database_url)
    now = datetime.now(UTC)
    on_time, late = (
        generated(11, 3000, timedelta(days=170), now),
        generated(12, 500, timedelta(days=40), now - timedelta(days=110)),
    )
    asyncio.run(store(writer_url, on_time))
    policies.apply(owner_url, SETTINGS)
    rollups.run_jobs(owner_url)
    asyncio.run(store(writer_url, late))

    policies.apply(owner_url, {**SETTINGS, "retention_days": 90, "dedupe_window_days": 90}, allow_data_loss=True)
    for _ in range(2):
        rollups.run_jobs(owner_url)

    assert count(database_url, "min(event_time) FROM analytics.usage_events") > now - timedelta(days=95)
    rollups.assert_equal(database_url, [*on_time, *late])


def test_chunks_dropped_by_hand_close_everything_before_them(
    owner_url: DatabaseUrl, writer_url: DatabaseUrl, database_url: DatabaseUrl
) -> None:
    """Though a late event makes a chunk anew among those that are gone, before anybody has noticed."""
    if rollups.edition(database_url) == "postgresql":
        pytest.skip("drop_chunks is TimescaleDB's")
    rollups.stop_scheduler(database_url)
    now = datetime.now(UTC)
    events = generated(13, 4000, timedelta(days=170), now)
    asyncio.run(store(writer_url, events))
    policies.apply(owner_url, SETTINGS)
    rollups.run_jobs(owner_url)

    servers.execute(owner_url, "SELECT drop_chunks('analytics.usage_events', older_than => INTERVAL '90 days')")
    asyncio.run(store(writer_url, [samples.event(event_time=now - timedelta(days=150))]))
    rollups.run_jobs(owner_url)

    rollups.assert_equal(database_url, events)
    bound = count(database_url, "moment FROM analytics.time_bounds WHERE name = 'raw_rows_from'")
    assert now - timedelta(days=92) < bound < now - timedelta(days=89)


@pytest.mark.parametrize("keep", [0, 1])
def test_the_newest_rows_are_dropped_and_the_rollups_stay(
    owner_url: DatabaseUrl, writer_url: DatabaseUrl, database_url: DatabaseUrl, keep: int
) -> None:
    """All that there is, by a retention shorter than the last event's age; or all but the oldest day, by hand."""
    rollups.stop_scheduler(database_url)
    now = datetime.now(UTC)
    events = generated(16, 2000, timedelta(days=20), now - timedelta(days=10))
    asyncio.run(store(writer_url, events))
    policies.apply(owner_url, SETTINGS)
    rollups.run_jobs(owner_url)
    rollups.assert_equal(database_url, events)
    if keep:
        drop_partitions(owner_url, "newer_than", min(event.event_time for event in events) + timedelta(days=1))
    else:
        shorter = {**SETTINGS, "retention_days": 5, "dedupe_window_days": 5, "compression_after_days": 5}
        policies.apply(owner_url, shorter, allow_data_loss=True)
        for _ in range(2):
            rollups.run_jobs(owner_url)
        policies.apply(owner_url, SETTINGS)
        assert count(database_url, "count(*) FROM analytics.usage_events") == 0
    rollups.run_jobs(owner_url)

    late = now - timedelta(days=25)
    with started({"DB_URL": writer_url.reveal(), "MAINTENANCE": "off"}) as service:
        assert service.post([samples.wire_event(event_time=late.isoformat())]).json()["errors"][0]["code"] == "too_old"
    asyncio.run(store(writer_url, [samples.event(event_time=late)]))  # though the service takes none
    rollups.run_jobs(owner_url)

    rollups.assert_equal(database_url, events)


def drop_partitions(url: DatabaseUrl, direction: str, moment: datetime) -> None:
    """As a DBA does by hand, all that is wholly `older_than` or `newer_than` a moment."""
    if rollups.edition(url) != "postgresql":
        servers.query(url, f"SELECT drop_chunks('analytics.usage_events', {direction} => %s)", moment)
        return
    condition = {"older_than": "upper_bound <= %s", "newer_than": "lower_bound >= %s"}[direction]
    names = servers.query(
        url, f"SELECT partition_name FROM analytics.partitions WHERE table_name = 'usage_events' AND {condition}", moment
    )
    assert names
    for (name,) in names:
        servers.execute(url, f'DROP TABLE analytics."{name}"')


def test_where_nothing_was_dropped_nothing_is_taken_for_lost(
    owner_url: DatabaseUrl, writer_url: DatabaseUrl, database_url: DatabaseUrl
) -> None:
    """Days without an event, chunks of two widths, events a little ahead: none of it may close the service to late events."""
    rollups.stop_scheduler(database_url)
    policies.apply(owner_url, SETTINGS)
    rollups.run_jobs(owner_url)
    now = datetime.now(UTC)
    events = [samples.event(event_time=now - timedelta(days=days)) for days in (-1 / 480, 0, 3, 4, 90, 170)]
    asyncio.run(store(writer_url, events))
    rollups.run_jobs(owner_url)
    narrow = [samples.event(event_time=now - timedelta(days=days)) for days in (2, 5, 60, 171)]
    if rollups.edition(database_url) != "postgresql":
        servers.query(owner_url, "SELECT set_chunk_time_interval('analytics.usage_events', INTERVAL '7 hours')")
    asyncio.run(store(writer_url, narrow, chunk_hours=7))
    for _ in range(2):
        rollups.run_jobs(owner_url)

    assert count(database_url, "count(*) FROM analytics.time_bounds WHERE name IN ('raw_rows_from', 'ids_from')") == 0
    rollups.assert_equal(database_url, [*events, *narrow])


def test_chunks_that_are_made_during_a_refresh_are_not_taken_for_lost(
    owner_url: DatabaseUrl, writer_url: DatabaseUrl, database_url: DatabaseUrl
) -> None:
    rollups.stop_scheduler(database_url)
    policies.apply(owner_url, SETTINGS)
    now = datetime.now(UTC)
    events = [samples.event(event_time=now - timedelta(days=days, hours=1)) for days in range(160, 0, -1) for _ in range(5)]
    refresh = "refresh_rollup_tables()"
    if rollups.edition(database_url) == "timescaledb":
        refresh = "refresh_rollups(0, '{}')"

    async def store_day_by_day() -> None:
        database = Database(writer_url, connections_max=1, timeout_seconds=30, queue_timeout_seconds=20)
        await database.open()
        writer = BatchWriter(database, chunk_interval=timedelta(hours=24))
        for start in range(0, len(events), 5):
            await storing.store(writer, USAGE_EVENTS, events[start : start + 5])
        await database.close()

    with servers.connected(owner_url) as by_hand, ThreadPoolExecutor() as threads:
        by_hand.autocommit = True
        filling = threads.submit(asyncio.run, store_day_by_day())
        refreshes = 0
        while not filling.done():
            by_hand.execute(f"CALL analytics.{refresh}".encode())
            refreshes += 1
        filling.result()
        by_hand.execute(f"CALL analytics.{refresh}".encode())

    assert refreshes > 1
    assert count(database_url, "count(*) FROM analytics.time_bounds WHERE name = 'raw_rows_from'") == 0
    rollups.assert_equal(database_url, events)


def test_rows_may_be_removed_once_that_is_said(
    owner_url: DatabaseUrl, writer_url: DatabaseUrl, database_url: DatabaseUrl
) -> None:
    rollups.stop_scheduler(database_url)
    now = datetime.now(UTC)
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    events = generated(17, 2000, timedelta(days=20), today)
    asyncio.run(store(writer_url, events))
    policies.apply(owner_url, SETTINGS)
    rollups.run_jobs(owner_url)

    servers.query(owner_url, "SELECT analytics.note_bound('raw_rows_from', %s)", today)
    servers.execute(owner_url, "TRUNCATE analytics.usage_events")
    new, late = samples.event(event_time=now), samples.event(event_time=today - timedelta(hours=1))
    asyncio.run(store(writer_url, [new, late]))
    rollups.run_jobs(owner_url)

    rollups.assert_equal(database_url, [*events, new])


def test_a_day_of_which_a_part_was_dropped_stays(
    owner_url: DatabaseUrl, writer_url: DatabaseUrl, database_url: DatabaseUrl
) -> None:
    """By user it is made of raw rows, and would lose those of the part that is gone."""
    rollups.stop_scheduler(database_url)
    day = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=20)
    events = [samples.event(event_time=day + timedelta(hours=hour, minutes=1)) for hour in range(24)]
    if rollups.edition(database_url) != "postgresql":
        servers.query(owner_url, "SELECT set_chunk_time_interval('analytics.usage_events', INTERVAL '6 hours')")
    asyncio.run(store(writer_url, events, chunk_hours=6))
    policies.apply(owner_url, SETTINGS)
    rollups.run_jobs(owner_url)
    rollups.assert_equal(database_url, events)
    drop_partitions(owner_url, "older_than", day + timedelta(hours=6))
    assert count(database_url, "count(*) FROM analytics.usage_events") == 18

    late = samples.event(event_time=day + timedelta(hours=20))
    asyncio.run(store(writer_url, [late], chunk_hours=6))
    for _ in range(2):
        rollups.run_jobs(owner_url)

    for rollup in ("usage_hourly", "usage_daily"):
        assert rollups.stored(database_url, rollup) == rollups.expected(rollup, [*events, late])
    assert rollups.stored(database_url, "usage_daily_by_user") == rollups.expected("usage_daily_by_user", events)


@pytest.mark.parametrize("zone", ["America/New_York", "Australia/Lord_Howe"])
def test_days_are_days_of_utc_whatever_the_zone_of_the_session(
    owner_url: DatabaseUrl, writer_url: DatabaseUrl, database_url: DatabaseUrl, zone: str
) -> None:
    """A day in which the clocks change is no 24 hours."""
    rollups.stop_scheduler(database_url)
    name = database_url.reveal().partition("?")[0].rpartition("/")[2]
    servers.execute(database_url, f"ALTER DATABASE {name} SET timezone = '{zone}'")
    events = generated(14, 8000, timedelta(days=170), datetime.now(UTC))
    asyncio.run(store(writer_url, events))
    policies.apply(owner_url, SETTINGS)
    if rollups.edition(database_url) == "timescaledb":
        rollups.run_jobs(owner_url)
    else:
        with servers.connected(owner_url) as by_hand:
            by_hand.autocommit = True
            by_hand.execute("CALL analytics.refresh_rollup_tables()")

    rollups.assert_equal(database_url, events)


@pytest.mark.parametrize("retention_days", [60, 180])
def test_rollups_that_were_removed_and_made_again_are_filled_before_rows_go(
    owner_url: DatabaseUrl, writer_url: DatabaseUrl, database_url: DatabaseUrl, retention_days: int
) -> None:
    """All that is there, also what only the retention's three days more keep."""
    if rollups.edition(database_url) != "timescaledb":
        pytest.skip("elsewhere they are tables, which nobody drops to undo a policy")
    rollups.stop_scheduler(database_url)
    events = generated(15, 3000, timedelta(days=182, hours=20), datetime.now(UTC))
    asyncio.run(store(writer_url, events))
    policies.apply(owner_url, SETTINGS)
    rollups.run_jobs(owner_url)
    servers.execute(
        owner_url,
        "SELECT delete_job(job_id) FROM timescaledb_information.jobs WHERE proc_name = 'refresh_rollups'",
        *(f"DROP MATERIALIZED VIEW analytics.{view}" for view in ("usage_daily_by_user", "usage_daily", "usage_hourly")),
    )

    changed = {**SETTINGS, "retention_days": retention_days, "dedupe_window_days": retention_days}
    policies.apply(owner_url, changed, allow_data_loss=True)
    for _ in range(2):
        rollups.run_jobs(owner_url)

    kept = count(database_url, "count(*) FROM analytics.usage_events")
    assert kept == len(events) if retention_days == 180 else kept < len(events) / 2
    rollups.assert_equal(database_url, events)
