"""What is known to be wrong is not sent to the store, the rest is, once; and what comes of it is said."""

from collections.abc import Mapping, Sequence
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


class FakeTeams:
    """Knows the teams of some events, and remembers what it was asked (ingest.flow.intake.EventTeams)."""

    def __init__(self, teams: Mapping[bytes, str] | None = None) -> None:
        self.teams = teams or {}
        self.asked: list[Sequence[bytes]] = []

    async def teams_of(self, event_ids: Sequence[bytes]) -> Mapping[bytes, str]:
        self.asked.append(event_ids)
        return {event_id: team for event_id, team in self.teams.items() if event_id in event_ids}


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


def intake(store: FakeStore, teams: FakeTeams | None = None) -> Intake:
    return Intake(store, Admission(1000), teams or FakeTeams())


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
    taking = Intake(FakeStore(), admission, FakeTeams())

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
    taking = Intake(FakeStore(), admission, FakeTeams())
    admission.close()

    for enter in (taking.check_open, taking.admit):
        with pytest.raises(errors.Draining):
            enter()


def test_what_the_store_has_forgotten_is_passed_on() -> None:
    assert intake(FakeStore()).events_from() == EVENTS_FROM


async def test_archives_are_stored_only_where_the_event_is_known_to_be_of_the_teams() -> None:
    store = FakeStore()
    ids = [uuid4() for _ in range(4)]
    archives = [samples.archive(event_id) for event_id in ids]
    given = Batch(
        stream=MESSAGE_ARCHIVES,
        received=5,
        rows=rows.encode(MESSAGE_ARCHIVES, archives),
        indices=[0, 1, 3, 4],
        rejections=[rejection(2)],
    )
    teams = FakeTeams({ids[0].bytes: "search", ids[1].bytes: "ads", ids[3].bytes: "search"})

    verdict = await intake(store, teams).take(given, frozenset({"search"}))

    assert (verdict.accepted, verdict.rejected) == (2, 3)
    assert [(error.index, error.code) for error in verdict.errors] == [
        (1, "forbidden_team"),
        (2, "invalid_field"),
        (3, "unknown_event"),
    ]
    assert [error.event_id for error in verdict.errors] == [str(ids[1]), None, str(ids[2])]
    [(_, stored, _)] = store.asked
    assert stored == rows.encode(MESSAGE_ARCHIVES, [archives[0], archives[3]])


async def test_what_the_store_says_of_the_archives_that_are_left_is_said_of_the_right_ones() -> None:
    ids = [uuid4() for _ in range(3)]
    given = Batch(
        stream=MESSAGE_ARCHIVES,
        received=3,
        rows=rows.encode(MESSAGE_ARCHIVES, [samples.archive(event_id) for event_id in ids]),
        indices=range(3),
    )
    teams = FakeTeams({ids[0].bytes: "ads", ids[1].bytes: "search", ids[2].bytes: "search"})

    verdict = await intake(FakeStore({1: Outcome.CONFLICT}), teams).take(given, frozenset({"search"}))

    assert [(error.index, error.code, error.event_id) for error in verdict.errors] == [
        (0, "forbidden_team", str(ids[0])),
        (2, "conflict", str(ids[2])),
    ]


async def test_one_archive_of_another_team_rejects_all_where_that_was_asked_for() -> None:
    store = FakeStore()

    verdict = await intake(store).take(batch(2, strict=True, stream=MESSAGE_ARCHIVES), frozenset({"search"}))

    assert (verdict.rejected, store.asked) == (2, [])


@pytest.mark.parametrize(("stream", "teams"), [(USAGE_EVENTS, frozenset({"search"})), (MESSAGE_ARCHIVES, None)])
async def test_teams_are_looked_up_only_for_archives_of_a_key_that_is_bound_to_some(
    stream: Stream, teams: frozenset[str] | None
) -> None:
    known = FakeTeams()

    verdict = await intake(FakeStore(), known).take(batch(2, stream=stream), teams)

    assert (verdict.accepted, known.asked) == (2, [])
