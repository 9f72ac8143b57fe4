"""Groups of batches on real databases: one transaction, and each batch has its own outcome, whichever way it went."""

import asyncio
import logging
import random
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, timezone
from itertools import chain, pairwise
from typing import Any

import psycopg
import pytest
import pytest_asyncio
from msgspec.structs import replace

from ingest import errors
from ingest.events import MESSAGE_ARCHIVES, USAGE_EVENTS, UsageEvent
from ingest.flow.batch import Stored
from ingest.flow.group_commit import GroupCommit
from ingest.settings import DatabaseUrl
from ingest.store import database as databases
from ingest.store import rows
from ingest.store import writer as writing
from ingest.store.database import Database
from ingest.store.editions import Edition
from ingest.store.writer import BatchWriter
from ingest.verdict import Outcome
from tests import servers
from tests.samples import archive, event
from tests.storing import FORBIDDING, make_cautious, refuse, store, store_group

COUNT = "SELECT count(*), count(DISTINCT event_id) FROM analytics.usage_events WHERE team <> 'before'"
LEDGER = "SELECT count(*) FROM analytics.usage_event_ids"

# Which way a group went, as the database saw it: by COPY or by INSERT. What was rolled back leaves no trace here.
NOTE_WAYS = """
    CREATE TABLE public.ways (number integer GENERATED ALWAYS AS IDENTITY, statement text);
    GRANT INSERT ON public.ways TO PUBLIC;
    CREATE FUNCTION public.note_way() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO public.ways (statement) VALUES (current_query());
        RETURN NULL;
    END $$;
    CREATE TRIGGER note_way AFTER INSERT ON analytics.usage_event_ids
        FOR EACH STATEMENT EXECUTE FUNCTION public.note_way();
"""


def ways(database_url: DatabaseUrl) -> list[str]:
    return [
        "new ids" if str(statement).startswith("COPY") else "any ids"
        for (statement,) in servers.query(database_url, "SELECT statement FROM public.ways ORDER BY number")
    ]


@pytest_asyncio.fixture(params=["new ids", "any ids"])
async def either_writer(writer: BatchWriter, request: pytest.FixtureRequest) -> BatchWriter:
    """A writer that tries the one way first, and one that doesn't."""
    if request.param == "any ids":
        await make_cautious(writer)
    return writer


async def test_of_batches_in_one_group_each_gets_its_own_outcome(
    either_writer: BatchWriter, database_url: DatabaseUrl, now: datetime
) -> None:
    known, new, other, last = (event(event_time=now - timedelta(days=k)) for k in range(4))
    await store(either_writer, USAGE_EVENTS, [known])

    outcomes = await store_group(
        either_writer,
        USAGE_EVENTS,
        [
            [known, new, new],
            [replace(new, team="late"), other, replace(known, team="late")],
            [other, last],
            [],
            [replace(last, prompt="late")],
        ],
    )

    assert outcomes == [
        Stored({0: Outcome.DUPLICATE, 2: Outcome.DUPLICATE}),
        Stored({0: Outcome.CONFLICT, 2: Outcome.CONFLICT}),
        Stored({0: Outcome.DUPLICATE}),
        Stored({}),
        Stored({0: Outcome.CONFLICT}),
    ]
    assert servers.query(database_url, COUNT) == [(4, 4)]
    assert servers.query(database_url, "SELECT DISTINCT team FROM analytics.usage_events WHERE team <> 'before'") == [
        ("search",)
    ]


async def test_of_an_id_in_two_batches_of_a_group_the_first_is_stored(
    either_writer: BatchWriter, database_url: DatabaseUrl
) -> None:
    """No id was there before: it is the group that has one twice."""
    one, two = event(), event()

    outcomes = await store_group(either_writer, USAGE_EVENTS, [[one], [two, one], [replace(two, team="late")]])

    assert outcomes == [Stored({}), Stored({1: Outcome.DUPLICATE}), Stored({0: Outcome.CONFLICT})]
    assert servers.query(database_url, COUNT) == [(2, 2)]


