"""What is in flight is bounded in bytes, and given back whatever happens."""

from functools import partial
from unittest.mock import Mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest import errors
from ingest.flow.admission import GIVES_WAY_SECONDS, SMALL_BYTES_MAX, Admission, Reservation


def test_bytes_are_held_until_the_request_is_answered() -> None:
    admission = Admission(bytes_max=100)

    with admission.reserve() as reservation:
        reservation.grow(30)
        reservation.grow(20)
        assert admission.bytes_held == 50

    assert admission.bytes_held == 0


def test_bytes_are_given_back_when_a_request_fails() -> None:
    admission = Admission(bytes_max=100)

    def fail_halfway() -> None:
        with admission.reserve() as reservation:
            reservation.grow(30)
            raise errors.BodyUnreadable("garbage")

    with pytest.raises(errors.BodyUnreadable):
        fail_halfway()
    assert admission.bytes_held == 0


def test_exactly_as_much_as_is_allowed_fits() -> None:
    admission = Admission(bytes_max=100)

    with admission.reserve() as reservation:
        reservation.grow(100)

        assert admission.bytes_held == 100


def test_a_byte_more_is_refused_and_not_counted() -> None:
    admission = Admission(bytes_max=100)

    with admission.reserve() as first, admission.reserve() as second:
        first.grow(60)
        with pytest.raises(errors.QueueFull, match="MAX_INFLIGHT_BYTES"):
            second.grow(41)
        assert admission.bytes_held == 60
        second.grow(40)
        assert admission.bytes_held == 100

    assert admission.bytes_held == 0


def test_nobody_is_let_in_while_it_is_full() -> None:
    admission = Admission(bytes_max=100)

    with admission.reserve() as reservation:
        reservation.grow(100)
        with pytest.raises(errors.QueueFull):
            admission.reserve()

    admission.check_open()


def test_whoever_is_inside_goes_on_while_the_process_drains() -> None:
    admission = Admission(bytes_max=100)

    with admission.reserve() as reservation:
        admission.close()
        reservation.grow(10)

        assert (admission.draining, admission.bytes_held) == (True, 10)
    assert admission.bytes_held == 0


def test_nobody_is_let_in_while_the_process_drains() -> None:
    admission = Admission(bytes_max=100)

    admission.close()

    for enter in (admission.check_open, admission.reserve):
        with pytest.raises(errors.Draining):
            enter()


def test_leaving_twice_gives_back_once() -> None:
    admission = Admission(bytes_max=100)

    with admission.reserve() as other:
        other.grow(10)
        reservation = admission.reserve()
        reservation.grow(5)
        for _ in range(2):
            reservation.__exit__(None, None, None)

        assert admission.bytes_held == 10


@given(growths=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 60)), max_size=30))
@settings(max_examples=200, deadline=None)
def test_the_bound_holds_and_everything_comes_back(growths: list[tuple[int, int]]) -> None:
    admission = Admission(bytes_max=100)
    reservations = [admission.reserve() for _ in range(4)]
    held = [0] * 4

    for which, size in growths:
        try:
            reservations[which].grow(size)
        except errors.QueueFull:
            assert sum(held) + size > 100
        else:
            held[which] += size
        assert admission.bytes_held == sum(held) <= 100

    for reservation in reservations:
        with reservation:
            pass
    assert admission.bytes_held == 0


# --- whoever keeps us waiting gives way -------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, to be set."""
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def test_some_room_is_kept_for_small_bodies() -> None:
    admission = Admission(20 * SMALL_BYTES_MAX, large_bytes_max=10 * SMALL_BYTES_MAX)
    with admission.reserve() as large, admission.reserve() as another, admission.reserve() as small:
        large.grow(9 * SMALL_BYTES_MAX)
        another.grow(SMALL_BYTES_MAX)
        with pytest.raises(errors.QueueFull):
            another.grow(1)
        with pytest.raises(errors.QueueFull):
            large.grow(1)

        small.grow(SMALL_BYTES_MAX)

        assert admission.bytes_held == 11 * SMALL_BYTES_MAX
        with pytest.raises(errors.QueueFull):
            small.grow(1)


