"""What is known to be wrong is not sent to the store, the rest is, once; and what comes of it is said."""

from datetime import UTC, datetime
from functools import partial
from uuid import uuid4

import pytest

from ingest import errors
from ingest.events import MESSAGE_ARCHIVES, USAGE_EVENTS, Stream
from ingest.flow.admission import Admission
from ingest.flow.batch import Batch, Rows, Stored
from ingest.flow.intake import Intake
from ingest.store import rows
from ingest.verdict import Outcome, Rejection
from tests import samples

EVENTS_FROM = datetime(2025, 1, 1, tzinfo=UTC)


class FakeStore:
    """A BatchStore that answers what it was told to, and remembers what it was asked (ingest.flow.batch.BatchStore)."""

    def __init__(self, outcomes: dict[int, Outcome] | None = None, *, committed: bool = True) -> None:
        self.answer = Stored(outcomes or {}, committed)
        self.problem: errors.IngestError | None = None
        self.asked: list[tuple[Stream, Rows, bool]] = []

    def check_ready(self) -> None:
        if self.problem is not None:
            raise self.problem

    def events_from(self) -> datetime | None:
        return EVENTS_FROM

    async def store(self, stream: Stream, batch: Rows, *, strict: bool) -> Stored:
        self.asked.append((stream, batch, strict))
        self.check_ready()
        return self.answer


def rejection(index: int) -> Rejection:
    return Rejection(index=index, event_id=None, code="invalid_field", field="team", message="Wrong.")


def batch(good: int, bad: int = 0, *, strict: bool = False, stream: Stream = USAGE_EVENTS) -> Batch:
    """A batch whose bad items stand first."""
    sample = samples.event if stream is USAGE_EVENTS else partial(samples.archive, uuid4())
    return Batch(
        stream=stream,
        received=good + bad,
        rows=rows.encode(stream, [sample() for _ in range(good)]),
        indices=range(bad, bad + good),
        sanitized=frozenset({bad}) if good else frozenset(),
        rejections=[rejection(index) for index in range(bad)],
        strict=strict,
    )


def intake(store: FakeStore) -> Intake:
    return Intake(store, Admission(1000))


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("stream", [USAGE_EVENTS, MESSAGE_ARCHIVES], ids=lambda stream: stream.name)
async def test_a_good_batch_is_stored_once_as_it_is(stream: Stream, strict: bool) -> None:
    store = FakeStore()
    given = batch(3, strict=strict, stream=stream)

    verdict = await intake(store).take(given)

    assert store.asked == [(stream, given.rows, strict)]
    assert (verdict.received, verdict.accepted, verdict.sanitized, verdict.errors) == (3, 3, 1, [])


async def test_the_rest_of_a_batch_is_stored_though_some_of_it_is_wrong() -> None:
    store = FakeStore({0: Outcome.DUPLICATE, 2: Outcome.CONFLICT})

    verdict = await intake(store).take(batch(3, bad=2))

    assert len(store.asked) == 1
    assert (verdict.received, verdict.accepted, verdict.duplicates, verdict.conflicts, verdict.rejected) == (5, 1, 1, 1, 2)
    assert [error.index for error in verdict.errors] == [0, 1, 4]


async def test_a_strict_batch_with_a_bad_item_never_reaches_the_store() -> None:
    store = FakeStore()

    verdict = await intake(store).take(batch(3, bad=1, strict=True))

    assert store.asked == []
    assert (verdict.received, verdict.rejected, verdict.accepted) == (4, 4, 0)
    assert [error.index for error in verdict.errors] == [0]


async def test_a_strict_batch_that_the_store_refuses_is_rejected_as_a_whole() -> None:
    store = FakeStore({1: Outcome.UNKNOWN_EVENT}, committed=False)

    verdict = await intake(store).take(batch(3, strict=True))

    assert (verdict.received, verdict.rejected, verdict.sanitized) == (3, 3, 0)
    assert [(error.index, error.code) for error in verdict.errors] == [(1, "unknown_event")]


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("bad", [0, 3])
async def test_a_batch_without_a_good_item_never_reaches_the_store(bad: int, strict: bool) -> None:
    store = FakeStore()

    verdict = await intake(store).take(batch(0, bad, strict=strict))

    assert store.asked == []
    assert (verdict.received, verdict.rejected, verdict.all_rejected) == (bad, bad, bad > 0)


async def test_a_store_that_is_away_is_no_verdict() -> None:
    store = FakeStore()
    store.problem = errors.DatabaseAway("gone")

    with pytest.raises(errors.DatabaseAway):
        await intake(store).take(batch(1))


def test_requests_are_let_in_while_the_store_is_ready() -> None:
    admission = Admission(1000)
    taking = Intake(FakeStore(), admission)

    taking.check_open()
    with taking.admit() as reservation:
        reservation.grow(10)
        assert admission.bytes_held == 10


def test_nobody_is_let_in_while_the_store_is_not_ready() -> None:
    store = FakeStore()
    store.problem = errors.NotReady("waiting")
    taking = intake(store)

    for enter in (taking.check_open, taking.admit):
        with pytest.raises(errors.NotReady):
            enter()


def test_nobody_is_let_in_while_the_process_drains() -> None:
    admission = Admission(1000)
    taking = Intake(FakeStore(), admission)
    admission.close()

    for enter in (taking.check_open, taking.admit):
        with pytest.raises(errors.Draining):
            enter()


def test_what_the_store_has_forgotten_is_passed_on() -> None:
    assert intake(FakeStore()).events_from() == EVENTS_FROM
