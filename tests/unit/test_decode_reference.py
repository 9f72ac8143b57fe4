"""Every item gets the verdict of a reference: what is right, said again with the standard library and no thought of speed.

Each item gets the set of its faults, any one of which may be named; none means that it is taken. Fast path, slow path and
every shape of a body have to agree with it.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any
from unittest import mock
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

from ingest.events import MESSAGE_ARCHIVES, NO_JSON, USAGE_EVENTS, MessageArchive, Stream, UsageEvent
from ingest.web import decode as decoding
from ingest.web.decode import Media
from tests.unit.wire import (
    ALL_SHAPES,
    COUNTS,
    FFFD,
    MICROSECOND,
    NOW,
    SNIFFED,
    TEXTS,
    WINDOW,
    decode,
    replaced,
)

Fault = tuple[str, str | None]
Expected = tuple[set[Fault], dict[str, Any], bool]


def reference(stream: Stream, text: str) -> Expected:
    """The faults of an item, its fields, and whether text in it was replaced."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return {("invalid_json", None)}, {}, False
    if not isinstance(value, dict):
        return {("invalid_json", None)}, {}, False
    item = mend(value)
    faults: set[Fault] = set()
    for field, is_required, is_good in FIELDS[stream.name]:
        if value.get(field) is None:
            if is_required:
                faults.add(("invalid_field" if field in value else "missing_field", field))
        elif not is_good(item[field]) or (field in stream.dimensions and item[field] != value[field]):
            faults.add(("invalid_field", field))
        elif field == stream.time_field:
            time = datetime.fromisoformat(item[field])
            if not WINDOW.oldest <= time <= WINDOW.newest:
                faults.add(("too_old" if time < NOW else "in_future", field))
    return faults, fields_of(stream, item), item != value


def mend(value: Any) -> Any:
    """The value with every text made storable, keys included."""
    if isinstance(value, str):
        return replaced(value)
    if isinstance(value, list):
        return [mend(element) for element in value]
    if isinstance(value, dict):
        return {mend(key): mend(element) for key, element in value.items()}
    return value


def fields_of(stream: Stream, item: dict[str, Any]) -> dict[str, Any]:
    """What is to be stored: the known fields, and for usage events the others in `extra`."""
    known = {field: item.get(field) for field, _, _ in FIELDS[stream.name]}
    if not stream.keeps_unknown:
        return known
    extra = dict(known["extra"]) if isinstance(known["extra"], dict) else {}
    for name in item.keys() - known.keys():
        extra["$." + name if name in extra else name] = item[name]
    return {**known, "extra": extra or None, "total_tokens": known["total_tokens"] or 0}


def is_uuid(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", value) is not None


def is_time(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[\d-]{10}T[\d:.]{8,15}(Z|[+-]\d\d:\d\d)", value) is not None


def is_dimension(value: object) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= 256


def is_whole(low: int, high: int) -> Callable[[object], bool]:
    return lambda value: type(value) is int and low <= value <= high


def is_text(value: object) -> bool:
    return isinstance(value, str)


FIELDS: dict[str, list[tuple[str, bool, Callable[[object], bool]]]] = {
    "usage_events": [
        ("event_id", True, is_uuid),
        ("event_time", True, is_time),
        *[(field, True, is_dimension) for field in TEXTS],
        *[(field, False, is_whole(0, 2**31 - 1)) for field in COUNTS],
        ("status_code", False, is_whole(100, 599)),
        ("error_type", False, lambda value: is_text(value) and len(str(value)) <= 256),
        ("prompt", False, is_text),
        ("extra", False, lambda value: isinstance(value, dict)),
    ],
    "message_archives": [
        ("event_id", True, is_uuid),
        ("user_id", True, is_dimension),
        ("service", True, is_dimension),
        ("prompt_full", False, is_text),
        ("response_full", False, is_text),
        ("stored_at", False, is_time),
    ],
}

texts = st.text(st.sampled_from('aé😀"\\/u0d8 \n\0\ud83d\ude00\ufffd'), max_size=6)
scalars = st.none() | st.booleans() | st.integers(-5, 700) | st.sampled_from([0.5, 2**31, 10**30, ""]) | texts
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2), max_leaves=4
)
times = st.sampled_from(
    [
        *(WINDOW.oldest.isoformat(), WINDOW.newest.isoformat(), NOW.isoformat(), "2025-06-01T14:00:00.25+02:00"),
        *((WINDOW.oldest - MICROSECOND).isoformat(), (WINDOW.newest + MICROSECOND).isoformat(), "2025-06-01T12:00:00", "now"),
    ]
)
good_fields: dict[str, st.SearchStrategy[Any]] = {
    "event_id": st.uuids().map(str),
    "event_time": times,
    "stored_at": times,
    **dict.fromkeys(TEXTS, st.sampled_from(["ada", "é" * 256, "😀", FFFD, "\\ud83d"])),
    **dict.fromkeys(COUNTS, st.sampled_from([None, 0, 7, 2**31 - 1])),
    "status_code": st.sampled_from([None, 100, 599]),
    "error_type": st.none() | texts,
    **dict.fromkeys(["prompt", "prompt_full", "response_full"], st.none() | texts),
    "extra": st.none() | st.dictionaries(texts, values, max_size=3),
}
unknown = st.dictionaries(st.sampled_from(["region", "$.region", "events", "", "é"]), values, max_size=2)


