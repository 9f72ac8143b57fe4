"""Batches share a transaction where they wait anyway, and each gets its own outcome, whatever becomes of the others."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest import errors
from ingest.events import MESSAGE_ARCHIVES, USAGE_EVENTS, Stream
from ingest.flow import group_commit
from ingest.flow.batch import Rows, StoreApart, Stored
from ingest.flow.group_commit import GroupCommit
from ingest.store import rows
from ingest.verdict import Outcome
from tests import samples

EVENTS_FROM = datetime(2025, 1, 1, tzinfo=UTC)


def batch(number: int, count: int = 1, prompt: str | None = None) -> Rows:
    """Rows that can be told from those of any other number."""
    ids = (UUID(int=(number << 64) + k) for k in range(count))
    return rows.encode(USAGE_EVENTS, [samples.event(event_id=event_id, prompt=prompt) for event_id in ids])


def number_of(batch: Rows) -> int:
    return int.from_bytes(batch.event_ids[0]) >> 64


def stored(number: int) -> Stored:
    """An outcome that no other batch has."""
    return Stored({number: Outcome.DUPLICATE})


class Call:
    """One group in the hands of the store, until the test says what became of it."""

    def __init__(self, stream: Stream, group: Sequence[Rows], strict: bool) -> None:
        self.stream = stream
        self.group = list(group)
        self.numbers = [number_of(batch) for batch in group]
        self.strict = strict
        self.result: asyncio.Future[Sequence[Stored]] = asyncio.get_running_loop().create_future()

    def succeed(self) -> None:
        self.result.set_result([stored(number) for number in self.numbers])

    def fail(self, problem: Exception) -> None:
        self.result.set_exception(problem)


class FakeStore:
    """A store that holds every group until it is told what to do with it (ingest.flow.batch.GroupStore)."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.problem: errors.Unavailable | None = None

    @property
    def numbers(self) -> list[list[int]]:
        """The groups that came so far."""
        return [call.numbers for call in self.calls]

    @property
    def in_work(self) -> list[Call]:
        return [call for call in self.calls if not call.result.done()]

    def check_ready(self) -> None:
        if self.problem is not None:
            raise self.problem

    def events_from(self) -> datetime | None:
        return EVENTS_FROM

    async def store_group(self, stream: Stream, group: Sequence[Rows], *, strict: bool) -> Sequence[Stored]:
        call = Call(stream, group, strict)
        self.calls.append(call)
        return await call.result


async def settle() -> None:
    """Lets everything run that need not wait for the store."""
    for _ in range(20):
        await asyncio.sleep(0)


async def succeed_all(store: FakeStore) -> None:
    """Until nothing is in work any more."""
    await settle()
    while store.in_work:
        store.in_work[0].succeed()
        await settle()


def commit_on(
    store: FakeStore,
    *,
    writers_max: int = 1,
    queued_rows_max: int = 1000,
    queued_bytes_max: int = 10**9,
    queue_timeout_seconds: float = 60,
) -> GroupCommit:
    return GroupCommit(
        store,
        writers_max=writers_max,
        queued_rows_max=queued_rows_max,
        queued_bytes_max=queued_bytes_max,
        queue_timeout_seconds=queue_timeout_seconds,
    )


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


@pytest_asyncio.fixture
async def commit(store: FakeStore) -> AsyncIterator[GroupCommit]:
    """With one writer. Whatever a test does, no row may count as waiting after it."""
    commit = commit_on(store)
    yield commit
    await succeed_all(store)
    assert commit.queued_rows == 0


def ask(commit: GroupCommit, rows: Rows, *, stream: Stream = USAGE_EVENTS, strict: bool = False) -> "asyncio.Task[Stored]":
    return asyncio.create_task(commit.store(stream, rows, strict=strict))


async def ask_each(commit: GroupCommit, *numbers: int) -> "list[asyncio.Task[Stored]]":
    """Asks for a row of each number, in this order."""
    asked = [ask(commit, batch(number)) for number in numbers]
    await settle()
    return asked