async def test_a_group_is_stored_the_same_whichever_way_it_goes(
    writer: BatchWriter, database_url: DatabaseUrl, now: datetime
) -> None:
    servers.execute(database_url, NOTE_WAYS)
    elsewhere = (now - timedelta(days=40)).astimezone(timezone(timedelta(hours=-9, minutes=-30)))
    texts = {"prompt": 'naïve 😀\n\t"\\', "error_type": "", "user_id": "é" * 256}
    contents: list[dict[str, Any]] = [
        {},
        {"event_time": elsewhere + timedelta(microseconds=123456), "total_tokens": None},
        {"latency_ms": 2**31 - 1, "status_code": 599, "total_tokens": 2**31 - 1},
        {"latency_ms": 0, "prompt": "", "extra": {}},
        {"status_code": 100, **texts, "extra": {"é": [1.50, None, {"b": 10**30}], "a": "\x7f\u2028"}},
    ]

    def batches() -> list[list[UsageEvent]]:
        items = [event(**{"event_time": now, **content}) for content in contents]
        return [items[:2], items[2:]]

    new, others = batches(), batches()
    assert await store_group(writer, USAGE_EVENTS, new) == [Stored({}), Stored({})]
    await make_cautious(writer)
    assert await store_group(writer, USAGE_EVENTS, others) == [Stored({}), Stored({})]

    assert ways(database_url) == ["new ids", "new ids", "any ids", "any ids"]
    statement = (
        "SELECT event_time, user_id, team, service, provider, model, total_tokens, latency_ms, status_code, error_type,"
        " prompt, extra::text, created_at - now() < '1 min', ledger.event_time FROM analytics.usage_events"
        " JOIN analytics.usage_event_ids ledger USING (event_id, event_time) WHERE event_id = %s"
    )
    for one, other in zip(chain(*new), chain(*others), strict=True):
        [stored] = servers.query(database_url, statement, one.event_id)
        assert [stored] == servers.query(database_url, statement, other.event_id)
        assert (stored[0], stored[1], stored[6]) == (one.event_time, one.user_id, one.total_tokens or 0)
    for again in (new, others):
        duplicates = [Stored(dict.fromkeys(range(len(batch)), Outcome.DUPLICATE)) for batch in again]
        assert await store_group(writer, USAGE_EVENTS, again) == duplicates


async def test_the_way_of_new_ids_is_left_after_one_that_is_known_and_taken_again(
    writer: BatchWriter, database_url: DatabaseUrl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "CAUTIOUS_GROUPS", 3)
    servers.execute(database_url, NOTE_WAYS)
    known = event()
    await store(writer, USAGE_EVENTS, [known])
    for batch in [[event(), event()], [event(), known], *[[event()] for _ in range(5)]]:
        await store(writer, USAGE_EVENTS, batch)

    assert ways(database_url) == ["new ids"] * 2 + ["any ids"] * 4 + ["new ids"] * 2
    assert servers.query(database_url, COUNT) == [(9, 9)]
    assert servers.query(database_url, LEDGER) == [(9,)]


async def test_all_or_nothing_goes_the_way_of_any_ids(writer: BatchWriter, database_url: DatabaseUrl) -> None:
    servers.execute(database_url, NOTE_WAYS)

    assert await store(writer, USAGE_EVENTS, [event()], strict=True) == Stored({})
    assert await store(writer, USAGE_EVENTS, [event()]) == Stored({})

    assert ways(database_url) == ["any ids", "new ids"]


@pytest.mark.parametrize("rule", ["refused", *FORBIDDING])
async def test_a_row_that_the_database_refuses_costs_nobody_else_in_the_group(
    either_writer: BatchWriter, database_url: DatabaseUrl, now: datetime, rule: str
) -> None:
    good = [event(event_time=now) for _ in range(4)]
    bad = event(event_time=now, model="forbidden")
    await store(either_writer, USAGE_EVENTS, [good[3]])
    if rule == "refused":
        refuse(database_url, [bad])
    else:
        servers.execute(database_url, FORBIDDING[rule])
        if rule == "unique index":
            await store(either_writer, USAGE_EVENTS, [event(event_time=now, model="forbidden", team="before")])

    outcomes = await store_group(either_writer, USAGE_EVENTS, [[good[0], good[3]], [good[1], bad, good[2]], [good[0]], [bad]])

    assert outcomes == [
        Stored({1: Outcome.DUPLICATE}),
        Stored({1: Outcome.UNSTORABLE}),
        Stored({0: Outcome.DUPLICATE}),
        Stored({0: Outcome.UNSTORABLE}),
    ]
    assert servers.query(database_url, COUNT) == [(4, 4)]
    assert servers.query(database_url, f"{LEDGER} WHERE event_id = %s", bad.event_id) == [(0,)]


