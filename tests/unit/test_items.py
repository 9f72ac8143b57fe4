"""What is kept of a good item, and what is said of one that is wrong."""

import json
import tracemalloc
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from ingest.events import MESSAGE_ARCHIVES, USAGE_EVENTS, MessageArchive, Stream, UsageEvent
from tests.unit.wire import (
    ALL_SHAPES,
    COUNTS,
    FFFD,
    ID,
    MICROSECOND,
    NOW,
    TEXTS,
    WINDOW,
    archive_text,
    decode,
    decode_one,
    event_text,
    event_with,
    extra_of,
    rejection_of,
    replaced,
    wire_event,
)


def test_an_event_has_every_field_as_it_was_sent() -> None:
    event = decode_one(
        event_text(
            event_time="2025-06-01T13:59:00.123456+02:00",
            latency_ms=250,
            status_code=200,
            error_type="timeout",
            prompt="Grüße 😀",
            extra={"a": [1, {"b": None}]},
        )
    )

    assert event == UsageEvent(
        event_id=UUID(ID),
        event_time=datetime(2025, 6, 1, 11, 59, 0, 123456, tzinfo=UTC),
        user_id="ada",
        team="search",
        service="chat",
        provider="openai",
        model="gpt-4o",
        total_tokens=1234,
        latency_ms=250,
        status_code=200,
        error_type="timeout",
        prompt="Grüße 😀",
        extra=event.extra,
    )
    assert extra_of(event) == {"a": [1, {"b": None}]}


def test_an_archive_has_every_field_as_it_was_sent() -> None:
    archive = decode_one(archive_text(stored_at="2025-06-01T11:00:00Z", unknown=1), MESSAGE_ARCHIVES)

    assert archive == MessageArchive(
        event_id=UUID(ID),
        user_id="ada",
        service="chat",
        prompt_full="What is a ledger?",
        response_full="A book of accounts.",
        stored_at=datetime(2025, 6, 1, 11, tzinfo=UTC),
    )


OPTIONAL = ["total_tokens", "latency_ms", "status_code", "error_type", "prompt", "extra"]
REQUIRED = ["event_id", "event_time", "user_id", "team", "service", "provider", "model"]


@pytest.mark.parametrize("beside", [{}, {"unknown": 1}], ids=["alone", "beside an unknown field"])
@pytest.mark.parametrize("field", OPTIONAL)
def test_null_means_absent_for_an_optional_field(field: str, beside: dict[str, Any]) -> None:
    from_null = decode_one(event_text(**{field: None}, **beside))
    from_absence = decode_one(event_text(**{field: ...}, **beside))

    assert from_null.total_tokens in (None, from_absence.total_tokens)
    assert (from_null.latency_ms, from_null.status_code, from_null.error_type, from_null.prompt) == (None,) * 4
    assert extra_of(from_null) == extra_of(from_absence) == (beside or None)


@pytest.mark.parametrize("field", ["prompt_full", "response_full", "stored_at"])
def test_null_means_absent_for_an_optional_field_of_an_archive(field: str) -> None:
    assert getattr(decode_one(archive_text(**{field: None}), MESSAGE_ARCHIVES), field) is None
    assert getattr(decode_one(archive_text(**{field: ...}), MESSAGE_ARCHIVES), field) is None


@pytest.mark.parametrize("field", REQUIRED)
def test_a_required_field_that_is_missing_is_named(field: str) -> None:
    rejection = rejection_of(event_text(**{field: ...}))

    assert (rejection.code, rejection.field) == ("missing_field", field)
    assert rejection.event_id == (None if field == "event_id" else ID)
    assert field in rejection.message


@pytest.mark.parametrize("field", ["event_id", "user_id", "service"])
def test_a_required_field_that_is_missing_in_an_archive_is_named(field: str) -> None:
    rejection = rejection_of(archive_text(**{field: ...}), MESSAGE_ARCHIVES)

    assert (rejection.code, rejection.field) == ("missing_field", field)