# --- who goes together ------------------------------------------------------------------------------------------------


async def test_a_lone_batch_is_stored_at_once_and_alone(commit: GroupCommit, store: FakeStore) -> None:
    rows = batch(1, count=3)
    asked = ask(commit, rows)
    await settle()

    (call,) = store.calls
    assert (call.stream, call.group, call.strict) == (USAGE_EVENTS, [rows], False)
    assert commit.queued_rows == 0  # in work, it waits no more
    assert not asked.done()
    call.succeed()
    assert await asked == stored(1)


async def test_what_arrives_while_the_writers_are_busy_goes_together_in_order(commit: GroupCommit, store: FakeStore) -> None:
    first = await ask_each(commit, 1)
    rest = await ask_each(commit, 2, 3, 4)

    assert store.numbers == [[1]]
    assert commit.queued_rows == 3
    await succeed_all(store)
    assert store.numbers == [[1], [2, 3, 4]]
    assert await asyncio.gather(*first, *rest) == [stored(number) for number in (1, 2, 3, 4)]


async def test_who_asks_again_as_soon_as_he_is_answered_is_stored_at_once(commit: GroupCommit, store: FakeStore) -> None:
    """The writer that just answered him is about to end: it must not count as one that will look at the queue again."""

    async def one_after_the_other() -> list[Stored]:
        return [await commit.store(USAGE_EVENTS, batch(number), strict=False) for number in range(1, 5)]

    asked = asyncio.create_task(one_after_the_other())
    await succeed_all(store)

    assert store.numbers == [[1], [2], [3], [4]]
    assert await asked == [stored(number) for number in range(1, 5)]


async def test_nothing_is_left_lying_whatever_the_turn_of_the_loop_it_comes_in(store: FakeStore) -> None:
    for turns in range(12):
        commit = commit_on(store)
        await ask_each(commit, 1)
        store.in_work[0].succeed()
        for _ in range(turns):
            await asyncio.sleep(0)
        asked = await ask_each(commit, 2)
        await succeed_all(store)
        assert [task.done() for task in asked] == [True], turns


async def test_two_streams_never_share_a_group(commit: GroupCommit, store: FakeStore) -> None:
    await ask_each(commit, 0)
    streams = {1: USAGE_EVENTS, 2: MESSAGE_ARCHIVES, 3: USAGE_EVENTS, 4: MESSAGE_ARCHIVES}
    asked = [ask(commit, batch(number), stream=stream) for number, stream in streams.items()]
    await succeed_all(store)

    assert [(call.stream, call.numbers) for call in store.calls[1:]] == [(USAGE_EVENTS, [1, 3]), (MESSAGE_ARCHIVES, [2, 4])]
    assert await asyncio.gather(*asked) == [stored(number) for number in streams]


@pytest.mark.parametrize("strict", [{1}, {2}, {4}, {1, 2}, {2, 3}, {1, 4}, {1, 2, 3, 4}], ids=str)
async def test_one_that_asks_for_all_or_nothing_goes_alone(commit: GroupCommit, store: FakeStore, strict: set[int]) -> None:
    await ask_each(commit, 0)
    asked = [ask(commit, batch(number), strict=number in strict) for number in range(1, 5)]
    await succeed_all(store)

    assert {call.numbers[0] for call in store.calls if call.strict} == strict
    assert all(len(call.numbers) == 1 for call in store.calls if call.strict)
    assert sorted(number for call in store.calls for number in call.numbers) == list(range(5))
    assert await asyncio.gather(*asked) == [stored(number) for number in range(1, 5)]