async def test_archives_of_events_that_are_not_stored_cost_the_others_nothing(
    writer: BatchWriter, database_url: DatabaseUrl, now: datetime
) -> None:
    known = [event() for _ in range(3)]
    await store(writer, USAGE_EVENTS, known)
    ids = [item.event_id for item in known]
    stranger, other = uuid.uuid4(), uuid.uuid4()

    outcomes = await store_group(
        writer,
        MESSAGE_ARCHIVES,
        [
            [archive(ids[0], stored_at=now), archive(stranger)],
            [archive(other, stored_at=now)],
            [archive(ids[1]), archive(ids[0], stored_at=now), archive(stranger)],
            [archive(ids[2], stored_at=now - timedelta(days=3)), archive(ids[1], prompt_full="Other?"), archive(ids[1])],
        ],
    )

    assert outcomes == [
        Stored({1: Outcome.UNKNOWN_EVENT}),
        Stored({0: Outcome.UNKNOWN_EVENT}),
        Stored({1: Outcome.DUPLICATE, 2: Outcome.UNKNOWN_EVENT}),
        Stored({1: Outcome.CONFLICT, 2: Outcome.DUPLICATE}),
    ]
    archived = servers.query(database_url, "SELECT event_id FROM analytics.message_archives")
    assert sorted(row[0] for row in archived) == sorted(ids)  # type: ignore[type-var]


async def test_groups_with_ids_in_common_at_the_same_moment_store_each_once(
    database: Database, database_url: DatabaseUrl, now: datetime, caplog: pytest.LogCaptureFixture
) -> None:
    """Half of the writers go the one way, half the other, each with all the ids in an order of its own."""
    caplog.set_level(logging.INFO)
    order = random.Random(7)
    for _ in range(4):
        writers = [BatchWriter(database, chunk_interval=timedelta(hours=24)) for _ in range(6)]
        await asyncio.gather(*(make_cautious(writer) for writer in writers[::2]))
        shared = [event(event_time=now - timedelta(hours=k % 80)) for k in range(300)]
        groups = [cut(order.sample(shared, len(shared)), order) for _ in writers]

        results = await asyncio.gather(
            *(store_group(writer, USAGE_EVENTS, group) for writer, group in zip(writers, groups, strict=True))
        )

        accepted = [
            item.event_id
            for group, outcomes in zip(groups, results, strict=True)
            for batch, stored in zip(group, outcomes, strict=True)
            for k, item in enumerate(batch)
            if k not in stored.outcomes
        ]
        assert sorted(accepted) == sorted(item.event_id for item in shared)
        found = {outcome for outcomes in results for stored in outcomes for outcome in stored.outcomes.values()}
        assert found == {Outcome.DUPLICATE}
    assert servers.query(database_url, COUNT) == [(1200, 1200)]
    assert "deadlock" not in caplog.text


def cut(items: Sequence[UsageEvent], order: random.Random) -> list[Sequence[UsageEvent]]:
    """The items as four batches of any size."""
    ends = [0, *sorted(order.sample(range(len(items)), 3)), len(items)]
    return [items[start:end] for start, end in pairwise(ends)]


@contextmanager
def claimed_elsewhere(database_url: DatabaseUrl, item: UsageEvent) -> Iterator[psycopg.Connection[Any]]:
    """A transaction that has claimed the event's id. It rolls back at the end, if it was not ended before."""
    with servers.connected(database_url) as other:
        other.execute(
            "INSERT INTO analytics.usage_event_ids (event_id, event_time, fingerprint) VALUES (%s, %s, 1)",
            (item.event_id, item.event_time),
        )
        yield other
        other.rollback()