@pytest.mark.parametrize("field", REQUIRED)
def test_null_is_no_value_for_a_required_field(field: str) -> None:
    rejection = rejection_of(event_text(**{field: None}))

    assert (rejection.code, rejection.field) == ("invalid_field", field)


INVALID = [
    *[(field, value) for field in TEXTS for value in ('""', '"' + "x" * 257 + '"', "5", "true", '["x"]', "{}")],
    *[(field, value) for field in COUNTS for value in ("-1", "2147483648", "1.0", "1.5", "1e2", "true", '"1"', "[1]", "{}")],
    *[(field, value) for field in COUNTS for value in ("9" * 19, "9" * 40, "-" + "9" * 40, "9" * 5000, "1e400", "-0.0")],
    *[("status_code", value) for value in ("99", "600", "-200", "200.0", '"200"', "true", "[]")],
    *[("error_type", value) for value in ('"' + "x" * 257 + '"', "5", "{}")],
    *[("prompt", value) for value in ("5", '["x"]', "{}", "true")],
    *[("extra", value) for value in ("5", '"x"', "[]", "[{}]", "true", '"{}"')],
    *[("event_id", value) for value in ('""', '"42"', "42", f'"{{{ID}}}"', f'"urn:uuid:{ID}"', f'"{ID[:-1]}g"', f'" {ID}"')],
    *[("event_time", value) for value in ("1748779140", '""', '"now"', '"2025-06-01"', '"2025-06-01T12:00:00"', "{}")],
    *[
        ("event_time", f'"{value}"')
        for value in ("2025-06-31T12:00:00Z", "2025-06-01T24:00:00Z", "2025-06-01T12:00:00+24:00")
    ],
    *[("event_time", f'"{value}"') for value in ("0000-01-01T00:00:00Z", "2025-06-01T12:00Z", "10000-01-01T00:00:00Z")],
]


@pytest.mark.parametrize(("field", "value"), INVALID)
def test_a_value_that_is_not_allowed_is_refused_with_its_field(field: str, value: str) -> None:
    rejection = rejection_of(event_with(field, value))

    assert (rejection.code, rejection.field) == ("invalid_field", field)
    assert rejection.event_id == (None if field == "event_id" else ID)
    assert rejection.message.endswith(".")
    assert len(rejection.message) < 200
    assert "$" not in rejection.message


@pytest.mark.parametrize(("field", "value"), INVALID)
def test_the_same_is_refused_beside_an_unknown_field(field: str, value: str) -> None:
    rejection = rejection_of(f'{{"unknown": 1, {event_with(field, value)[1:]}')

    assert (rejection.code, rejection.field) == ("invalid_field", field)


@pytest.mark.parametrize(
    ("field", "value", "kept"),
    [
        *[(field, '"' + "é" * 256 + '"', "é" * 256) for field in TEXTS],
        *[(field, '"' + r"\ud83d\ude00" * 256 + '"', "😀" * 256) for field in ["model", "error_type"]],
        ("user_id", '" "', " "),
        *[(field, text, int(text)) for field in COUNTS for text in ("0", "2147483647", "-0")],
        *[("status_code", text, int(text)) for text in ("100", "599")],
        ("error_type", '""', ""),
        ("prompt", '""', ""),
        ("prompt", json.dumps("x" * 100_000), "x" * 100_000),
        ("event_id", f'"{ID.upper()}"', UUID(ID)),
        ("event_id", f'"{ID.replace("-", "")}"', UUID(ID)),
        ("event_id", '"ffffffff-ffff-ffff-ffff-ffffffffffff"', UUID(int=2**128 - 1)),
        ("event_id", '"00000000-0000-0000-0000-000000000000"', UUID(int=0)),
    ],
)
def test_a_value_at_the_edge_of_what_is_allowed_is_kept(field: str, value: str, kept: object) -> None:
    assert getattr(decode_one(event_with(field, value)), field) == kept