@pytest.mark.parametrize(
    ("counts", "groups"),
    [
        ([5, 5, 1], [[1, 2], [3]]),
        ([4, 4, 4, 4], [[1, 2], [3, 4]]),
        ([1] * 11, [[1, 2, 3, 4, 5, 6, 7, 8, 9, 10], [11]]),
        ([11, 1], [[1], [2]]),
        ([1, 11, 1], [[1], [2], [3]]),
        ([10, 10], [[1], [2]]),
    ],
)
async def test_a_group_has_so_many_rows_and_a_larger_batch_goes_alone(
    commit: GroupCommit, store: FakeStore, monkeypatch: pytest.MonkeyPatch, counts: list[int], groups: list[list[int]]
) -> None:
    monkeypatch.setattr(group_commit, "GROUP_ROWS_MAX", 10)
    await ask_each(commit, 0)
    asked = [ask(commit, batch(number, count)) for number, count in enumerate(counts, 1)]
    await succeed_all(store)

    assert store.numbers[1:] == groups
    assert len(await asyncio.gather(*asked)) == len(counts)


@pytest.mark.parametrize(
    ("sizes", "groups"),
    [([3000, 3000, 3000], [[1, 2], [3]]), ([12_000, 1], [[1], [2]]), ([1, 12_000, 1], [[1], [2], [3]])],
)
async def test_a_group_has_so_many_bytes_and_a_larger_batch_goes_alone(
    commit: GroupCommit, store: FakeStore, monkeypatch: pytest.MonkeyPatch, sizes: list[int], groups: list[list[int]]
) -> None:
    monkeypatch.setattr(group_commit, "GROUP_BYTES_MAX", 8000)
    await ask_each(commit, 0)
    asked = [ask(commit, batch(number, prompt="x" * size)) for number, size in enumerate(sizes, 1)]
    await succeed_all(store)

    assert store.numbers[1:] == groups
    assert len(await asyncio.gather(*asked)) == len(sizes)


async def test_a_further_writer_starts_when_as_many_rows_wait_as_are_being_written(
    store: FakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_commit, "FURTHER_WRITER_SECONDS", 60)
    commit = commit_on(store, writers_max=10)

    asked = await ask_each(commit, 1)  # alone
    asked += await ask_each(commit, 2)  # one is being written
    asked += await ask_each(commit, 3)  # two are
    assert store.numbers == [[1], [2]]
    asked += await ask_each(commit, 4)
    assert store.numbers == [[1], [2], [3, 4]]
    asked += await ask_each(commit, 5, 6, 7)
    assert store.numbers == [[1], [2], [3, 4]]
    asked += await ask_each(commit, 8)
    assert store.numbers == [[1], [2], [3, 4], [5, 6, 7, 8]]

    await succeed_all(store)
    assert await asyncio.gather(*asked) == [stored(number) for number in range(1, 9)]


async def test_so_many_rows_wait_for_no_writer_that_is_busy(store: FakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_commit, "FURTHER_WRITER_SECONDS", 60)
    monkeypatch.setattr(group_commit, "FURTHER_WRITER_ROWS", 20)
    commit = commit_on(store, writers_max=10)

    asked = [ask(commit, batch(1, count=500))]
    await settle()
    asked.append(ask(commit, batch(2, count=19)))
    await settle()
    assert store.numbers == [[1]]
    asked += await ask_each(commit, 3)
    assert store.numbers == [[1], [2, 3]]

    await succeed_all(store)
    assert await asyncio.gather(*asked) == [stored(number) for number in (1, 2, 3)]


async def test_what_does_not_fit_in_a_group_gets_a_writer_of_its_own(
    store: FakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_commit, "FURTHER_WRITER_SECONDS", 60)
    commit = commit_on(store, writers_max=10)

    monkeypatch.setattr(group_commit, "FURTHER_WRITER_ROWS", 3)
    asked = [ask(commit, batch(1, count=500))]
    await settle()

    asked += [ask(commit, batch(2)), ask(commit, batch(3), stream=MESSAGE_ARCHIVES), ask(commit, batch(4), strict=True)]
    await settle()
    assert store.numbers == [[1], [2], [3], [4]]

    await succeed_all(store)
    assert await asyncio.gather(*asked) == [stored(number) for number in range(1, 5)]


