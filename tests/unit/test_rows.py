"""Items become rows: the columns in their order, the first of an id before its repeats."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

from ingest.events import MESSAGE_ARCHIVES, USAGE_EVENTS, MessageArchive, Stream, UsageEvent
from ingest.store import rows
from tests import samples

ID = UUID("01972b1c-8c00-7000-8000-000000000001")
TIME = datetime(2025, 6, 1, 12, tzinfo=UTC)


def named(stream: Stream, row: rows.Row) -> dict[str, Any]:
    return dict(zip(rows.COLUMNS[stream], row, strict=True))


def row_of(event: UsageEvent) -> dict[str, Any]:
    return named(USAGE_EVENTS, rows.make(USAGE_EVENTS, [event], [0])[0])


def test_every_field_of_an_event_has_its_column() -> None:
    event = samples.event(
        event_id=ID, event_time=TIME, latency_ms=5, status_code=200, error_type="e", prompt="p", extra={"a": 1}
    )

    assert row_of(event) == {"ord": 0, "is_repeat": False, **msgspec.structs.asdict(event)}


def test_every_field_of_an_archive_has_its_column() -> None:
    archive = samples.archive(ID, stored_at=TIME)

    (row,) = rows.make(MESSAGE_ARCHIVES, [archive], [0])

    assert named(MESSAGE_ARCHIVES, row) == {"ord": 0, "is_repeat": False, **msgspec.structs.asdict(archive)}


@pytest.mark.parametrize(("stream", "item"), [(USAGE_EVENTS, UsageEvent), (MESSAGE_ARCHIVES, MessageArchive)])
def test_the_columns_are_those_of_the_struct(stream: Stream, item: type[UsageEvent | MessageArchive]) -> None:
    assert rows.COLUMNS[stream] == ("ord", "is_repeat", *item.__struct_fields__)


def test_what_an_event_lacks_is_null_and_its_tokens_are_none() -> None:
    row = row_of(samples.event(total_tokens=None))

    assert row["total_tokens"] == 0
    assert [row[field] for field in ("latency_ms", "status_code", "error_type", "prompt", "extra")] == [None] * 5


@pytest.mark.parametrize("text", [b"null", b"{}", b'{"a":null}'])
def test_extra_that_is_null_is_absent_and_any_other_is_kept(text: bytes) -> None:
    kept = row_of(msgspec.structs.replace(samples.event(), extra=Raw(text)))["extra"]

    assert (None if kept is None else bytes(kept)) == (None if text == b"null" else text)


def test_an_extra_of_null_off_the_wire_is_absent() -> None:
    body = msgspec.json.encode(samples.wire_event(extra=None))

    assert row_of(msgspec.json.decode(body, type=UsageEvent))["extra"] is None


def test_only_the_rows_at_the_positions_are_made_and_keep_their_place() -> None:
    events = [samples.event() for _ in range(5)]

    made = rows.make(USAGE_EVENTS, events, [1, 4])

    assert [(row[0], row[2]) for row in made] == [(1, events[1].event_id), (4, events[4].event_id)]


def test_a_repeat_of_an_item_that_is_left_out_is_the_first_itself() -> None:
    events = [samples.event(event_id=ID) for _ in range(3)]

    assert [row[1] for row in rows.make(USAGE_EVENTS, events, [0, 1, 2])] == [False, True, True]
    assert [row[1] for row in rows.make(USAGE_EVENTS, events, [1, 2])] == [False, True]


@given(numbers=st.lists(st.integers(0, 5), max_size=12))
@settings(max_examples=200, deadline=None)
def test_of_every_id_exactly_the_first_is_no_repeat(numbers: list[int]) -> None:
    events = [samples.event(event_id=UUID(int=number)) for number in numbers]

    made = rows.make(USAGE_EVENTS, events, range(len(events)))

    assert [row[1] for row in made] == [number in numbers[:place] for place, number in enumerate(numbers)]
    assert [row[0] for row in made] == list(range(len(events)))


def test_no_items_make_no_rows() -> None:
    assert rows.make(USAGE_EVENTS, [], []) == []
