"""Comparisons: who has a turn when, and what becomes of the figures."""

from collections import Counter
from datetime import UTC, datetime
from random import Random

import msgspec
import pytest

from benchmarks import comparison, programs, rounds
from benchmarks.bodies import Bodies
from benchmarks.comparison import Ratio
from benchmarks.postgres import Costs
from benchmarks.rounds import Meter, Plan, Round, Turn

NOW = datetime(2025, 11, 24, 12, tzinfo=UTC)
PLAN = Plan(batch=10, connections=2, requests=20)


def turn(seconds=1.0, **fields) -> Turn:
    whole = Turn(
        events=100,
        seconds=seconds,
        generator_cpu_seconds=0.001,
        program_cpu_seconds=0.002,
        database_cpu_seconds=None,
        wal_bytes=5000,
        sent=110,
        stored=110,
        ids=110,
    )
    return msgspec.structs.replace(whole, **fields)


class Remembering:
    """A target that notes when it was asked for what."""

    def __init__(self, name: str, asked: list[tuple[str, Round]]) -> None:
        self.name = name
        self._asked = asked

    def run(self, this: Round) -> Turn:
        self._asked.append((self.name, this))
        return turn(seconds=float(len(self._asked)))


def test_in_every_round_each_target_has_a_turn_in_an_order_of_its_own():
    asked: list[tuple[str, Round]] = []
    targets = [Remembering(name, asked) for name in "abcd"]
    turns = rounds.run(targets, PLAN, Bodies(1, 10), rounds=8, random=Random(3))
    orders = ["".join(name for name, _ in asked[k : k + 4]) for k in range(0, 32, 4)]
    assert {"".join(sorted(order)) for order in orders} == {"abcd"}
    assert len(set(orders)) > 3
    assert [len(turns[name]) for name in "abcd"] == [8] * 4
    # Turn k of each is of round k.
    assert [turns["a"][k].seconds for k in range(8)] == [4 * k + orders[k].index("a") + 1 for k in range(8)]


def test_all_targets_get_the_same_events_and_every_round_others():
    asked: list[tuple[str, Round]] = []
    rounds.run([Remembering(name, asked) for name in "ab"], PLAN, Bodies(1, 10), rounds=3, random=Random(3))
    contents = [this.contents for _, this in asked]
    assert contents[0] == contents[1]
    assert len({content for each in contents for content in each}) == 3 * (PLAN.warmup + PLAN.requests)


def test_a_share_is_the_beginning_of_the_same_events():
    this = Round(PLAN, Bodies(1, 10), 100, NOW)
    assert this.numbers(1.0) == range(100, 124)
    assert this.numbers(0.5) == range(100, 114)
    assert this.numbers(0.0) == range(100, 106)  # one for each connection, at least
    assert len(this.contents) == 24


def test_the_meter_tells_what_the_time_in_between_has_cost():
    costs = iter([Costs(cpu_seconds=1.5, wal_bytes=100), Costs(cpu_seconds=4.0, wal_bytes=350)])
    meter = Meter(database=lambda: next(costs))
    with meter.measuring(50):
        pass
    assert (meter.turn.events, meter.turn.database_cpu_seconds, meter.turn.wal_bytes) == (50, 2.5, 250)
    assert meter.turn.program_cpu_seconds is None
    assert meter.turn.seconds > 0


def test_a_database_that_can_not_be_seen_has_no_costs():
    costs = iter([Costs(), Costs(wal_bytes=350)])
    meter = Meter(database=lambda: next(costs))
    with meter.measuring(50):
        pass
    assert meter.turn.database_cpu_seconds is meter.turn.wal_bytes is None


def test_the_meter_counts_the_cpu_of_the_program(monkeypatch):
    used = iter([10.0, 12.5])
    monkeypatch.setattr(programs, "cpu_seconds", lambda pids: next(used))
    meter = Meter(pids=lambda: [1])
    with meter.measuring(100):
        pass
    assert meter.turn.program_cpu_seconds == 2.5
    assert meter.turn.each_us(meter.turn.program_cpu_seconds) == 25_000


def test_ratios_are_those_of_the_rounds():
    turns = {"ours": [turn(2.0), turn(4.0), turn(1.0)], "other": [turn(1.0), turn(1.0), turn(3.0)]}
    assert comparison.ratios(turns, Ratio("ours", "other")) == [0.5, 0.25, 3.0]
    [row] = comparison.ratio_table(turns, [Ratio("ours", "other")]).rows
    assert row == ["ours / other", 0.5, 0.25, 3.0]


def test_a_row_of_the_throughput():
    turns = {"ours": [turn(2.0), turn(4.0), turn(1.0)]}
    [row] = comparison.throughput_table(turns, "T").rows
    assert row == ["ours", 50.0, 25.0, 100.0, pytest.approx(20), None, pytest.approx(10), 50.0]


def test_the_plots_have_every_target_and_round():
    turns = {"ours": [turn(2.0), turn(4.0)], "other": [turn(1.0), turn(1.0)]}
    medians, by_round = comparison.throughput_plots(turns)
    assert (medians.series[0].x, medians.series[0].y) == (["ours", "other"], [37.5, 100.0])
    assert {series.name: list(series.y) for series in by_round.series} == {"ours": [50.0, 25.0], "other": [100.0, 100.0]}
    assert len(comparison.throughput_plots({"ours": [turn()]})) == 1


@pytest.mark.parametrize(
    ("fields", "complete"),
    [
        ({}, True),
        ({"ids": None}, True),
        ({"stored": None, "ids": None}, True),
        ({"stored": 109}, False),
        ({"stored": 111}, False),
        ({"ids": 109}, False),
    ],
)
def test_what_is_stored_is_held_against_what_was_sent(fields, complete):
    check = comparison.storage_check({"ours": [turn()], "other": [turn(), turn(**fields)]})
    assert check.passed is complete
    assert ("other in round 2: 110 sent" in check.detail) is not complete
    assert Counter(check.detail)[";"] == 0