async def test_a_transaction_that_hangs_holds_up_no_other(store: FakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_commit, "FURTHER_WRITER_SECONDS", 0.2)
    commit = commit_on(store, writers_max=10)
    hanging = ask(commit, batch(1, count=500))
    await settle()

    for number in (2, 3):  # it does so again and again
        asked = ask(commit, batch(number))
        await settle()
        assert len(store.calls) == number - 1
        async with asyncio.timeout(10):
            while len(store.calls) < number:
                await asyncio.sleep(0.001)
        store.in_work[-1].succeed()
        assert await asked == stored(number)

    store.in_work[0].succeed()
    assert await hanging == stored(1)


async def test_no_more_groups_are_in_work_than_there_are_writers(store: FakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_commit, "GROUP_ROWS_MAX", 1)
    commit = commit_on(store, writers_max=3)
    asked = await ask_each(commit, *range(10))

    assert store.numbers == [[0], [1], [2]]
    while store.in_work:
        assert len(store.in_work) == min(3, 10 - sum(call.result.done() for call in store.calls))
        store.in_work[-1].succeed()
        await settle()
    assert store.numbers == [[number] for number in range(10)]
    assert await asyncio.gather(*asked) == [stored(number) for number in range(10)]


# --- the limits of the queue ------------------------------------------------------------------------------------------


async def test_a_full_queue_refuses_at_once_and_takes_again_when_it_has_room(store: FakeStore) -> None:
    commit = commit_on(store, queued_rows_max=10)
    asked = await ask_each(commit, 0)
    asked += [ask(commit, batch(number, 5)) for number in (1, 2)]
    await settle()

    for number in (3, 4):
        refused = ask(commit, batch(number))
        await asyncio.sleep(0)
        with pytest.raises(errors.QueueFull, match="MAX_QUEUED_ROWS is 10"):
            refused.result()
    assert commit.queued_rows == 10
    store.in_work[0].succeed()
    await settle()
    assert commit.queued_rows == 0
    asked += await ask_each(commit, 5)
    await succeed_all(store)
    assert store.numbers == [[0], [1, 2], [5]]
    assert await asyncio.gather(*asked) == [stored(number) for number in (0, 1, 2, 5)]


async def test_a_queue_is_full_by_its_bytes_too(store: FakeStore) -> None:
    commit = commit_on(store, queued_bytes_max=10_000)
    asked = await ask_each(commit, 0)
    asked += [ask(commit, batch(1, prompt="x" * 6000))]
    await settle()

    with pytest.raises(errors.QueueFull):
        await commit.store(USAGE_EVENTS, batch(2, prompt="x" * 6000), strict=False)

    asked += await ask_each(commit, 3)
    await succeed_all(store)
    assert store.numbers == [[0], [1, 3]]
    asked += await ask_each(commit, 4)
    for number in (5, 6):  # all of the room is there again
        asked += [ask(commit, batch(number, prompt="x" * 4000))]
    await succeed_all(store)
    assert store.numbers[2:] == [[4], [5, 6]]
    assert len(await asyncio.gather(*asked)) == 6


async def test_a_batch_larger_than_the_queue_is_taken_where_no_other_waits(store: FakeStore) -> None:
    commit = commit_on(store, queued_rows_max=10, queued_bytes_max=1)
    asked = [ask(commit, batch(0, 20))]
    await settle()
    asked += [ask(commit, batch(1, 20))]
    await settle()

    with pytest.raises(errors.QueueFull):
        await commit.store(USAGE_EVENTS, batch(2), strict=False)

    await succeed_all(store)
    assert await asyncio.gather(*asked) == [stored(0), stored(1)]
    assert commit.queued_rows == 0


async def test_who_waited_too_long_is_sent_away_and_never_stored(store: FakeStore) -> None:
    commit = commit_on(store, queue_timeout_seconds=0.01)
    in_work = await ask_each(commit, 0)
    waiting = await ask_each(commit, 1, 2)

    for task in waiting:
        with pytest.raises(errors.QueueFull, match=r"within 0.01 s \(QUEUE_TIMEOUT_SECONDS\)"):
            await task
    assert not in_work[0].done()  # the clock stopped when a writer took it
    await succeed_all(store)
    last = await ask_each(commit, 3)
    await succeed_all(store)

    assert store.numbers == [[0], [3]]
    assert await asyncio.gather(*in_work, *last) == [stored(0), stored(3)]
    assert commit.queued_rows == 0


