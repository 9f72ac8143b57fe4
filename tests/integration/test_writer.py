"""The writer on real databases: every event once, whatever is sent, in whatever order, by however many."""

import asyncio
import uuid
from datetime import datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from ingest import errors
from ingest.events import MESSAGE_ARCHIVES, USAGE_EVENTS, UsageEvent
from ingest.settings import DatabaseUrl
from ingest.store.database import Database
from ingest.store.editions import Edition
from ingest.store.writer import BatchWriter
from ingest.verdict import Outcome
from tests import servers
from tests.samples import archive, event
from tests.storing import FORBIDDING, make_cautious, refuse, store

COUNT = "SELECT count(*), count(DISTINCT event_id) FROM analytics.usage_events"


async def test_an_event_is_stored_as_it_was_sent(writer: BatchWriter, database_url: DatabaseUrl, now: datetime) -> None:
    sent = event(
        event_time=now,
        latency_ms=17,
        status_code=503,
        error_type="overloaded",
        prompt="naïve 😀",
        extra={"region": "eu", "nested": [1, {"a": None}]},
    )

    assert (await store(writer, USAGE_EVENTS, [sent])).outcomes == {}

    [row] = servers.query(
        database_url,
        "SELECT event_id, event_time, user_id, team, service, provider, model, total_tokens, latency_ms, status_code,"
        " error_type, prompt, extra, created_at - now() < '1 min' FROM analytics.usage_events",
    )
    assert row == (
        *(sent.event_id, now, "ada", "search", "chat", "openai", "gpt-4o", 1234, 17, 503, "overloaded", "naïve 😀"),
        {"region": "eu", "nested": [1, {"a": None}]},
        True,
    )
    assert servers.query(database_url, "SELECT event_id, event_time FROM analytics.usage_event_ids") == [(sent.event_id, now)]


async def test_the_same_batch_again_is_all_duplicates(writer: BatchWriter, database_url: DatabaseUrl) -> None:
    batch = [event(prompt=f"prompt {k}", extra={"k": k}) for k in range(300)]
    await store(writer, USAGE_EVENTS, batch)

    again = await store(writer, USAGE_EVENTS, list(reversed(batch)))

    assert again.outcomes == dict.fromkeys(range(300), Outcome.DUPLICATE)
    assert servers.query(database_url, COUNT) == [(300, 300)]


@pytest.mark.parametrize(
    "change",
    [
        {"event_time": timedelta(days=-3)},
        {"user_id": "bob"},
        {"total_tokens": 1},
        {"latency_ms": 1},
        {"prompt": "other"},
    ],
    ids=lambda change: next(iter(change)),
)
async def test_the_same_id_with_other_content_is_a_conflict_and_the_first_stays(
    writer: BatchWriter, database_url: DatabaseUrl, change: dict[str, object], now: datetime
) -> None:
    first = event(event_time=now)
    await store(writer, USAGE_EVENTS, [first])
    if "event_time" in change:  # another chunk
        change = {"event_time": now + timedelta(days=-3)}

    stored = await store(writer, USAGE_EVENTS, [event(), replace(first, **change)])

    assert stored.outcomes == {1: Outcome.CONFLICT}
    rows = servers.query(
        database_url, "SELECT event_time, user_id FROM analytics.usage_events WHERE event_id = %s", first.event_id
    )
    assert rows == [(now, "ada")]


async def test_of_an_id_that_repeats_in_a_batch_the_first_counts(writer: BatchWriter, database_url: DatabaseUrl) -> None:
    one, two = event(), event()
    batch = [one, two, replace(one, team="other"), two, one]

    stored = await store(writer, USAGE_EVENTS, batch)

    assert stored.outcomes == {2: Outcome.CONFLICT, 3: Outcome.DUPLICATE, 4: Outcome.DUPLICATE}
    assert servers.query(database_url, COUNT) == [(2, 2)]


async def test_batches_with_ids_in_common_at_the_same_moment_store_each_once(
    writer: BatchWriter, database_url: DatabaseUrl, now: datetime
) -> None:
    shared = [event(event_time=now - timedelta(hours=k)) for k in range(200)]
    batches = [[*shared[k * 20 :], *shared[: k * 20]] for k in range(8)]  # each in another order

    results = await asyncio.gather(*(store(writer, USAGE_EVENTS, batch) for batch in batches))

    accepted = sum(len(shared) - len(result.outcomes) for result in results)
    assert accepted == 200
    assert {outcome for result in results for outcome in result.outcomes.values()} == {Outcome.DUPLICATE}
    assert servers.query(database_url, COUNT) == [(200, 200)]


