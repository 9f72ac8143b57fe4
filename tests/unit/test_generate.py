"""The generator gives valid events, the same for a seed, and keeps what a trace holds."""

import csv
import gzip
import itertools
import json
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import msgspec
import pytest

from benchmarks import generate
from benchmarks.generate import Generator
from ingest.events import MessageArchive, UsageEvent

T = TypeVar("T")

NOW = datetime(2025, 6, 1, 12, 0, 0, 123_456, tzinfo=UTC)

TRACE = [
    ("2023-11-16 18:15:46.6805900", 374, 44),
    ("2023-11-16 18:15:50.9951690", 396, 109),
    ("2023-11-16 18:15:51.2225670", 879, 55),
    ("2023-11-16 18:16:03.0000000", 0, 7437),
]


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "trace.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("TIMESTAMP", "ContextTokens", "GeneratedTokens"), *TRACE])
    return path


def time_of(event: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(event["event_time"])


def decode(item: dict[str, Any], kind: type[T]) -> T:
    return msgspec.json.decode(msgspec.json.encode(item), type=kind)


def everything(seed: int, trace: Path) -> bytes:
    generator = Generator(seed, now=NOW)
    events = generator.usage_events(200)
    return msgspec.json.encode(
        [events, generator.message_archives(events), list(generator.events_from_trace(trace, end=NOW))]
    )


def test_the_same_seed_gives_the_same_bytes(trace: Path) -> None:
    assert everything(7, trace) == everything(7, trace)
    assert everything(7, trace) != everything(8, trace)


def test_one_at_a_time_are_the_same_events() -> None:
    assert list(Generator(7, now=NOW).iter_usage_events(50)) == Generator(7, now=NOW).usage_events(50)


@pytest.mark.parametrize("version", [4, 7])
def test_ids_are_unique_and_of_the_version(version: int) -> None:
    generator = Generator(1, now=NOW, uuid_version=version)
    ids = [UUID(event["event_id"]) for event in generator.usage_events(3000) + generator.usage_events(3000)]
    assert len(set(ids)) == len(ids)
    assert {each.version for each in ids} == {version}  # None for a variant other than that of RFC 9562


def test_other_seeds_give_other_ids() -> None:
    first, second = ({event["event_id"] for event in Generator(seed, now=NOW).usage_events(1000)} for seed in (1, 2))
    assert not first & second


def test_a_version_7_id_holds_the_time_of_the_event() -> None:
    for event in Generator(2, now=NOW).usage_events(500):
        assert UUID(event["event_id"]).int >> 80 == (time_of(event) - generate.EPOCH) // timedelta(milliseconds=1)


@pytest.mark.parametrize("version", [1, 5, 0])
def test_other_versions_are_refused(version: int) -> None:
    with pytest.raises(ValueError, match="uuid_version"):
        Generator(1, now=NOW, uuid_version=version)


def test_a_naive_now_is_refused() -> None:
    with pytest.raises(ValueError, match="offset"):
        Generator(1, now=datetime(2025, 6, 1))  # noqa: DTZ001 - a naive time is what the test is about


@pytest.mark.parametrize("count", [0, 1, 2, 1000])
@pytest.mark.parametrize("span", [timedelta(0), timedelta(seconds=1), timedelta(days=30)])
def test_times_ascend_within_the_span(count: int, span: timedelta) -> None:
    times = [time_of(event) for event in Generator(3, now=NOW).usage_events(count, span)]
    assert len(times) == count
    assert times == sorted(times)
    assert all(NOW - span <= time <= NOW for time in times)


def test_every_event_is_valid() -> None:
    for event in Generator(4, now=NOW).usage_events(3000):
        decoded = decode(event, UsageEvent)
        assert str(decoded.event_id) == event["event_id"]
        assert decoded.event_time == time_of(event)
        assert event["event_time"].endswith("Z")
        assert None not in event.values()


def test_events_look_like_those_of_one_company() -> None:
    events = Generator(5, now=NOW).usage_events(20_000)
    assert {event["team"] for event in events} == set(generate.TEAMS)
    assert {event["service"] for event in events} == set(generate.SERVICES)
    assert {event["model"] for event in events} == {model.name for model in generate.MODELS}
    for of_one, one in (("user_id", "team"), ("model", "provider")):
        assert len({(event[of_one], event[one]) for event in events}) == len({event[of_one] for event in events})

    failed = [event for event in events if "error_type" in event]
    assert 0.02 < len(failed) / len(events) < 0.03
    assert {event["status_code"] for event in failed} == {400, 429, 500, 503}
    assert all(event["total_tokens"] <= 40 for event in failed)
    assert 0.18 < sum("prompt" in event for event in events) / len(events) < 0.22
    assert 0.28 < sum("extra" in event for event in events) / len(events) < 0.32
    prompts = [event["prompt"] for event in events if "prompt" in event]
    assert any(prompt.isascii() for prompt in prompts)
    assert any(character > "\uffff" for prompt in prompts for character in prompt)

    served = [event for event in events if "error_type" not in event and "latency_ms" in event]
    tokens = [math.log1p(event["total_tokens"]) for event in served]
    latencies = [math.log1p(event["latency_ms"]) for event in served]
    assert correlation(tokens, latencies) > 0.3


def correlation(xs: list[float], ys: list[float]) -> float:
    x_mean, y_mean = sum(xs) / len(xs), sum(ys) / len(ys)
    covariance = sum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True))
    return covariance / math.sqrt(sum((x - x_mean) ** 2 for x in xs) * sum((y - y_mean) ** 2 for y in ys))