@pytest.mark.parametrize("item", ["5", "null", '"x"', "[]", "true", f"[{event_text()}]"])
def test_an_item_that_is_no_object_is_refused(item: str) -> None:
    rejection = rejection_of(item)

    assert (rejection.code, rejection.field, rejection.event_id) == ("invalid_json", None, None)


def test_of_a_field_that_stands_twice_the_last_one_counts() -> None:
    assert decode_one(f'{event_text()[:-1]}, "user_id": "eve"}}').user_id == "eve"
    assert decode_one(f'{event_text()[:-1]}, "user_id": "eve", "unknown": 1}}').user_id == "eve"


@pytest.mark.parametrize("spelled", ["user_id", r"us\u0065r_id"])
@pytest.mark.parametrize("beside", ["", ', "unknown": 1'])
@pytest.mark.parametrize("first", ['""', "5", "null", r'"\u0000"', r'"\ud83d"', f'"{"x" * 257}"', "{}"])
@pytest.mark.parametrize(("stream", "item"), [(USAGE_EVENTS, event_text()), (MESSAGE_ARCHIVES, archive_text())])
def test_of_a_field_that_stands_twice_the_first_one_may_hold_anything(
    stream: Stream, item: str, first: str, beside: str, spelled: str
) -> None:
    text = f'{{"{spelled}": {first}, {item[1:-1]}{beside}}}'

    assert decode_one(text, stream).user_id == "ada"


@pytest.mark.parametrize("last", ['""', "5", "null", r'"\u0000"'])
@pytest.mark.parametrize("beside", ["", ', "unknown": 1'])
def test_of_a_field_that_stands_twice_the_last_one_must_be_valid(last: str, beside: str) -> None:
    rejection = rejection_of(f'{event_text()[:-1]}, "user_id": {last}{beside}}}')

    assert (rejection.code, rejection.field, rejection.event_id) == ("invalid_field", "user_id", ID)


def test_a_long_text_full_of_colons_does_not_hide_what_is_wrong() -> None:
    rejection = rejection_of(event_text(prompt=":" * 500_001 + "\n\u0001", total_tokens=-1))

    assert (rejection.code, rejection.field) == ("invalid_field", "total_tokens")


def test_an_item_that_is_rejected_is_called_by_the_event_id_that_counts() -> None:
    assert rejection_of(f'{{"event_id": "none", {event_text(team="")[1:]}').event_id == ID


def test_a_field_may_be_spelled_with_escapes() -> None:
    assert decode_one(event_text().replace("user_id", r"us\u0065r_id")).user_id == "ada"


# --- times ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("time", "code"),
    [
        (WINDOW.oldest, None),
        (WINDOW.oldest - MICROSECOND, "too_old"),
        (WINDOW.newest, None),
        (WINDOW.newest + MICROSECOND, "in_future"),
        (datetime(1, 1, 1, tzinfo=UTC), "too_old"),
        (datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC), "in_future"),
    ],
)
@pytest.mark.parametrize("stream", [USAGE_EVENTS, MESSAGE_ARCHIVES], ids=lambda stream: stream.name)
@pytest.mark.parametrize("beside", [{}, {"unknown": 1}], ids=["alone", "beside an unknown field"])
def test_a_time_is_taken_up_to_both_edges_of_the_window(
    stream: Stream, time: datetime, code: str | None, beside: dict[str, Any]
) -> None:
    text = event_text if stream is USAGE_EVENTS else archive_text
    batch = decode(text(**{stream.time_field: time.isoformat()}, **beside), stream=stream)

    if code is None:
        assert [getattr(item, stream.time_field) for item in batch.items] == [time]
    else:
        assert [(r.code, r.field, r.event_id) for r in batch.rejections] == [(code, stream.time_field, ID)]


@pytest.mark.parametrize(
    "time",
    ["2025-06-01T14:00:00+02:00", "2025-06-01T00:00:00-12:00", "2025-06-01t12:00:00z", "2025-06-01T12:00:00.000000000Z"],
)
def test_a_time_may_have_any_offset(time: str) -> None:
    assert decode_one(event_text(event_time=time)).event_time == NOW