@st.composite
def items(draw: st.DrawFn, stream: Stream) -> Any:
    """An item as a client may write it, with nothing, little or much wrong with it."""
    item = {field: draw(good_fields[field]) for field, _, _ in FIELDS[stream.name]}
    if draw(st.booleans()):
        item |= draw(unknown)
    spoilt = draw(st.lists(st.sampled_from(sorted(item)), max_size=2)) if draw(st.integers(0, 3)) == 0 else []
    for field in spoilt:
        if draw(st.booleans()):
            item.pop(field, None)
        else:
            item[field] = draw(values)
    return item if draw(st.integers(0, 15)) else draw(scalars)


def written(items: Sequence[Any], data: st.DataObject) -> list[str]:
    """The items as JSON, in different hands."""
    hands: list[dict[str, Any]] = [{}, {"separators": (",", ":")}, {"sort_keys": True}]
    return [json.dumps(item, **data.draw(st.sampled_from(hands))) for item in items]


def taken(item: UsageEvent | MessageArchive) -> dict[str, Any]:
    """What a decoded item holds, for comparison with the reference."""
    held = {field: getattr(item, field) for field in item.__struct_fields__}
    if "extra" in held:
        held["extra"] = None if held["extra"] is NO_JSON else json.loads(bytes(held["extra"])) or None
        held["total_tokens"] = held["total_tokens"] or 0
    return held


def shapes_for(stream: Stream, texts: Sequence[str]) -> Iterator[tuple[str, bytes, Media]]:
    for name, (shape, media) in ALL_SHAPES.items():
        # A JSON body is taken for NDJSON by its second value; its first must be an object or an array to come so far.
        if name not in SNIFFED or (len(texts) > 1 and texts[0][0] in "{["):
            yield name, shape(texts).replace('"events":', f'"{stream.envelope}":', 1).encode(), media


@pytest.mark.parametrize("stream", [USAGE_EVENTS, MESSAGE_ARCHIVES], ids=lambda stream: stream.name)
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_every_item_gets_the_verdict_of_the_reference(stream: Stream, data: st.DataObject) -> None:
    texts = written(data.draw(st.lists(items(stream), max_size=4)), data)
    expected = [reference(stream, text) for text in texts]
    good = [index for index, (faults, _, _) in enumerate(expected) if not faults]
    shape = data.draw(st.sampled_from(sorted(ALL_SHAPES)))
    name, body, media = next(found for found in shapes_for(stream, texts) if found[0] == shape or shape in SNIFFED)

    with mock.patch.object(decoding, "LIST_BYTES_MAX", data.draw(st.sampled_from([-1, 10**6]))):
        batch = decode(body, media, stream)

    assert batch.received == len(texts), name
    assert list(batch.indices) == good
    for index, item in zip(batch.indices, batch.items, strict=True):
        held = taken(item)
        for field, value in expected[index][1].items():
            assert same(held[field], value), field
    assert batch.sanitized == {index for index in good if expected[index][2]}
    assert [rejection.index for rejection in batch.rejections] == [k for k in range(len(texts)) if k not in good]
    for rejection in batch.rejections:
        assert (rejection.code, rejection.field) in expected[rejection.index][0]


def same(held: object, value: object) -> bool:
    """Whether a decoded field holds what the JSON value says."""
    if isinstance(held, UUID):
        return str(held) == value
    if isinstance(held, datetime):
        return held == datetime.fromisoformat(str(value))
    return held == value and not isinstance(held, Raw)
