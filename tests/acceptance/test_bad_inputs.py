"""What a client may get wrong, and the answer it gets: the whole service, one line a mistake."""

import gzip
import json
import zlib
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests import servers
from tests.reliability import Figures
from tests.samples import wire_archive, wire_event
from tests.service import ARCHIVES, REQUESTS, RunningService

JSON = {"Content-Type": "application/json"}
NDJSON = {"Content-Type": "application/x-ndjson"}
GZIP = {**JSON, "Content-Encoding": "gzip"}
STRICT = {**JSON, "Prefer": "handling=strict"}

GOOD = json.dumps([wire_event()]).encode()
MIB = 1024 * 1024


def line() -> bytes:
    """A good event for a line of NDJSON."""
    return json.dumps(wire_event()).encode() + b"\n"


def one(**fields: Any) -> bytes:
    """A JSON array of one event with these fields."""
    return json.dumps([wire_event(**fields)]).encode()


def beside_a_good_one(item: bytes) -> bytes:
    """A JSON array of this item and a good event, which must be stored."""
    return b"[" + item + b"," + json.dumps(wire_event()).encode() + b"]"


@dataclass(frozen=True)
class Mistake:
    """What is sent, and what must come back."""

    name: str
    body: bytes
    status: int
    code: str
    """Of the problem, or of the first error listed."""
    headers: dict[str, str] = field(default_factory=lambda: JSON)
    path: str = REQUESTS
    field: str | None = None
    """The field of the first error listed."""
    stored: int = 0
    answer_headers: tuple[str, ...] = ()


ENVELOPES = [
    Mistake("empty body", b"", 400, "unreadable_body"),
    Mistake("white space only", b" \n ", 400, "unreadable_body"),
    Mistake("not JSON", b"hello", 400, "unreadable_body"),
    Mistake("a scalar", b"5", 400, "unreadable_body"),
    Mistake("a string", b'"x"', 400, "unreadable_body"),
    Mistake("null", b"null", 400, "unreadable_body"),
    Mistake("an array cut short", GOOD[:-1], 400, "unreadable_body"),
    Mistake("an object cut short", b'{"events": [', 400, "unreadable_body"),
    Mistake("single quotes", b"[{'event_id': 1}]", 400, "unreadable_body"),
    Mistake("a comma too many", GOOD[:-1] + b",]", 400, "unreadable_body"),
    Mistake("NaN", one(extra={"x": "NAN"}).replace(b'"NAN"', b"NaN"), 400, "unreadable_body"),
    Mistake("not UTF-8", GOOD.replace(b"ada", b"ad\xff"), 400, "unreadable_body"),
    Mistake("UTF-16", GOOD.decode().encode("utf-16"), 400, "unreadable_body"),
    Mistake("not UTF-8 inside extra", one(extra={"x": "Q"}).replace(b"Q", b"\xff"), 400, "unreadable_body"),
    Mistake("100,000 brackets", b"[" * 100_000, 400, "unreadable_body"),
    Mistake("100,000 braces", b'{"a":' * 100_000, 400, "unreadable_body"),
    Mistake("no gzip though it says so", GOOD, 400, "unreadable_body", GZIP),
    Mistake("gzip cut short", gzip.compress(GOOD)[:-9], 400, "unreadable_body", GZIP),
    Mistake("gzip with a wrong checksum", gzip.compress(GOOD)[:-8] + b"12345678", 400, "unreadable_body", GZIP),
    Mistake("garbage behind gzip", gzip.compress(GOOD) + b"garbage", 400, "unreadable_body", GZIP),
    Mistake("nothing, gzipped never", b"", 400, "unreadable_body", GZIP),
    Mistake("no zstd", GOOD, 400, "unreadable_body", {**JSON, "Content-Encoding": "zstd"}),
    Mistake("deflate cut short", zlib.compress(GOOD)[:-5], 400, "unreadable_body", {**JSON, "Content-Encoding": "deflate"}),
    Mistake("br", GOOD, 415, "unsupported_encoding", {**JSON, "Content-Encoding": "br"}, answer_headers=("Accept-Encoding",)),
    Mistake("gzip twice", GOOD, 415, "unsupported_encoding", {**JSON, "Content-Encoding": "gzip, gzip"}),
    Mistake("no type", GOOD, 415, "unsupported_type", {"Content-Type": ""}, answer_headers=("Accept",)),
    Mistake("a form", GOOD, 415, "unsupported_type", {"Content-Type": "application/x-www-form-urlencoded"}),
    Mistake("protobuf", GOOD, 415, "unsupported_type", {"Content-Type": "application/x-protobuf"}),
    Mistake("1001 items", json.dumps([5] * 1001).encode(), 413, "limit_exceeded"),
    Mistake("1001 lines", b"{}\n" * 1001, 413, "limit_exceeded", NDJSON),
    Mistake("1001 items in an envelope", json.dumps({"events": [{}] * 1001}).encode(), 413, "limit_exceeded"),
    Mistake("10 MiB and a byte, compressed", b"\0" * (10 * MIB + 1), 413, "limit_exceeded", GZIP),
    Mistake("64 MiB and a byte, inflated", gzip.compress(b" " * (64 * MIB + 1), 1), 413, "limit_exceeded", GZIP),
    Mistake("64 MiB and a byte, plain", b" " * (64 * MIB + 1), 413, "limit_exceeded"),
]