async def test_one_id_at_the_same_moment_in_other_chunks_gives_one_row(
    writer: BatchWriter, database_url: DatabaseUrl, now: datetime
) -> None:
    first = event(event_time=now)
    versions = [replace(first, event_time=now - timedelta(days=k)) for k in range(8)]

    results = await asyncio.gather(*(store(writer, USAGE_EVENTS, [version]) for version in versions))

    assert sorted(tuple(result.outcomes.values()) for result in results) == [(), *[(Outcome.CONFLICT,)] * 7]
    assert servers.query(database_url, COUNT) == [(1, 1)]


async def test_an_archive_needs_its_event(writer: BatchWriter, database_url: DatabaseUrl) -> None:
    known, stranger = event(), uuid.uuid4()
    await store(writer, USAGE_EVENTS, [known])

    stored = await store(writer, MESSAGE_ARCHIVES, [archive(stranger), archive(known.event_id), archive(stranger)])

    assert stored.outcomes == {0: Outcome.UNKNOWN_EVENT, 2: Outcome.UNKNOWN_EVENT}
    assert servers.query(database_url, "SELECT event_id FROM analytics.message_archives") == [(known.event_id,)]
    later = event(event_id=stranger)
    await store(writer, USAGE_EVENTS, [later])
    assert (await store(writer, MESSAGE_ARCHIVES, [archive(stranger)])).outcomes == {}


async def test_an_archive_without_stored_at_sent_again_later_is_a_duplicate(
    writer: BatchWriter, database_url: DatabaseUrl, now: datetime
) -> None:
    known = event()
    await store(writer, USAGE_EVENTS, [known])
    await store(writer, MESSAGE_ARCHIVES, [archive(known.event_id)])

    again = await store(writer, MESSAGE_ARCHIVES, [archive(known.event_id), archive(known.event_id, prompt_full="Other?")])

    assert again.outcomes == {0: Outcome.DUPLICATE, 1: Outcome.CONFLICT}
    [(in_table, in_ledger)] = servers.query(
        database_url,
        "SELECT a.stored_at, i.stored_at"
        " FROM analytics.message_archives a JOIN analytics.message_archive_ids i USING (event_id)",
    )
    assert in_table == in_ledger
    assert isinstance(in_table, datetime)
    assert abs(in_table - now) < timedelta(minutes=1)


async def test_strict_stores_nothing_when_one_is_rejected(writer: BatchWriter, database_url: DatabaseUrl) -> None:
    known = event()
    await store(writer, USAGE_EVENTS, [known], strict=True)

    stored = await store(writer, MESSAGE_ARCHIVES, [archive(known.event_id), archive(uuid.uuid4())], strict=True)

    assert not stored.committed
    assert stored.outcomes == {1: Outcome.UNKNOWN_EVENT}
    assert servers.query(database_url, "SELECT count(*) FROM analytics.message_archives") == [(0,)]
    assert servers.query(database_url, "SELECT count(*) FROM analytics.message_archive_ids") == [(0,)]


@pytest.mark.parametrize("bad", [{0}, {99}, {3, 4, 50}, set(range(100))], ids=["first", "last", "some", "all"])
async def test_rows_that_the_database_refuses_are_found_and_rejected_alone(
    writer: BatchWriter, database_url: DatabaseUrl, bad: set[int]
) -> None:
    batch = [event() for _ in range(100)]
    refuse(database_url, [batch[k] for k in sorted(bad)])

    stored = await store(writer, USAGE_EVENTS, batch)

    assert stored.outcomes == dict.fromkeys(bad, Outcome.UNSTORABLE)
    assert servers.query(database_url, COUNT) == [(100 - len(bad), 100 - len(bad))]


@pytest.mark.parametrize("rule", ["constraint", "trigger"])
async def test_a_rule_of_the_dba_costs_only_the_rows_that_break_it(
    writer: BatchWriter, database_url: DatabaseUrl, rule: str
) -> None:
    servers.execute(database_url, FORBIDDING[rule])
    batch = [event(), event(model="forbidden"), event()]

    assert (await store(writer, USAGE_EVENTS, batch)).outcomes == {1: Outcome.UNSTORABLE}
    assert servers.query(database_url, COUNT) == [(2, 2)]


async def test_strict_stores_nothing_when_the_database_refuses_one(writer: BatchWriter, database_url: DatabaseUrl) -> None:
    batch = [event() for _ in range(10)]
    refuse(database_url, [batch[7]])

    stored = await store(writer, USAGE_EVENTS, batch, strict=True)

    assert not stored.committed
    assert stored.outcomes == {7: Outcome.UNSTORABLE}
    assert servers.query(database_url, COUNT) == [(0, 0)]