async def test_who_waits_for_a_claim_that_is_given_up_stores_the_event(
    writer: BatchWriter, database_url: DatabaseUrl, now: datetime
) -> None:
    """Another transaction has one of the ids, and rolls back."""
    batch = [event(event_time=now) for _ in range(3)]
    with claimed_elsewhere(database_url, batch[1]) as other:
        storing = asyncio.create_task(store(writer, USAGE_EVENTS, batch))
        await until_one_waits_for_a_lock(database_url)
        assert not storing.done()
        other.rollback()

    assert await storing == Stored({})
    assert servers.query(database_url, COUNT) == [(3, 3)]


async def test_who_waits_for_a_claim_that_is_kept_stores_the_others(
    writer: BatchWriter, database_url: DatabaseUrl, now: datetime
) -> None:
    batch = [event(event_time=now) for _ in range(3)]
    with claimed_elsewhere(database_url, batch[1]) as other:
        storing = asyncio.create_task(store(writer, USAGE_EVENTS, batch))
        await until_one_waits_for_a_lock(database_url)
        other.commit()

    assert await storing == Stored({1: Outcome.CONFLICT})
    assert servers.query(database_url, COUNT) == [(2, 2)]


async def until_one_waits_for_a_lock(database_url: DatabaseUrl) -> None:
    waiting = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        " AND backend_type = 'client backend'"
    )
    for _ in range(1000):
        if servers.query(database_url, waiting) != [(0,)]:
            return
        await asyncio.sleep(0.01)
    pytest.fail("nobody waits for a lock")


async def test_when_the_server_process_dies_in_the_middle_of_a_group_nothing_of_it_is_stored(
    either_writer: BatchWriter, database: Database, database_url: DatabaseUrl, now: datetime
) -> None:
    commit = GroupCommit(
        either_writer, writers_max=1, queued_rows_max=10_000, queued_bytes_max=10**9, queue_timeout_seconds=60
    )
    batches = [[event(event_time=now - timedelta(minutes=k)) for k in range(50)] for _ in range(5)]

    async def send_each() -> list[Stored | BaseException]:
        return await asyncio.gather(
            *(commit.store(USAGE_EVENTS, rows.encode(USAGE_EVENTS, batch), strict=False) for batch in batches),
            return_exceptions=True,
        )

    with servers.connected(database_url) as other:
        other.execute("LOCK TABLE analytics.usage_events IN SHARE MODE")  # nobody inserts
        sending = asyncio.create_task(send_each())
        await until_one_waits_for_a_lock(database_url)
        servers.execute(
            database_url,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
            " AND wait_event_type = 'Lock' AND backend_type = 'client backend'",
        )
        results = await sending
        other.rollback()

    assert [type(result) for result in results] == [errors.DatabaseAway] * 5
    assert servers.query(database_url, COUNT) == [(0, 0)]
    for _ in range(500):
        results = await send_each()
        if not any(isinstance(result, errors.Unavailable) for result in results):
            break
        await asyncio.sleep(0.02)
    assert results == [Stored({})] * 5
    assert servers.query(database_url, COUNT) == [(250, 250)]
    assert commit.queued_rows == 0