ITEMS = [
    Mistake("no event_id", one(event_id=...), 422, "missing_field", field="event_id"),
    Mistake("no team", one(team=...), 422, "missing_field", field="team"),
    Mistake("an empty object", b"[{}]", 422, "missing_field", field="event_id"),
    Mistake("an object that is no envelope", b'{"events": 5}', 422, "missing_field", field="event_id"),
    Mistake("event_id no UUID", one(event_id="42"), 422, "invalid_field", field="event_id"),
    Mistake("event_id a number", one(event_id=42), 422, "invalid_field", field="event_id"),
    Mistake("event_time without offset", one(event_time="2026-01-01T00:00:00"), 422, "invalid_field", field="event_time"),
    Mistake("event_time a number", one(event_time=1767225600), 422, "invalid_field", field="event_time"),
    Mistake("event_time no time", one(event_time="yesterday"), 422, "invalid_field", field="event_time"),
    Mistake("event_time in 1970", one(event_time="1970-01-01T00:00:00Z"), 422, "too_old", field="event_time"),
    Mistake("event_time in year 1", one(event_time="0001-01-01T00:00:00+14:00"), 422, "too_old", field="event_time"),
    Mistake("event_time in 9999", one(event_time="9999-12-31T23:59:59-12:00"), 422, "in_future", field="event_time"),
    Mistake("user_id empty", one(user_id=""), 422, "invalid_field", field="user_id"),
    Mistake("user_id null", one(user_id=None), 422, "invalid_field", field="user_id"),
    Mistake("user_id a number", one(user_id=7), 422, "invalid_field", field="user_id"),
    Mistake("model of 257 characters", one(model="m" * 257), 422, "invalid_field", field="model"),
    Mistake("team with U+0000", one(team="a\0b"), 422, "invalid_field", field="team"),
    Mistake("team with half an emoji", one(team="a\ud83d"), 422, "invalid_field", field="team"),
    Mistake("total_tokens negative", one(total_tokens=-1), 422, "invalid_field", field="total_tokens"),
    Mistake("total_tokens of 2³¹", one(total_tokens=2**31), 422, "invalid_field", field="total_tokens"),
    Mistake("total_tokens of 10⁴⁰", one(total_tokens=10**40), 422, "invalid_field", field="total_tokens"),
    Mistake("total_tokens a fraction", one(total_tokens=1.5), 422, "invalid_field", field="total_tokens"),
    Mistake("total_tokens true", one(total_tokens=True), 422, "invalid_field", field="total_tokens"),
    Mistake("total_tokens a string", one(total_tokens="7"), 422, "invalid_field", field="total_tokens"),
    Mistake("status_code a string", one(status_code="200"), 422, "invalid_field", field="status_code"),
    Mistake("status_code 99", one(status_code=99), 422, "invalid_field", field="status_code"),
    Mistake("status_code 600", one(status_code=600), 422, "invalid_field", field="status_code"),
    Mistake("latency_ms negative", one(latency_ms=-5), 422, "invalid_field", field="latency_ms"),
    Mistake("error_type of 257 characters", one(error_type="e" * 257), 422, "invalid_field", field="error_type"),
    Mistake("prompt a list", one(prompt=["hi"]), 422, "invalid_field", field="prompt"),
    Mistake("extra a list", one(extra=[1]), 422, "invalid_field", field="extra"),
    Mistake("extra a string", one(extra="{}"), 422, "invalid_field", field="extra"),
    Mistake(
        "extra with a number past numeric",
        one(extra={"x": "N"}).replace(b'"N"', b"1e999999"),
        *(422, "invalid_field"),
        field="extra",
    ),
    Mistake(
        "an unknown field with a number past numeric",
        one(x="N").replace(b'"N"', b"-1E+131072"),
        *(422, "invalid_field"),
        field="extra",
    ),
    Mistake(
        "extra 300 levels deep",
        one(extra={"x": "N"}).replace(b'"N"', b"[" * 300 + b"]" * 300),
        422,
        "invalid_field",
        field="extra",
    ),
    Mistake("an item that is a number", beside_a_good_one(b"5"), 200, "invalid_json", stored=1),
    Mistake("an item that is null", beside_a_good_one(b"null"), 200, "invalid_json", stored=1),
    Mistake("an item that is an array", beside_a_good_one(b"[]"), 200, "invalid_json", stored=1),
    Mistake("a line that is no JSON", b"{oops}\n" + line(), 200, "invalid_json", NDJSON, stored=1),
    Mistake("a line that is cut short", line() + line()[:40], 200, "invalid_json", NDJSON, stored=1),
    Mistake("two items on one line", b"{} {}\n" + line(), 200, "invalid_json", NDJSON, stored=1),
    Mistake("a line 100,000 brackets deep", b"[" * 100_000 + b"\n" + line(), 200, "invalid_json", NDJSON, stored=1),
    Mistake("one bad of two", beside_a_good_one(one(team="")[1:-1]), 200, "invalid_field", field="team", stored=1),
    Mistake("one bad of two, strictly", beside_a_good_one(one(team="")[1:-1]), 422, "invalid_field", STRICT, field="team"),
    Mistake("an archive without event_id", b"[{}]", 422, "missing_field", path=ARCHIVES, field="event_id"),
    Mistake(
        "an archive of an unknown event",
        json.dumps([wire_archive("0197a5d3-0000-7000-8000-000000000000")]).encode(),
        *(422, "unknown_event"),
        path=ARCHIVES,
        field="event_id",
    ),
    Mistake(
        "an archive stored in 1999",
        json.dumps([wire_archive("0197a5d3-0000-7000-8000-000000000000", stored_at="1999-01-01T00:00:00Z")]).encode(),
        *(422, "too_old"),
        path=ARCHIVES,
        field="stored_at",
    ),
]


