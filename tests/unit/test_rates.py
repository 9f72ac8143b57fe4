"""A rate is kept over any minute, by all who share the memory."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.flow import rates
from ingest.flow.rates import Rates


class Clock:
    def __init__(self, seconds: float = 1000.0) -> None:
        self.seconds = seconds

    def __call__(self) -> float:
        return self.seconds


def test_a_minute_s_requests_may_come_at_once_and_then_one_by_one() -> None:
    clock = Clock()
    counted = Rates(clock=clock)

    assert [counted.count(7, 4) for _ in range(4)] == [0.0] * 4
    assert counted.count(7, 4) == pytest.approx(15)
    clock.seconds += 14.9
    assert counted.count(7, 4) == pytest.approx(0.1)
    clock.seconds += 0.2
    assert counted.count(7, 4) == 0.0
    assert counted.count(7, 4) == pytest.approx(14.9)


def test_keys_are_counted_apart() -> None:
    counted = Rates(clock=Clock())

    assert [counted.count(number, 1) for number in (0, 1, rates.SLOTS - 1)] == [0.0, 0.0, 0.0]
    assert counted.count(rates.SLOTS, 1) > 0, "the one after the last shares the first one's"


def test_who_shares_the_memory_counts_together() -> None:
    descriptor = rates.share()
    try:
        clock = Clock()
        one, other = Rates(descriptor, clock=clock), Rates(descriptor, clock=clock)
    finally:
        os.close(descriptor)

    assert one.count(3, 2) == other.count(3, 2) == 0.0
    assert one.count(3, 2) == other.count(3, 2) > 0


@given(st.integers(1, 1_000_000), st.lists(st.floats(0, 100), max_size=300))
def test_no_more_pass_than_a_full_bucket_and_what_refills_it(per_minute: int, pauses: list[float]) -> None:
    clock = Clock()
    counted = Rates(clock=clock)
    passed = 0
    for pause in pauses:
        clock.seconds += pause
        wait_seconds = counted.count(1, per_minute)
        assert 0 <= wait_seconds <= 60 / per_minute + 1e-3
        passed += wait_seconds == 0

    assert passed <= per_minute + sum(pauses) * per_minute / 60 + 1