async def test_those_who_wait_count_against_the_limit_only_as_long(store: FakeStore) -> None:
    """All that can be held against the queue's room is what is in it: not what was stored, failed, cancelled or sent away."""
    commit = commit_on(store, queued_rows_max=10, queue_timeout_seconds=0.01)
    await ask_each(commit, 0)
    sent_away = await ask_each(commit, 1, 2)
    await asyncio.gather(*sent_away, return_exceptions=True)
    await succeed_all(store)
    await ask_each(commit, 3)
    cancelled, *failed = await ask_each(commit, 4, 5, 6)
    cancelled.cancel()
    store.in_work[0].fail(errors.DatabaseAway("gone"))
    await settle()
    store.in_work[0].fail(RuntimeError("broken"))
    await succeed_all(store)
    assert len(await asyncio.gather(*failed)) == 2
    assert commit.queued_rows == 0

    await ask_each(commit, 7)
    full = ask(commit, batch(8, 10))
    await settle()
    assert commit.queued_rows == 10
    await succeed_all(store)
    assert await full == stored(8)


# --- clients that go --------------------------------------------------------------------------------------------------


async def test_who_goes_while_he_waits_is_not_stored(commit: GroupCommit, store: FakeStore) -> None:
    in_work = await ask_each(commit, 0)
    waiting = await ask_each(commit, 1, 2, 3)
    waiting[1].cancel()
    await settle()
    await succeed_all(store)

    assert store.numbers == [[0], [1, 3]]
    assert await asyncio.gather(*in_work, waiting[0], waiting[2]) == [stored(0), stored(1), stored(3)]


async def test_when_all_who_wait_have_gone_nothing_is_stored(commit: GroupCommit, store: FakeStore) -> None:
    await ask_each(commit, 0)
    for task in await ask_each(commit, 1, 2):
        task.cancel()
    await settle()
    await succeed_all(store)

    assert store.numbers == [[0]]
    again = await ask_each(commit, 3)
    await succeed_all(store)
    assert await asyncio.gather(*again) == [stored(3)]


@pytest.mark.parametrize("ending", ["stored", "away", "broken"])
async def test_who_goes_while_his_batch_is_in_work_disturbs_nobody(
    commit: GroupCommit, store: FakeStore, ending: str
) -> None:
    await ask_each(commit, 0)
    first, second, third = await ask_each(commit, 1, 2, 3)
    store.in_work[0].succeed()
    await settle()
    second.cancel()
    await settle()
    (call,) = store.in_work
    if ending == "stored":
        call.succeed()
    else:
        call.fail(errors.DatabaseAway("gone") if ending == "away" else RuntimeError("broken"))
    await succeed_all(store)

    assert second.cancelled()
    if ending == "away":
        for task in (first, third):
            with pytest.raises(errors.DatabaseAway):
                await task
    else:
        assert [await first, await third] == [stored(1), stored(3)]


# --- groups that fail -------------------------------------------------------------------------------------------------


async def waiting_together(commit: GroupCommit, store: FakeStore, *numbers: int) -> "list[asyncio.Task[Stored]]":
    """Has these batches in work as one group."""
    await ask_each(commit, 0)
    asked = await ask_each(commit, *numbers)
    store.in_work[0].succeed()
    await settle()
    assert store.numbers == [[0], list(numbers)]
    return asked


async def test_a_group_that_could_not_be_stored_is_unavailable_to_all(commit: GroupCommit, store: FakeStore) -> None:
    asked = await waiting_together(commit, store, 1, 2, 3)
    waiting = await ask_each(commit, 4)
    store.in_work[0].fail(errors.DatabaseAway("gone"))
    await settle()

    for task in asked:
        with pytest.raises(errors.DatabaseAway, match="gone"):
            task.result()
    assert store.numbers == [[0], [1, 2, 3], [4]]  # and the next is tried
    await succeed_all(store)
    assert await asyncio.gather(*waiting) == [stored(4)]