def test_of_those_that_keep_us_waiting_the_one_goes_that_held_most_for_longest(clock: list[float]) -> None:
    admission = Admission(bytes_max=100)
    interrupted: list[str] = []
    with admission.reserve() as small, admission.reserve() as large, admission.reserve() as new:
        small.grow(10)
        large.grow(80)
        small.begin_waiting(lambda: interrupted.append("small"))
        large.begin_waiting(lambda: interrupted.append("large"))
        clock[0] += GIVES_WAY_SECONDS
        new.grow(20)

        assert interrupted == ["large"]
        assert (admission.bytes_held, large.bytes_held, new.bytes_held) == (30, 0, 20)
        large.end_waiting()
        with pytest.raises(errors.QueueFull):
            large.check_kept()
        with pytest.raises(errors.QueueFull):
            large.grow(1)
        small.check_kept()
    assert admission.bytes_held == 0


def test_as_many_give_way_as_are_needed_and_no_more(clock: list[float]) -> None:
    admission = Admission(bytes_max=100)
    reservations = [admission.reserve() for _ in range(5)]
    gone: list[int] = []
    for number, reservation in enumerate(reservations):
        reservation.grow(20)
        reservation.begin_waiting(partial(gone.append, number))
        clock[0] += GIVES_WAY_SECONDS

    admission.reserve().grow(30)

    assert gone == [0, 1]
    assert admission.bytes_held == 90


def test_nobody_gives_way_in_vain(clock: list[float]) -> None:
    admission = Admission(bytes_max=10_000)
    with admission.reserve() as complete, admission.reserve() as new:
        complete.grow(6_000)
        waiting = [admission.reserve() for _ in range(4_000)]
        for reservation in waiting:
            reservation.grow(1)
            reservation.begin_waiting(lambda: None)
        clock[0] += 100

        with pytest.raises(errors.QueueFull):
            new.grow(4_001)

        assert admission.bytes_held == 10_000
        new.grow(4_000)
        assert sum(reservation.bytes_held for reservation in waiting) == 0


def test_who_gives_way_is_found_in_few_looks(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """One at each of thousands; with one at all of them for each, it took seconds."""
    admission = Admission(bytes_max=4_000)
    for _ in range(4_000):
        reservation = admission.reserve()
        reservation.grow(1)
        reservation.begin_waiting(lambda: None)
    clock[0] += 100
    asked = Mock(wraps=Reservation.waited_seconds)
    monkeypatch.setattr(Reservation, "waited_seconds", lambda *arguments: asked(*arguments))

    admission.reserve().grow(4_000)

    assert admission.bytes_held == 4_000
    assert asked.call_count <= 3 * 4_000


def test_who_has_just_begun_to_wait_stays(clock: list[float]) -> None:
    admission = Admission(bytes_max=100)
    with admission.reserve() as first, admission.reserve() as second:
        first.grow(90)
        first.begin_waiting(lambda: pytest.fail("interrupted"))
        clock[0] += GIVES_WAY_SECONDS / 2
        with pytest.raises(errors.QueueFull):
            second.grow(20)


def test_all_waiting_counts_together(clock: list[float]) -> None:
    admission = Admission(bytes_max=100)
    with admission.reserve() as first, admission.reserve() as second:
        first.grow(90)
        for _ in range(4):
            first.begin_waiting(lambda: None)
            clock[0] += GIVES_WAY_SECONDS / 4
            first.end_waiting()
        first.begin_waiting(lambda: None)
        second.grow(20)
        assert (first.bytes_held, second.bytes_held) == (0, 20)


def test_who_is_not_waited_for_stays(clock: list[float]) -> None:
    admission = Admission(bytes_max=100)
    with admission.reserve() as first, admission.reserve() as second:
        first.grow(90)
        first.begin_waiting(lambda: pytest.fail("interrupted"))
        clock[0] += 100
        first.end_waiting()
        with pytest.raises(errors.QueueFull):
            second.grow(20)


def test_a_full_house_lets_in_who_may_take_the_place_of_another(clock: list[float]) -> None:
    admission = Admission(bytes_max=100)
    with admission.reserve() as first:
        first.grow(100)
        with pytest.raises(errors.QueueFull):
            admission.check_open()
        first.begin_waiting(lambda: None)
        clock[0] += 100
        admission.check_open()