@pytest.mark.reliability
@pytest.mark.parametrize("mistake", [*ENVELOPES, *ITEMS], ids=lambda mistake: mistake.name)
def test_a_mistake_gets_its_answer(
    shared_service: RunningService, shared_database_url: Any, mistake: Mistake, figures: Figures
) -> None:
    before = _stored(shared_database_url)

    answer = shared_service.client.post(mistake.path, content=mistake.body, headers=mistake.headers)

    assert answer.status_code == mistake.status, answer.text
    members = answer.json()
    if answer.status_code != 200:
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert members["status"] == mistake.status
        assert members["type"]
        assert members["title"]
        assert members["detail"]
    if "errors" in members:
        first = members["errors"][0]
        assert (first["code"], first["field"]) == (mistake.code, mistake.field)
        assert first["message"]
        assert members["accepted"] == int(answer.headers["X-Ingest-Accepted"]) == mistake.stored
        counted = members["accepted"] + members["duplicates"] + members["conflicts"] + members["rejected"]
        assert counted == members["received"]
    else:
        assert members["code"] == mistake.code
    if mistake.code == "limit_exceeded":
        assert members["limit"]["name"] in members["detail"]
        assert members["seen"] > members["limit"]["value"]
    assert all(name in answer.headers for name in (*mistake.answer_headers, "X-Request-ID"))
    assert _stored(shared_database_url) == before + mistake.stored
    figures.bad_inputs.add(mistake.name)


def test_the_table_is_long_enough() -> None:
    names = [mistake.name for mistake in [*ENVELOPES, *ITEMS]]
    assert len(set(names)) == len(names) >= 40


def test_the_service_still_works_after_all_of_them(shared_service: RunningService) -> None:
    assert shared_service.verdict([wire_event()])["accepted"] == 1


def _stored(url: Any) -> int:
    [(count,)] = servers.query(
        url, "SELECT (SELECT count(*) FROM analytics.usage_events) + (SELECT count(*) FROM analytics.message_archives)"
    )
    assert isinstance(count, int)
    return count