async def test_a_group_that_is_to_be_stored_apart_takes_none_of_its_batches_with_it(store: FakeStore) -> None:
    """Not by failing, and not by taking long: each has a writer of its own, and goes before all others."""
    commit = commit_on(store, writers_max=2)
    asked = [ask(commit, batch(1, count=500)), ask(commit, batch(2)), ask(commit, batch(3))]
    await settle()
    waiting = [ask(commit, batch(4, count=200))]
    await settle()
    assert store.numbers == [[1, 2, 3], [4]]
    store.in_work[1].succeed()
    store.in_work[0].fail(StoreApart("one of them"))
    await settle()
    waiting += await ask_each(commit, 5)
    assert store.numbers[2:] == [[1], [2]]
    assert commit.queued_rows == 2  # of the third batch and the fifth

    store.in_work[1].fail(errors.DatabaseBusy("it was the second"))
    await settle()
    assert store.numbers[4:] == [[3]]
    store.in_work[1].succeed()
    await settle()
    assert store.numbers[5:] == [[5]]
    store.in_work[1].succeed()

    assert [await asked[2], *await asyncio.gather(*waiting)] == [stored(3), stored(4), stored(5)]
    with pytest.raises(errors.DatabaseBusy, match="it was the second"):
        await asked[1]
    assert not asked[0].done()
    store.in_work[0].succeed()
    assert await asked[0] == stored(1)
    assert commit.queued_rows == 0


async def test_who_goes_before_his_batch_is_stored_apart_is_not_stored(commit: GroupCommit, store: FakeStore) -> None:
    first, second = await waiting_together(commit, store, 1, 2)
    store.in_work[0].fail(StoreApart("one of them"))
    await settle()
    second.cancel()
    await succeed_all(store)

    assert await first == stored(1)
    assert store.numbers == [[0], [1, 2], [1]]


async def test_a_group_that_fails_for_no_known_reason_is_stored_apart(
    commit: GroupCommit, store: FakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    first, second, third = await waiting_together(commit, store, 1, 2, 3)
    store.in_work[0].fail(RuntimeError("one of them"))
    await settle()

    assert store.numbers[2:] == [[1]]
    store.in_work[0].succeed()
    await settle()
    assert store.numbers[3:] == [[2]]
    store.in_work[0].fail(RuntimeError("it was the second"))
    await settle()
    assert store.numbers[4:] == [[3]]
    store.in_work[0].succeed()

    assert [await first, await third] == [stored(1), stored(3)]
    with pytest.raises(RuntimeError, match="it was the second"):
        await second
    assert "A group of 3 batches failed" in caplog.text


async def test_a_lone_batch_that_fails_for_no_known_reason_fails_alone(commit: GroupCommit, store: FakeStore) -> None:
    (failing,) = await ask_each(commit, 1)
    waiting = await ask_each(commit, 2)
    store.in_work[0].fail(RuntimeError("its own fault"))
    await succeed_all(store)

    with pytest.raises(RuntimeError, match="its own fault"):
        await failing
    assert await asyncio.gather(*waiting) == [stored(2)]


# --- all of it at random ----------------------------------------------------------------------------------------------

FATES = ["stored", "stored", "stored", "stored", "away", "poison"]
"""What becomes of a batch: stored; not now; or an exception that nobody foresaw. The last two befall its whole group."""

requests = st.tuples(
    st.sampled_from([USAGE_EVENTS, MESSAGE_ARCHIVES]),
    st.integers(1, 6),
    st.sampled_from([False, False, False, True]),
    st.sampled_from(FATES),
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), requests),
        st.tuples(st.just("answer"), st.tuples(st.integers(0, 2), st.booleans())),
        st.tuples(st.just("cancel"), st.integers(0, 40)),
        st.tuples(st.just("turn"), st.integers(1, 6)),
    ),
    max_size=60,
)