@pytest.mark.parametrize(
    ("time", "code"), [("0001-01-01T00:00:00+23:59", "too_old"), ("9999-12-31T23:59:59-23:59", "in_future")]
)
def test_a_time_that_is_past_the_calendar_in_utc_is_refused(time: str, code: str) -> None:
    assert rejection_of(event_text(event_time=time)).code == code


# --- unknown fields ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("extra", "unknown", "kept"),
    [
        ("absent", '"region": "eu"', {"region": "eu"}),
        ("null", '"region": "eu"', {"region": "eu"}),
        ("{}", '"a": null, "b": [1, {"c": 1.50}]', {"a": None, "b": [1, {"c": 1.5}]}),
        ('{"sdk": "py"}', '"region": "eu"', {"sdk": "py", "region": "eu"}),
        ('{"region": "us"}', '"region": "eu"', {"region": "us", "$.region": "eu"}),
        ('{"region": 1, "$.region": 2}', '"region": 3', {"region": 1, "$.region": 2, "$.$.region": 3}),
        ('{"a": 1}', '"a": 2, "$.a": 3', {"a": 1, "$.a": 2, "$.$.a": 3}),
        ("{}", '"": 1, "Event_id": 2, "ключ": "значение"', {"": 1, "Event_id": 2, "ключ": "значение"}),
        ("{}", r'"a\"b\\": "\"\\\n"', {'a"b\\': '"\\\n'}),
        ("{}", '"a": 1, "a": 2', {"a": 2}),
    ],
)
@pytest.mark.parametrize("first", [True, False], ids=["first", "last"])
def test_an_unknown_field_is_kept_in_extra(extra: str, unknown: str, kept: dict[str, Any], first: bool) -> None:
    known = event_text() if extra == "absent" else event_with("extra", extra)
    text = f"{{{unknown}, {known[1:]}" if first else f"{known[:-1]}, {unknown}}}"

    event = decode_one(text)

    assert extra_of(event) == kept
    assert (event.user_id, event.total_tokens) == ("ada", 1234)


def test_numbers_in_unknown_fields_keep_every_digit() -> None:
    event = decode_one(event_with("cost", "0.10000000000000000000000000000000000001"))

    assert bytes(event.extra) == b'{"cost":0.10000000000000000000000000000000000001}'


def test_an_unknown_field_of_an_archive_is_skipped() -> None:
    assert decode_one(archive_text(unknown={"a": 1}), MESSAGE_ARCHIVES).user_id == "ada"


@pytest.mark.parametrize("field", ["extra", "unknown"])
@pytest.mark.parametrize(
    "value",
    [
        '{"a": 1e1000}',
        '{"a": 1e999999999999999999999}',
        '{"a": ' + "1" * 1000 + "}",
        '{"a": [' + "1" * 131_073 + "]}",
        '{"a": ' * 201 + "1" + "}" * 201,
    ],
    ids=["exponent", "long exponent", "1000 digits", "more digits than numeric has", "depth"],
)
def test_what_jsonb_can_not_hold_is_refused(field: str, value: str) -> None:
    rejection = rejection_of(event_with(field, value))

    assert (rejection.code, rejection.field, rejection.event_id) == ("invalid_field", "extra", ID)


# --- text that can't be stored ----------------------------------------------------------------------------------------

HALVES = ["\0", "\ud83d", "\ude00", "a\ud83db", "\ude00\ud83d", "\ud83d\ud83d", "\ud83d\0"]


@pytest.mark.parametrize("text", HALVES)
@pytest.mark.parametrize("name", ALL_SHAPES)
def test_unstorable_text_is_replaced_and_counted(name: str, text: str) -> None:
    shape, media = ALL_SHAPES[name]

    batch = decode(shape([event_text(), event_text(prompt=text, error_type="\\ud83d")]), media)

    assert (batch.received, list(batch.indices), list(batch.rejections)) == (2, [0, 1], [])
    assert batch.sanitized == {1}
    assert (batch.items[1].prompt, batch.items[1].error_type) == (replaced(text), "\\ud83d")


