"""What is sent and when."""

import gzip
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from benchmarks.bodies import Bodies
from benchmarks.generate import trace_rows
from benchmarks.workload import Call, Closed, Steady, Traced, calls_of_trace

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture(scope="module")
def bodies() -> Bodies:
    return Bodies(5, 3)


def calls(*arrived: float) -> list[Call]:
    return [Call(seconds, 100 + place) for place, seconds in enumerate(arrived)]


def events_of(workload, number: int, now: datetime) -> list[dict[str, object]]:
    events: list[dict[str, object]] = msgspec.json.decode(gzip.decompress(workload.body(number, now).content))
    return events


def test_closed_has_no_end_and_no_times(bodies):
    closed = Closed(bodies)
    assert closed.requests is None
    assert closed.due_seconds(1_000_000) is None
    assert len(events_of(closed, 7, NOW)) == 3


def test_steady_keeps_the_rate(bodies):
    steady = Steady(bodies, events_per_second=30, seconds=2)
    assert steady.requests == 20
    assert [steady.due_seconds(number) for number in (0, 1, 19)] == pytest.approx([0, 0.1, 1.9])


def test_a_full_batch_is_sent_at_once_and_a_part_of_one_after_the_flush_time(bodies):
    traced = Traced(bodies, calls(0.0, 0.1, 0.2, 0.25, 5.0, 5.9, 6.1), flush_seconds=1.0)
    assert traced.requests == 4
    assert [traced.due_seconds(number) for number in range(4)] == pytest.approx([0.2, 1.25, 6.0, 7.1])
    assert [len(events_of(traced, number, NOW)) for number in range(4)] == [3, 1, 2, 1]
    assert traced.seconds == pytest.approx(7.1)


def test_events_of_a_trace_have_its_times_and_tokens(bodies):
    traced = Traced(bodies, calls(0.0, 0.25, 0.5, 0.75), flush_seconds=1.0)
    first, second = (events_of(traced, number, NOW) for number in range(2))
    assert [event["total_tokens"] for event in first + second] == [100, 101, 102, 103]
    ago = [NOW - datetime.fromisoformat(str(event["event_time"])) for event in first]
    assert ago == [timedelta(seconds=0.5), timedelta(seconds=0.25), timedelta(0)]
    assert NOW - datetime.fromisoformat(str(second[0]["event_time"])) == timedelta(seconds=1) == traced.time_spread


def test_a_trace_can_be_cut(bodies):
    traced = Traced(bodies, calls(0.0, 5.0, 10.0), flush_seconds=1.0)
    traced.cut(6.0)
    assert traced.requests == 1
    traced.cut(6.1)
    assert traced.requests == 2


def test_an_empty_trace(bodies):
    traced = Traced(bodies, [], flush_seconds=1.0)
    assert (traced.requests, traced.seconds) == (0, 0.0)


def test_a_trace_is_read_at_any_speed(tmp_path: Path):
    file = tmp_path / "trace.csv"
    file.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.6805900,396,109\n"
    )
    assert list(calls_of_trace(trace_rows(file), speed=1)) == [Call(0.0, 418), Call(4.0, 505)]
    assert list(calls_of_trace(trace_rows(file), speed=10)) == [Call(0.0, 418), Call(0.4, 505)]


@pytest.mark.parametrize("make", [Closed, lambda bodies: Steady(bodies, 100, 1), lambda b: Traced(b, calls(0, 1, 2, 3), 9)])
def test_ids_are_those_of_the_body(bodies, make):
    workload = make(bodies)
    for number in range(2):
        assert workload.event_ids(number, NOW) == [event["event_id"] for event in events_of(workload, number, NOW)]
        assert workload.body(number, NOW).content == workload.body(number, NOW).content