class Trial:
    """Carries out steps, keeps what it answered, and checks that every batch is told just that."""

    def __init__(self, writers_max: int) -> None:
        self.store = FakeStore()
        self.writers_max = writers_max
        self.commit = commit_on(self.store, writers_max=writers_max, queued_rows_max=20)
        self.tasks: dict[int, asyncio.Task[Stored]] = {}
        self.asked: dict[int, tuple[Stream, int, bool, str]] = {}
        self.told: dict[int, Stored | Exception] = {}

    def ask(self, request: tuple[Stream, int, bool, str]) -> None:
        number = len(self.tasks)
        stream, count, strict, _ = self.asked[number] = request
        self.tasks[number] = ask(self.commit, batch(number, count), stream=stream, strict=strict)

    def answer(self, which: int, is_away: bool) -> None:
        in_work = self.store.in_work
        assert len(in_work) <= self.writers_max
        if not in_work:
            return
        call = in_work[which % len(in_work)]
        fates = [self.asked[number][3] for number in call.numbers]
        if "poison" in fates:
            self._fail(call, RuntimeError(f"poison among {call.numbers}"))
        elif is_away:
            self._fail(call, errors.DatabaseAway(f"all of {call.numbers}"))
        elif "away" in fates:
            self._fail(call, StoreApart("one of them") if len(fates) > 1 else errors.DatabaseBusy(f"only {call.numbers}"))
        else:
            self.told.update((number, stored(number)) for number in call.numbers)
            call.succeed()

    def _fail(self, call: Call, problem: Exception) -> None:
        self.told.update(dict.fromkeys(call.numbers, problem))
        call.fail(problem)

    def cancel(self, number: int) -> None:
        if number in self.tasks:
            self.tasks[number].cancel()

    async def finish(self) -> None:
        await settle()
        while self.store.in_work:
            self.answer(0, False)
            await settle()

    def check_groups(self) -> None:
        for call in self.store.calls:
            asked = [self.asked[number] for number in call.numbers]
            assert {stream for stream, _, _, _ in asked} == {call.stream}
            assert [strict for _, _, strict, _ in asked] == [call.strict] * len(asked)
            assert len(asked) == 1 or (not call.strict and sum(count for _, count, _, _ in asked) <= 10)
            assert [len(rows) for rows in call.group] == [count for _, count, _, _ in asked]

    def check_outcomes(self) -> None:
        """Nobody waits; who was answered got what the store said last of his batch; who was refused was never stored."""
        taken = {number for call in self.store.calls for number in call.numbers}
        for number, task in self.tasks.items():
            assert task.done()
            if task.cancelled():
                continue
            problem = task.exception()
            if isinstance(problem, errors.QueueFull):
                assert number not in taken
            elif problem is not None:
                assert problem is self.told[number]
                assert f"[{number}]" in str(problem) or not isinstance(problem, RuntimeError)  # his own poison, nobody's else
            else:
                assert task.result() == self.told[number]
        assert self.commit.queued_rows == 0


@given(writers_max=st.integers(1, 3), steps=steps)
@settings(max_examples=300, deadline=None)
async def test_every_batch_gets_its_own_outcome(writers_max: int, steps: list[tuple[str, Any]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(group_commit, "GROUP_ROWS_MAX", 10)
        trial = Trial(writers_max)
        for step, argument in steps:
            match step:
                case "ask":
                    trial.ask(argument)
                case "answer":
                    trial.answer(*argument)
                case "cancel":
                    trial.cancel(argument)
                case "turn":
                    for _ in range(argument):
                        await asyncio.sleep(0)
        await trial.finish()
        trial.check_groups()
        trial.check_outcomes()


# --- what the store knows of itself -----------------------------------------------------------------------------------


def test_what_the_store_knows_is_passed_on(store: FakeStore) -> None:
    commit = commit_on(store)

    assert commit.events_from() == EVENTS_FROM
    commit.check_ready()
    store.problem = errors.NotReady("waiting")
    with pytest.raises(errors.NotReady, match="waiting"):
        commit.check_ready()