async def test_partitions_are_made_by_many_writers_at_once(
    database: Database, database_url: DatabaseUrl, now: datetime
) -> None:
    writers = [BatchWriter(database, chunk_interval=timedelta(hours=24)) for _ in range(8)]
    batches = [[event(event_time=now - timedelta(days=k)) for k in range(30)] for _ in writers]

    await asyncio.gather(*(store(w, USAGE_EVENTS, batch) for w, batch in zip(writers, batches, strict=True)))

    assert servers.query(database_url, COUNT) == [(240, 240)]


@pytest.mark.parametrize(
    "removal", ["DROP TABLE", "ALTER TABLE analytics.usage_events DETACH PARTITION"], ids=["dropped", "detached"]
)
async def test_a_partition_that_is_gone_is_made_again(
    writer: BatchWriter, database: Database, database_url: DatabaseUrl, now: datetime, removal: str
) -> None:
    if database.check_ready().edition is not Edition.POSTGRESQL:
        pytest.skip("TimescaleDB makes its chunks itself")
    await store(writer, USAGE_EVENTS, [event(event_time=now)])
    [(partition,)] = servers.query(
        database_url, "SELECT partition_name FROM analytics.partitions WHERE table_name = 'usage_events'"
    )
    servers.execute(database_url, f"{removal} analytics.{partition}")

    assert (await store(writer, USAGE_EVENTS, [event(event_time=now)])).outcomes == {}
    again = BatchWriter(database, chunk_interval=timedelta(hours=24))
    assert (await store(again, USAGE_EVENTS, [event(event_time=now)])).outcomes == {}


async def test_a_row_whose_partition_can_not_be_made_costs_no_other(
    writer: BatchWriter, database: Database, database_url: DatabaseUrl, now: datetime
) -> None:
    """A DBA's default partition holds rows of that day."""
    if database.check_ready().edition is not Edition.POSTGRESQL:
        pytest.skip("TimescaleDB makes its chunks itself")
    old = now - timedelta(days=9)
    servers.execute(
        database_url,
        "CREATE TABLE analytics.rest (LIKE analytics.usage_events INCLUDING DEFAULTS)",
        "ALTER TABLE analytics.usage_events ATTACH PARTITION analytics.rest DEFAULT",
        "INSERT INTO analytics.rest (event_id, event_time, user_id, team, service, provider, model, total_tokens)"
        f" VALUES (gen_random_uuid(), '{old}', 'u', 't', 's', 'p', 'm', 1)",
    )
    batch = [event(event_time=now), event(event_time=old), event(event_time=now)]

    assert (await store(writer, USAGE_EVENTS, batch)).outcomes == {1: Outcome.UNSTORABLE}
    assert (await store(writer, USAGE_EVENTS, batch[1:2])).outcomes == {0: Outcome.UNSTORABLE}
    assert servers.query(database_url, COUNT) == [(3, 3)]


async def test_row_level_security_is_obeyed(
    writer: BatchWriter, database: Database, database_url: DatabaseUrl, now: datetime
) -> None:
    if database.check_ready().edition is Edition.TIMESCALEDB:
        pytest.skip("tables with a columnstore have none")
    servers.execute(
        database_url,
        "CREATE POLICY allowed ON analytics.usage_events USING (true) WITH CHECK (model <> 'forbidden')",
        "ALTER TABLE analytics.usage_events ENABLE ROW LEVEL SECURITY",
    )

    assert (await store(writer, USAGE_EVENTS, [event(event_time=now)])).outcomes == {}
    assert servers.query(database_url, COUNT) == [(1, 1)]


async def test_a_narrower_interval_fits_in_between_wider_partitions(
    database: Database, database_url: DatabaseUrl, now: datetime
) -> None:
    if database.check_ready().edition is not Edition.POSTGRESQL:
        pytest.skip("TimescaleDB makes its chunks itself")
    noon = now.replace(hour=12, minute=0, second=0)
    wide = BatchWriter(database, chunk_interval=timedelta(hours=48))
    narrow = BatchWriter(database, chunk_interval=timedelta(hours=5))
    wide_again = BatchWriter(database, chunk_interval=timedelta(hours=72))

    await store(wide, USAGE_EVENTS, [event(event_time=noon)])
    await store(narrow, USAGE_EVENTS, [event(event_time=noon - timedelta(hours=h)) for h in range(0, 100, 3)])
    await store(wide_again, USAGE_EVENTS, [event(event_time=noon - timedelta(hours=h)) for h in range(0, 300, 7)])

    ranges = servers.query(
        database_url,
        "SELECT lower_bound, upper_bound, lag(upper_bound) OVER (ORDER BY lower_bound) FROM analytics.partitions"
        " WHERE table_name = 'usage_events' ORDER BY lower_bound",
    )
    assert all(lower < upper for lower, upper, _ in ranges)  # type: ignore[operator]
    assert all(before is None or before <= lower for lower, _, before in ranges)  # type: ignore[operator]
    assert servers.query(database_url, COUNT) == [(1 + 34 + 43, 1 + 34 + 43)]