def test_arrivals_come_in_bursts() -> None:
    times = [time_of(event).timestamp() for event in Generator(6, now=NOW).usage_events(5000)]
    gaps = [after - before for before, after in itertools.pairwise(times)]
    mean = sum(gaps) / len(gaps)
    deviation = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / len(gaps))
    assert deviation > 1.1 * mean  # a Poisson process has as much deviation as mean


def test_every_archive_belongs_to_its_event() -> None:
    generator = Generator(9, now=NOW)
    events = generator.usage_events(300)
    archives = generator.message_archives(events)
    for event, archive in zip(events, archives, strict=True):
        decoded = decode(archive, MessageArchive)
        assert {name: archive[name] for name in ("event_id", "user_id", "service")}.items() <= event.items()
        assert decoded.prompt_full is not None
        assert decoded.response_full is not None
        assert decoded.stored_at is not None
        assert decoded.prompt_full.startswith(event.get("prompt", ""))
        assert len(decoded.prompt_full) >= generate.ARCHIVE_CHARS_MIN
        assert len(decoded.response_full) >= generate.ARCHIVE_CHARS_MIN
        assert decoded.stored_at >= time_of(event)


def test_a_trace_keeps_its_tokens_and_its_spacing(trace: Path) -> None:
    events = list(Generator(1, now=NOW).events_from_trace(trace, end=NOW))
    assert [event["total_tokens"] for event in events] == [418, 505, 934, 7437]
    assert [(event["extra"]["context_tokens"], event["extra"]["generated_tokens"]) for event in events] == [
        row[1:] for row in TRACE
    ]
    times = [time_of(event) for event in events]
    assert times[-1] == NOW
    recorded = [datetime.fromisoformat(row[0]).replace(tzinfo=UTC) for row in TRACE]
    assert [time - times[0] for time in times] == [time - recorded[0] for time in recorded]
    assert all(decode(event, UsageEvent) for event in events)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column TIMESTAMP"),
        ("TIMESTAMP,ContextTokens\n2023-11-16 18:15:46,1\n", "no column GeneratedTokens"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46,1,2\nyesterday,1,2\n", "line 3"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46,1\n", "line 2"),
    ],
)
def test_a_trace_that_cannot_be_read_says_where(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        next(Generator(1, now=NOW).events_from_trace(path, end=NOW))


def test_a_trace_without_rows_has_no_events(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n")
    assert list(Generator(1, now=NOW).events_from_trace(path, end=NOW)) == []


def test_bodies_hold_the_items() -> None:
    events = Generator(1, now=NOW).usage_events(20)
    assert json.loads(generate.json_array(events)) == events
    lines = generate.ndjson(events).splitlines()
    assert [json.loads(line) for line in lines] == events
    assert gzip.decompress(generate.gzip_body(b"text")) == b"text"


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    generate.main([*arguments, "--json"])
    summary: dict[str, Any] = json.loads(capsys.readouterr().out)
    return summary


def read_batches(folder: Path, form: str = "json") -> list[list[dict[str, Any]]]:
    bodies = [gzip.decompress(path.read_bytes()) for path in sorted(folder.glob(f"batch-*.{form}.gz"))]
    if form == "ndjson":
        return [[json.loads(line) for line in body.splitlines()] for body in bodies]
    return [json.loads(body) for body in bodies]


@pytest.mark.parametrize("form", ["json", "ndjson"])
def test_the_program_sums_up_what_it_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str) -> None:
    summary = run(capsys, "--count", "25", "--batch", "10", "--format", form, "--out", str(tmp_path))
    batches = read_batches(tmp_path, form)
    events = [event for batch in batches for event in batch]
    assert [len(batch) for batch in batches] == [10, 10, 5]
    assert (summary["events"], summary["files"]) == (25, 3)
    assert summary["total_tokens"] == sum(event["total_tokens"] for event in events)
    assert (summary["first_event_time"], summary["last_event_time"]) == (
        events[0]["event_time"],
        events[-1]["event_time"],
    )

    again = tmp_path / "again"
    seed_and_now = ["--seed", str(summary["seed"]), "--now", summary["now"]]
    run(capsys, "--count", "25", "--batch", "10", "--format", form, "--out", str(again), *seed_and_now)
    assert read_batches(again, form) == batches


def test_the_program_draws_another_seed_each_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seeds = {run(capsys, "--count", "1", "--out", str(tmp_path / str(n)))["seed"] for n in range(3)}
    assert len(seeds) == 3


def test_the_program_merges_traces(tmp_path: Path, capsys: pytest.CaptureFixture[str], trace: Path) -> None:
    out = tmp_path / "out"
    summary = run(capsys, "--trace", str(trace), "--trace", str(trace), "--out", str(out))
    (events,) = read_batches(out)
    assert summary["events"] == len(events) == 8
    assert summary["total_tokens"] == 2 * sum(context + generated for _, context, generated in TRACE)
    assert [event["event_time"] for event in events] == sorted(event["event_time"] for event in events)
    assert len({event["event_id"] for event in events}) == 8


def test_the_program_adds_nothing_to_the_batches_of_another_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "--count", "1", "--out", str(tmp_path))
    with pytest.raises(SystemExit):
        run(capsys, "--count", "1", "--out", str(tmp_path))
    assert "holds batches already" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--batch", "0"], ["--count", "-1"], ["--now", "2025-06-01T12:00:00"]])
def test_the_program_refuses_what_makes_no_sense(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    with pytest.raises(SystemExit):
        generate.main([*arguments, "--out", str(tmp_path)])
    assert arguments[0] in capsys.readouterr().err