async def test_groups_of_many_clients_store_each_event_once(
    writer: BatchWriter, database_url: DatabaseUrl, now: datetime
) -> None:
    """What a client is told of its own batch is what the database holds: of strict ones, of archives, of repeats."""
    commit = GroupCommit(writer, writers_max=4, queued_rows_max=100_000, queued_bytes_max=10**9, queue_timeout_seconds=60)
    order = random.Random(11)
    pool = [event(event_time=now - timedelta(hours=k)) for k in range(150)]
    batches = [order.sample(pool, order.randrange(1, 12)) for _ in range(120)]

    async def send(number: int, batch: Sequence[UsageEvent]) -> tuple[Stored, Stored]:
        for _ in range(number % 7):
            await asyncio.sleep(0)
        stored = await commit.store(USAGE_EVENTS, rows.encode(USAGE_EVENTS, batch), strict=number % 10 == 0)
        archives = [archive(item.event_id, stored_at=now) for item in batch]
        return stored, await commit.store(MESSAGE_ARCHIVES, rows.encode(MESSAGE_ARCHIVES, archives), strict=False)

    results = await asyncio.gather(*(send(number, batch) for number, batch in enumerate(batches)))

    sent = {item.event_id for batch in batches for item in batch}
    for stream in (0, 1):
        accepted = sum(len(batch) - len(stored[stream].outcomes) for batch, stored in zip(batches, results, strict=True))
        assert accepted == len(sent)
        assert {outcome for stored in results for outcome in stored[stream].outcomes.values()} == {Outcome.DUPLICATE}
    assert servers.query(database_url, COUNT) == [(len(sent), len(sent))]
    count = "SELECT count(*), count(DISTINCT event_id) FROM analytics.message_archives"
    assert servers.query(database_url, count) == [(len(sent), len(sent))]
    assert commit.queued_rows == 0


async def test_an_id_that_another_transaction_holds_for_long_holds_up_no_other_batch(
    writer: BatchWriter, database_url: DatabaseUrl, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(databases, "LOCK_SECONDS_MAX", 0.5)
    commit = GroupCommit(writer, writers_max=4, queued_rows_max=100_000, queued_bytes_max=10**9, queue_timeout_seconds=60)
    held, *others = ([event(event_time=now)] for _ in range(4))

    async def send(batch: Sequence[UsageEvent]) -> Stored:
        return await commit.store(USAGE_EVENTS, rows.encode(USAGE_EVENTS, batch), strict=False)

    with claimed_elsewhere(database_url, held[0]):
        results = await asyncio.gather(*(send(batch) for batch in [held, *others]), return_exceptions=True)

    assert isinstance(results[0], errors.DatabaseBusy)
    assert results[1:] == [Stored({})] * 3
    assert servers.query(database_url, COUNT) == [(3, 3)]
    assert await send(held) == Stored({})  # and the database does not count as gone


async def test_hours_that_a_group_wrote_to_are_noted_for_the_rollups(
    either_writer: BatchWriter, database: Database, database_url: DatabaseUrl, now: datetime
) -> None:
    if database.check_ready().edition is Edition.TIMESCALEDB:
        pytest.skip("this edition notes them itself")
    servers.execute(database_url, "TRUNCATE analytics.usage_changes")
    hour = now.replace(minute=0, second=0)
    zone = timezone(timedelta(hours=5, minutes=45))
    times = [(hour - timedelta(days=k)).astimezone(zone) + timedelta(minutes=59) for k in range(1, 4)]

    await store_group(either_writer, USAGE_EVENTS, [[event(event_time=time)] for time in times])

    noted = servers.query(database_url, "SELECT DISTINCT bucket FROM analytics.usage_changes ORDER BY bucket")
    assert noted == [(hour.astimezone(UTC) - timedelta(days=k),) for k in (3, 2, 1)]


async def test_a_group_of_new_and_late_events_goes_into_compressed_chunks(
    either_writer: BatchWriter, database: Database, database_url: DatabaseUrl, now: datetime
) -> None:
    if database.check_ready().edition is not Edition.TIMESCALEDB:
        pytest.skip("this edition has no compression")
    old = now - timedelta(days=20)
    await store(either_writer, USAGE_EVENTS, [event(event_time=old + timedelta(seconds=k)) for k in range(200)])
    servers.execute(
        database_url,
        "ALTER TABLE analytics.usage_events SET (timescaledb.compress, timescaledb.compress_orderby = 'event_time DESC')",
        "SELECT compress_chunk(chunk) FROM show_chunks('analytics.usage_events') chunk",
    )
    late = [[event(event_time=old + timedelta(milliseconds=7 * k)) for k in range(100)] for _ in range(3)]

    assert await store_group(either_writer, USAGE_EVENTS, late) == [Stored({})] * 3
    again = [Stored(dict.fromkeys(range(100), Outcome.DUPLICATE))] * 3
    assert await store_group(either_writer, USAGE_EVENTS, late) == again
    assert servers.query(database_url, COUNT) == [(500, 500)]
