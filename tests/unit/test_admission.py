"""What is in flight is bounded in bytes, and given back whatever happens."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest import errors
from ingest.flow.admission import Admission


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
