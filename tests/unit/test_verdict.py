"""The arithmetic of an answer: every item is counted once, and the errors are listed in order, up to a limit."""

from typing import NamedTuple
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest import verdict
from ingest.verdict import ERRORS_LISTED_MAX, Outcome, Rejection


class Known(NamedTuple):
    """What `give` is told of a request."""

    rejections: list[Rejection]
    event_ids: list[bytes]
    indices: list[int]
    outcomes: dict[int, Outcome]
    sanitized: frozenset[int]

    @property
    def received(self) -> int:
        return len(self.rejections) + len(self.event_ids)

    def give(self, *, committed: bool = True) -> verdict.Verdict:
        return verdict.give(
            self.received,
            self.rejections,
            self.event_ids,
            self.indices,
            self.outcomes,
            sanitized=self.sanitized,
            committed=committed,
        )


def rejection(index: int) -> Rejection:
    return Rejection(index=index, event_id=None, code="invalid_field", field="team", message="Wrong.")


def known(fates: list[Outcome | str | None], sanitized: set[int] | None = None) -> Known:
    """A request in which the k-th item met fates[k]: an outcome, "rejected" before the database saw it, or None: stored."""
    indices = [index for index, fate in enumerate(fates) if fate != "rejected"]
    return Known(
        [rejection(index) for index, fate in enumerate(fates) if fate == "rejected"],
        [uuid4().bytes for _ in indices],
        indices,
        {position: fate for position, index in enumerate(indices) if isinstance(fate := fates[index], Outcome)},
        frozenset(sanitized or ()),
    )


FATES: list[Outcome | str | None] = [None, "rejected", *Outcome]

requests = st.lists(st.sampled_from(FATES), max_size=30).flatmap(
    lambda fates: st.builds(known, st.just(fates), st.sets(st.integers(0, len(fates))))
)


@given(request=requests, committed=st.booleans())
@settings(max_examples=300, deadline=None)
def test_every_item_received_is_counted_once(request: Known, committed: bool) -> None:
    given_ = request.give(committed=committed)

    counts = (given_.accepted, given_.duplicates, given_.conflicts, given_.rejected)
    assert given_.received == sum(counts) == request.received
    assert min(counts) >= 0
    assert 0 <= given_.sanitized <= given_.accepted


@given(request=requests)
@settings(max_examples=200, deadline=None)
def test_an_error_is_listed_for_every_rejection_and_conflict_in_the_order_of_the_request(request: Known) -> None:
    given_ = request.give()

    indices = [error.index for error in given_.errors]
    assert indices == sorted(set(indices))
    assert len(given_.errors) == given_.rejected + given_.conflicts
    assert not given_.errors_truncated


def test_each_fate_has_its_count() -> None:
    fates: list[Outcome | str | None] = [None] * 5 + [Outcome.DUPLICATE] * 4 + [Outcome.CONFLICT] * 3 + ["rejected"] * 2
    given_ = known([*fates, Outcome.UNKNOWN_EVENT, Outcome.UNSTORABLE]).give()

    assert (given_.received, given_.accepted, given_.duplicates, given_.conflicts, given_.rejected) == (16, 5, 4, 3, 4)


@pytest.mark.parametrize(
    ("outcome", "field"),
    [(Outcome.CONFLICT, "event_id"), (Outcome.UNKNOWN_EVENT, "event_id"), (Outcome.UNSTORABLE, None)],
)
def test_what_the_database_found_is_listed_with_its_item(outcome: Outcome, field: str | None) -> None:
    request = known(["rejected", None, outcome])

    error = request.give().errors[1]

    assert (error.index, error.event_id) == (2, str(UUID(bytes=request.event_ids[1])))
    assert (error.code, error.field) == (outcome.value, field)
    assert error.message.endswith(".")


def test_duplicates_are_no_errors() -> None:
    given_ = known([Outcome.DUPLICATE, Outcome.DUPLICATE]).give()

    assert (given_.duplicates, given_.errors, given_.all_rejected) == (2, [], False)


def test_rejections_of_both_kinds_are_listed_in_the_order_of_the_request() -> None:
    given_ = known([Outcome.CONFLICT, "rejected", Outcome.UNSTORABLE, None, "rejected", Outcome.UNKNOWN_EVENT]).give()

    assert [(error.index, error.code) for error in given_.errors] == [
        (0, "conflict"),
        (1, "invalid_field"),
        (2, "unstorable"),
        (4, "invalid_field"),
        (5, "unknown_event"),
    ]


@pytest.mark.parametrize(
    ("errors", "listed", "truncated"),
    [
        (0, 0, False),
        (ERRORS_LISTED_MAX, ERRORS_LISTED_MAX, False),
        (ERRORS_LISTED_MAX + 1, ERRORS_LISTED_MAX, True),
        (1000, ERRORS_LISTED_MAX, True),
    ],
)
@pytest.mark.parametrize("fate", ["rejected", Outcome.CONFLICT, Outcome.UNSTORABLE])
def test_only_the_first_hundred_errors_are_listed(fate: Outcome | str, errors: int, listed: int, truncated: bool) -> None:
    fates: list[Outcome | str | None] = [None, *[fate] * errors]
    given_ = known(fates).give()

    assert [error.index for error in given_.errors] == list(range(1, listed + 1))
    assert given_.errors_truncated is truncated
    assert given_.conflicts + given_.rejected == errors


@pytest.mark.parametrize(
    ("fate", "counted"), [(None, 1), *[(outcome, 0) for outcome in Outcome]], ids=lambda value: str(value)
)
def test_an_item_that_was_changed_counts_as_sanitized_only_where_it_is_stored(fate: Outcome | None, counted: int) -> None:
    assert known(["rejected", fate, None], sanitized={1}).give().sanitized == counted


class TestNothingCommitted:
    """Prefer: handling=strict, and one item was wrong."""

    def test_everything_counts_as_rejected(self) -> None:
        request = known([None, "rejected", Outcome.DUPLICATE, Outcome.CONFLICT], sanitized={0})
        given_ = request.give(committed=False)

        assert (given_.received, given_.rejected) == (4, 4)
        assert (given_.accepted, given_.duplicates, given_.conflicts, given_.sanitized) == (0, 0, 0, 0)
        assert given_.all_rejected

    def test_only_the_items_that_were_the_cause_are_listed(self) -> None:
        fates = [None, "rejected", Outcome.DUPLICATE, Outcome.CONFLICT, Outcome.UNKNOWN_EVENT, Outcome.UNSTORABLE]
        given_ = known(fates).give(committed=False)

        assert [(error.index, error.code) for error in given_.errors] == [
            (1, "invalid_field"),
            (4, "unknown_event"),
            (5, "unstorable"),
        ]

    def test_the_list_is_cut_off_at_the_limit_too(self) -> None:
        given_ = known(["rejected"] * (ERRORS_LISTED_MAX + 1)).give(committed=False)

        assert (len(given_.errors), given_.errors_truncated) == (ERRORS_LISTED_MAX, True)


@pytest.mark.parametrize(
    ("fates", "all_rejected"),
    [
        ([], False),
        (["rejected"], True),
        ([Outcome.UNKNOWN_EVENT, "rejected"], True),
        (["rejected", None], False),
        (["rejected", Outcome.DUPLICATE], False),
        (["rejected", Outcome.CONFLICT], False),
    ],
)
def test_all_are_rejected_if_there_were_any_and_none_was_stored_before_or_now(
    fates: list[Outcome | str | None], all_rejected: bool
) -> None:
    assert known(fates).give().all_rejected is all_rejected