async def test_late_events_go_into_compressed_chunks_once(
    writer: BatchWriter, database: Database, database_url: DatabaseUrl, now: datetime
) -> None:
    if database.check_ready().edition is not Edition.TIMESCALEDB:
        pytest.skip("this edition has no compression")
    old = now - timedelta(days=20)
    early = [event(event_time=old + timedelta(seconds=k)) for k in range(500)]
    await store(writer, USAGE_EVENTS, early)
    servers.execute(
        database_url,
        "ALTER TABLE analytics.usage_events SET (timescaledb.compress, timescaledb.compress_orderby = 'event_time DESC')",
        "SELECT compress_chunk(chunk) FROM show_chunks('analytics.usage_events') chunk",
    )
    late = [event(event_time=old + timedelta(milliseconds=7 * k)) for k in range(500)]
    mixed = [item for pair in zip(early, late, strict=True) for item in pair]

    stored = await store(writer, USAGE_EVENTS, mixed)

    assert stored.outcomes == dict.fromkeys(range(0, 1000, 2), Outcome.DUPLICATE)
    assert servers.query(database_url, COUNT) == [(1000, 1000)]


async def test_a_lost_connection_is_unavailable_and_the_next_batch_works(
    writer: BatchWriter, database: Database, database_url: DatabaseUrl
) -> None:
    batch = [event()]
    await store(writer, USAGE_EVENTS, batch)
    servers.execute(
        database_url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'",
    )

    with pytest.raises(errors.DatabaseAway):
        await store(writer, USAGE_EVENTS, batch)

    for _ in range(100):
        try:
            again = await store(writer, USAGE_EVENTS, batch)
            break
        except errors.Unavailable:
            await asyncio.sleep(0.05)
    assert again.outcomes == {0: Outcome.DUPLICATE}


async def test_no_free_connection_in_time_is_a_full_queue(writer_url: DatabaseUrl) -> None:
    narrow = Database(writer_url, connections_max=1, timeout_seconds=30, queue_timeout_seconds=0.05)
    await narrow.open()
    try:
        async with narrow.connection():
            with pytest.raises(errors.QueueFull):
                await store(BatchWriter(narrow, chunk_interval=timedelta(hours=24)), USAGE_EVENTS, [event()])
    finally:
        await narrow.close()


async def test_a_commit_waits_for_the_disk_whatever_the_server_defaults_to(
    database_url: DatabaseUrl, writer_url: DatabaseUrl
) -> None:
    servers.execute(
        database_url,
        f"ALTER DATABASE {database_url.reveal().partition('?')[0].rpartition('/')[2]} SET synchronous_commit = off",
    )
    opened = Database(writer_url, connections_max=1, timeout_seconds=30, queue_timeout_seconds=5)
    await opened.open()
    try:
        async with opened.connection() as connection:
            assert await connection.fetchval("SHOW synchronous_commit") == "on"
    finally:
        await opened.close()


# Whatever text and JSON the structs and rules let through: the database takes it, all of it, as it is.
_TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=300)
_DIMENSION = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=256)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False, allow_infinity=False) | _TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize("way", ["new ids", "any ids"])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
async def test_what_passes_the_rules_never_makes_the_database_refuse(
    writer: BatchWriter, database_url: DatabaseUrl, now: datetime, way: str, data: st.DataObject
) -> None:
    if way == "any ids":
        await make_cautious(writer)
    batch: list[UsageEvent] = data.draw(
        st.lists(
            st.builds(
                event,
                event_id=st.uuids(),
                event_time=st.timedeltas(timedelta(days=-3), timedelta(minutes=5)).map(lambda age: now + age),
                user_id=_DIMENSION,
                team=_DIMENSION,
                service=_DIMENSION,
                provider=_DIMENSION,
                model=_DIMENSION,
                total_tokens=st.integers(0, 2**31 - 1),
                latency_ms=st.none() | st.integers(0, 2**31 - 1),
                status_code=st.none() | st.integers(100, 599),
                error_type=st.none() | _TEXT.map(lambda text: text[:256]),
                prompt=st.none() | _TEXT,
                extra=st.dictionaries(_TEXT, _JSON, max_size=4),
            ),
            min_size=1,
            max_size=20,
            unique_by=lambda item: item.event_id,
        )
    )

    stored = await store(writer, USAGE_EVENTS, batch)

    assert Outcome.UNSTORABLE not in stored.outcomes.values()
    rows = servers.query(
        database_url,
        "SELECT event_id, prompt FROM analytics.usage_events WHERE event_id = ANY (%s)",
        [item.event_id for item in batch],
    )
    found = {row[0]: row[1] for row in rows}
    assert all(found[item.event_id] == item.prompt for k, item in enumerate(batch) if k not in stored.outcomes)