@pytest.mark.parametrize("text", HALVES)
@pytest.mark.parametrize(
    ("field", "value", "kept"),
    [
        ("extra", {"a": "Q"}, {"a": "Q"}),
        ("extra", {"Q": [{"Q": 1}]}, {"Q": [{"Q": 1}]}),
        ("unknown", ["Q"], {"unknown": ["Q"]}),
        ("unQnown", "Q", {"unQnown": "Q"}),
    ],
)
def test_unstorable_text_is_replaced_in_json_too(text: str, field: str, value: object, kept: object) -> None:
    escaped = json.dumps(text)[1:-1]

    batch = decode(event_text(**{field: value}).replace("Q", escaped))

    assert batch.sanitized == {0}
    assert extra_of(batch.items[0]) == json.loads(json.dumps(kept).replace("Q", json.dumps(replaced(text))[1:-1]))
    assert "\\u0000" not in bytes(batch.items[0].extra).decode()


@pytest.mark.parametrize("text", HALVES)
@pytest.mark.parametrize(
    ("stream", "field"),
    [(stream, field) for stream in (USAGE_EVENTS, MESSAGE_ARCHIVES) for field in sorted(stream.dimensions)],
)
def test_unstorable_text_in_a_dimension_is_refused(stream: Stream, field: str, text: str) -> None:
    item = event_text(**{field: text}) if stream is USAGE_EVENTS else archive_text(**{field: text})

    rejection = rejection_of(item, stream)

    assert (rejection.code, rejection.field, rejection.event_id) == ("invalid_field", field, ID)


@pytest.mark.parametrize("text", [FFFD, "\\ud83d", "\\u0000", "\\\\ud83d", "😀", "\x01", "\x7f", "\ufffe", "\uffff"])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_storable_text_is_never_counted_as_sanitized(text: str, ascii_only: bool) -> None:
    event = wire_event(team=text, prompt=text, extra={text: text})

    for beside in ("{}", event_text(prompt="\0")):  # both slow
        batch = decode(f"[{json.dumps(event, ensure_ascii=ascii_only)}, {beside}]")
        assert 0 not in batch.sanitized
        assert (batch.items[0].team, batch.items[0].prompt, extra_of(batch.items[0])) == (text, text, {text: text})


@pytest.mark.parametrize("text", ["\0", "\ud83d"])
def test_unstorable_text_in_an_archive_is_replaced_and_counted(text: str) -> None:
    batch = decode(f"[{archive_text()}, {archive_text(response_full=text)}]", stream=MESSAGE_ARCHIVES)

    assert batch.sanitized == {1}
    assert batch.items[1].response_full == FFFD


@pytest.mark.parametrize("text", ["\0", "\ud83d"])
def test_what_an_archive_does_not_keep_is_not_counted_as_sanitized(text: str) -> None:
    assert decode(f"[{archive_text(unknown=text)}]", stream=MESSAGE_ARCHIVES).sanitized == frozenset()


def test_looking_at_the_dimensions_of_an_archive_does_not_build_its_other_fields() -> None:
    many = ", ".join(f'"{k:x}": 0' for k in range(200_000))
    text = f"{archive_text(response_full=chr(0))[:-1]}, {many}}}"

    tracemalloc.start()
    try:
        batch = decode(text, stream=MESSAGE_ARCHIVES)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert batch.sanitized == {0}
    assert peak_bytes < 6 * len(text)


def test_only_the_items_that_were_changed_count_as_sanitized() -> None:
    texts = [
        event_text(prompt=FFFD),
        event_text(prompt="\0"),
        event_text(team="\0"),
        event_text(),
        event_text(prompt="\ud800"),
    ]

    batch = decode(f"[{','.join(texts)}]")

    assert list(batch.indices) == [0, 1, 3, 4]
    assert batch.sanitized == {1, 4}
