"""Items become COPY files and fingerprints. The files are read back by a reader that follows PostgreSQL's manual alone."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw
from msgspec.structs import asdict, replace

from ingest.events import INT4_MAX, MESSAGE_ARCHIVES, NO_JSON, USAGE_EVENTS, MessageArchive, Stream, UsageEvent
from ingest.store import rows
from tests import samples
from tests.reference.copy_files import HEADER, TRAILER, Row, read

ID = UUID("01972b1c-8c00-7000-8000-000000000001")
TIME = datetime(2025, 6, 1, 12, tzinfo=UTC)


def inserted(stream: Stream, items: Sequence[Any]) -> list[Row]:
    return read(rows.to_insert([rows.encode(stream, items)]), rows.COLUMNS[stream])


def claimed(*batches: Sequence[UsageEvent]) -> list[Row]:
    return read(rows.to_claim([rows.encode(USAGE_EVENTS, batch) for batch in batches]), rows.LEDGER_COLUMNS)


def staged(stream: Stream, batches: Sequence[Sequence[Any]], positions: Iterable[int] | None = None) -> list[Row]:
    group = [rows.encode(stream, batch) for batch in batches]
    wanted = set(range(sum(map(len, batches))) if positions is None else positions)
    return read(rows.to_stage(stream, group, wanted), (*rows.STAGING_COLUMNS, *rows.COLUMNS[stream]))


def fingerprint_of(item: UsageEvent | MessageArchive) -> int:
    stream = USAGE_EVENTS if isinstance(item, UsageEvent) else MESSAGE_ARCHIVES
    (row,) = staged(stream, [[item]])
    fingerprint = row["fingerprint"]
    assert isinstance(fingerprint, int)
    return fingerprint


def expected(item: UsageEvent | MessageArchive) -> Row:
    row = asdict(item)
    if isinstance(item, UsageEvent):
        row["total_tokens"] = item.total_tokens or 0
        row["extra"] = None if bytes(item.extra) in (b"", b"null") else bytes(item.extra)
    return row


FULL = samples.event(
    event_id=ID, event_time=TIME, latency_ms=5, status_code=200, error_type="e", prompt="p", extra={"a": 1, "b": [2.5]}
)
FULL_ARCHIVE = samples.archive(ID, stored_at=TIME)


# --- what a row holds -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("stream", "item"), [(USAGE_EVENTS, UsageEvent), (MESSAGE_ARCHIVES, MessageArchive)])
def test_the_columns_are_those_of_the_struct(stream: Stream, item: type[UsageEvent | MessageArchive]) -> None:
    assert sorted(rows.COLUMNS[stream]) == sorted(item.__struct_fields__)


def test_every_field_of_an_event_has_its_column() -> None:
    assert inserted(USAGE_EVENTS, [FULL]) == [expected(FULL)]


def test_every_field_of_an_archive_has_its_column() -> None:
    assert inserted(MESSAGE_ARCHIVES, [FULL_ARCHIVE]) == [expected(FULL_ARCHIVE)]


def test_what_an_event_lacks_is_null_and_its_tokens_are_none() -> None:
    (row,) = inserted(USAGE_EVENTS, [samples.event(total_tokens=None)])

    assert row["total_tokens"] == 0
    assert [row[field] for field in ("latency_ms", "status_code", "error_type", "prompt", "extra")] == [None] * 5


@pytest.mark.parametrize("field", ["stored_at", "prompt_full", "response_full"])
def test_what_an_archive_lacks_is_null(field: str) -> None:
    lacking = replace(FULL_ARCHIVE, **{field: None})

    assert inserted(MESSAGE_ARCHIVES, [lacking]) == [expected(lacking)]


@pytest.mark.parametrize("text", [b"null", b"{}", b'{"a":null}', b'{ "b" : 1.50, "a":1 }'])
def test_extra_that_is_null_is_absent_and_any_other_goes_as_it_came(text: bytes) -> None:
    (row,) = inserted(USAGE_EVENTS, [replace(FULL, extra=Raw(text))])

    assert row["extra"] == (None if text == b"null" else text)


def test_an_extra_of_null_off_the_wire_is_absent() -> None:
    body = msgspec.json.encode(samples.wire_event(extra=None))

    assert inserted(USAGE_EVENTS, [msgspec.json.decode(body, type=UsageEvent)])[0]["extra"] is None


def test_texts_stay_right_when_more_come_than_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "DIMENSIONS_KEPT_MAX", 3)
    events = [samples.event(user_id=f"user {k % 7}", team=f"team {k}") for k in range(50)]

    assert inserted(USAGE_EVENTS, events) == [expected(event) for event in events]


texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
times = st.builds(
    lambda since, hours: (TIME + since).astimezone(timezone(timedelta(hours=hours))),
    st.timedeltas(timedelta(days=-20_000), timedelta(days=20_000)),
    st.integers(-14, 14),
)
counts = st.none() | st.integers(0, INT4_MAX)
extras = st.sampled_from([NO_JSON, Raw(b"null")]) | st.dictionaries(texts, texts | st.integers(), max_size=2).map(
    lambda extra: Raw(msgspec.json.encode({key: str(value) for key, value in extra.items()}))
)
events = st.builds(
    UsageEvent,
    event_id=st.uuids(),
    event_time=times,
    user_id=texts,
    team=texts,
    service=texts,
    provider=texts,
    model=texts,
    total_tokens=counts,
    latency_ms=counts,
    status_code=st.none() | st.integers(100, 599),
    error_type=st.none() | texts,
    prompt=st.none() | texts,
    extra=extras,
)
archives = st.builds(
    MessageArchive,
    event_id=st.uuids(),
    user_id=texts,
    service=texts,
    prompt_full=st.none() | texts,
    response_full=st.none() | texts,
    stored_at=st.none() | times,
)


@given(items=st.lists(events, max_size=5))
@settings(max_examples=200, deadline=None)
def test_events_are_read_back_as_they_were_sent(items: list[UsageEvent]) -> None:
    assert inserted(USAGE_EVENTS, items) == [expected(item) for item in items]


@given(items=st.lists(archives, max_size=5))
@settings(max_examples=100, deadline=None)
def test_archives_are_read_back_as_they_were_sent(items: list[MessageArchive]) -> None:
    assert inserted(MESSAGE_ARCHIVES, items) == [expected(item) for item in items]


def test_rows_tell_their_ids_and_times() -> None:
    items = [samples.event() for _ in range(5)]

    encoded = rows.encode(USAGE_EVENTS, items)

    assert len(encoded) == 5
    assert list(encoded.event_ids) == [item.event_id.bytes for item in items]
    assert list(encoded.times) == [item.event_time for item in items]


def test_rows_of_archives_tell_their_ids_and_which_have_no_time() -> None:
    items = [replace(FULL_ARCHIVE, event_id=uuid4(), stored_at=time) for time in (TIME, None)]

    encoded = rows.encode(MESSAGE_ARCHIVES, items)

    assert list(encoded.event_ids) == [item.event_id.bytes for item in items]
    assert list(encoded.times) == [TIME, None]


# --- which rows a file holds ------------------------------------------------------------------------------------------


def test_claims_of_a_group_stand_in_the_order_of_their_ids() -> None:
    """Two groups with ids in common claim them in one order, and so never deadlock."""
    batches = [[samples.event() for _ in range(20)] for _ in range(3)]
    every = sorted((event for batch in batches for event in batch), key=lambda event: event.event_id)

    assert claimed(*batches) == [
        {"event_id": event.event_id, "event_time": event.event_time, "fingerprint": fingerprint_of(event)} for event in every
    ]


def test_the_rows_of_a_group_stand_in_its_order() -> None:
    batches = [[samples.event() for _ in range(count)] for count in (3, 1, 2)]
    every = [event for batch in batches for event in batch]

    file = rows.to_insert([rows.encode(USAGE_EVENTS, batch) for batch in batches])

    assert read(file, rows.COLUMNS[USAGE_EVENTS]) == [expected(event) for event in every]


@pytest.mark.parametrize("stream", [USAGE_EVENTS, MESSAGE_ARCHIVES], ids=lambda stream: stream.name)
def test_staged_rows_are_counted_through_the_group(stream: Stream) -> None:
    sample = samples.event if stream is USAGE_EVENTS else lambda: samples.archive(uuid4())
    batches = [[sample() for _ in range(count)] for count in (3, 1, 2)]
    every = [item for batch in batches for item in batch]

    assert staged(stream, batches) == [
        {"ord": ord_, "is_repeat": False, "fingerprint": fingerprint_of(item), **expected(item)}
        for ord_, item in enumerate(every)
    ]


def test_only_the_rows_at_the_positions_are_staged_and_keep_their_place() -> None:
    batches = [[samples.event() for _ in range(3)] for _ in range(2)]

    made = staged(USAGE_EVENTS, batches, [1, 2, 4])

    ids = [batches[0][1].event_id, batches[0][2].event_id, batches[1][1].event_id]
    assert [(row["ord"], row["event_id"]) for row in made] == list(zip([1, 2, 4], ids, strict=True))


def test_a_repeat_of_an_item_that_is_left_out_is_the_first_itself() -> None:
    repeated = [samples.event(event_id=ID) for _ in range(3)]

    assert [row["is_repeat"] for row in staged(USAGE_EVENTS, [repeated])] == [False, True, True]
    assert [row["is_repeat"] for row in staged(USAGE_EVENTS, [repeated], [1, 2])] == [False, True]


@given(batches=st.lists(st.lists(st.integers(0, 5), max_size=6), min_size=1, max_size=4))
@settings(max_examples=200, deadline=None)
def test_of_every_id_exactly_the_first_in_the_group_is_no_repeat(batches: list[list[int]]) -> None:
    group = [[samples.event(event_id=UUID(int=number)) for number in batch] for batch in batches]
    numbers = [number for batch in batches for number in batch]

    made = staged(USAGE_EVENTS, group)

    assert [row["is_repeat"] for row in made] == [number in numbers[:place] for place, number in enumerate(numbers)]
    assert [row["ord"] for row in made] == list(range(len(numbers)))


def test_no_items_make_files_without_a_row() -> None:
    assert claimed([]) == claimed([], []) == []
    for stream in (USAGE_EVENTS, MESSAGE_ARCHIVES):
        assert inserted(stream, []) == staged(stream, [[]]) == staged(stream, [[], []]) == []
    assert len(rows.encode(USAGE_EVENTS, [])) == 0


def test_a_batch_without_rows_changes_nothing_for_its_neighbours() -> None:
    events = [samples.event(), samples.event()]

    assert staged(USAGE_EVENTS, [[], events[:1], [], events[1:], []]) == staged(USAGE_EVENTS, [events])
    assert claimed([], events[:1], [], events[1:], []) == claimed(events)


# --- the pieces of a file ---------------------------------------------------------------------------------------------

SIZES = {
    "alike": [10] * 50,
    "larger than a piece": [1000, 0, 5000, 1],
    "one is huge": [1] * 40 + [20_000] + [1] * 40,
    "the last ones are huge": [0] * 60 + [900] * 12,
    "nearly a piece each": [280] * 20,
}


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())
def test_the_pieces_of_a_file_add_up_and_none_is_large(sizes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "PIECE_BYTES", 300)
    events = [samples.event(prompt="é" * size) for size in sizes]
    group = [rows.encode(USAGE_EVENTS, events[:3]), rows.encode(USAGE_EVENTS, events[3:])]

    def files() -> list[list[bytes]]:
        staging = rows.to_stage(USAGE_EVENTS, group, range(len(events)))
        return [list(rows.to_claim(group)), list(rows.to_insert(group)), list(staging)]

    for pieces in files():
        assert max(map(len, pieces)) <= 300 + len(HEADER) + len(TRAILER)
    cut = [b"".join(pieces) for pieces in files()]
    monkeypatch.setattr(rows, "PIECE_BYTES", 10**9)
    assert cut == [b"".join(pieces) for pieces in files()]
    assert read([cut[1]], rows.COLUMNS[USAGE_EVENTS]) == [expected(event) for event in events]


# --- fingerprints -----------------------------------------------------------------------------------------------------


def with_extra(text: str) -> int:
    return fingerprint_of(replace(FULL, extra=Raw(text.encode())))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('{"a":1,"b":2}', '{"b":2,"a":1}'),
        ('{"a":{"c":[1],"b":2},"d":3}', '{"d":3,"a":{"b":2,"c":[1]}}'),
        ('{"a":1}', ' { "a" :\n1\t} '),
        ('{"a":0}', '{"a":-0}'),
        ('{"a":1.5}', '{"a":1.500}'),
        ('{"a":1.5}', '{"a":15e-1}'),
        ('{"a":-2.5e-7}', '{"a":-0.00000025}'),
        ('{"a":0.1234567890123456789012345678901234567890}', '{"a":1234567890123456789012345678901234567890e-40}'),
        ('{"a":"é"}', r'{"a":"\u00e9"}'),
        ('{"a":"\N{GRINNING FACE}/"}', r'{"a":"\ud83d\ude00\/"}'),
        ('{"é":1}', r'{"\u00E9":1}'),
        ('{"a":2}', '{"a":1,"a":2}'),
        ('{"a":2}', r'{"a":1,"\u0061":2}'),
    ],
)
def test_json_that_is_the_same_has_the_same_fingerprint(one: str, other: str) -> None:
    assert with_extra(one) == with_extra(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('{"a":1}', '{"a":2}'),
        ('{"a":1}', '{"b":1}'),
        ('{"a":1}', '{"a":1.0}'),
        ('{"a":1}', '{"a":"1"}'),
        ('{"a":1.5}', '{"a":"1.5"}'),
        ('{"a":1}', '{"a":true}'),
        ('{"a":0}', '{"a":false}'),
        ('{"a":null}', "{}"),
        ('{"a":"null"}', '{"a":null}'),
        ('{"a":[1,2]}', '{"a":[2,1]}'),
        ('{"a":[1,2]}', '{"a":[[1,2]]}'),
        ('{"a":{}}', '{"a":[]}'),
        ('{"a":1,"b":2}', '{"a":2,"b":1}'),
        ('{"a":9007199254740993}', '{"a":9007199254740992}'),
        ('{"a":123456789012345678901234567890}', '{"a":123456789012345678901234567891}'),
        ('{"a":1e400}', '{"a":1e401}'),
        ('{"a":1e-400}', '{"a":0}'),
        ('{"a":"\N{LATIN SMALL LETTER E WITH ACUTE}"}', '{"a":"e\N{COMBINING ACUTE ACCENT}"}'),
        ("{}", "null"),
    ],
)
def test_json_that_is_not_the_same_has_another_fingerprint(one: str, other: str) -> None:
    assert with_extra(one) != with_extra(other)


def test_a_field_that_is_null_is_as_one_that_is_absent() -> None:
    lacking = samples.event(event_id=ID, event_time=TIME, total_tokens=0)
    told = replace(lacking, total_tokens=None, latency_ms=None, prompt=None, extra=Raw(b"null"))

    assert fingerprint_of(lacking) == fingerprint_of(told)


def test_one_moment_has_one_fingerprint_in_every_zone() -> None:
    elsewhere = TIME.astimezone(timezone(timedelta(hours=5, minutes=30)))

    assert fingerprint_of(FULL) == fingerprint_of(replace(FULL, event_time=elsewhere))
    assert fingerprint_of(FULL_ARCHIVE) == fingerprint_of(replace(FULL_ARCHIVE, stored_at=elsewhere))


def test_a_fingerprint_does_not_depend_on_what_stands_beside_it() -> None:
    beside = [samples.event(prompt="other"), FULL, samples.event(event_id=ID)]

    assert staged(USAGE_EVENTS, [beside])[1]["fingerprint"] == fingerprint_of(FULL)


def shown(change: dict[str, Any]) -> str:
    """The same in every process, which the address of a Raw is not."""
    return str({field: bytes(value) if isinstance(value, Raw) else value for field, value in change.items()})


CHANGES: list[dict[str, Any]] = [
    {"event_time": TIME + timedelta(microseconds=1)},
    *[{field: "other"} for field in ("user_id", "team", "service", "provider", "model", "error_type", "prompt")],
    *[{field: value} for field in ("total_tokens", "latency_ms") for value in (None, 1, 256, INT4_MAX)],
    *[{"status_code": value} for value in (None, 201)],
    *[{field: value} for field in ("error_type", "prompt") for value in (None, "", "P ")],
    {"extra": NO_JSON},
    {"extra": Raw(b"{}")},
    {"extra": Raw(b'{"a":1,"b":[2.6]}')},
]
ARCHIVE_CHANGES: list[dict[str, Any]] = [
    {"user_id": "other"},
    {"service": "other"},
    *[{field: value} for field in ("prompt_full", "response_full") for value in (None, "", "other")],
    *[{"stored_at": value} for value in (None, TIME + timedelta(microseconds=1))],
]


@pytest.mark.parametrize("change", CHANGES, ids=shown)
def test_every_field_of_an_event_counts(change: dict[str, Any]) -> None:
    assert fingerprint_of(replace(FULL, **change)) != fingerprint_of(FULL)


@pytest.mark.parametrize("change", ARCHIVE_CHANGES, ids=shown)
def test_every_field_of_an_archive_counts(change: dict[str, Any]) -> None:
    assert fingerprint_of(replace(FULL_ARCHIVE, **change)) != fingerprint_of(FULL_ARCHIVE)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"user_id": "ab", "team": "c"}, {"user_id": "a", "team": "bc"}),
        ({"user_id": "a", "team": "b"}, {"user_id": "b", "team": "a"}),
        ({"error_type": "x", "prompt": None}, {"error_type": None, "prompt": "x"}),
        ({"latency_ms": 7, "status_code": None}, {"latency_ms": None, "status_code": 7}),
        ({"prompt": None, "extra": Raw(b'{"a":1}')}, {"prompt": '{"a":1}', "extra": NO_JSON}),
    ],
    ids=shown,
)
def test_what_stands_in_one_field_is_not_taken_for_its_neighbours(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert fingerprint_of(replace(FULL, **one)) != fingerprint_of(replace(FULL, **other))


@given(one=events, other=events)
@settings(max_examples=200, deadline=None)
def test_fingerprints_are_equal_where_the_rows_are(one: UsageEvent, other: UsageEvent) -> None:
    other = replace(other, event_id=one.event_id)

    assert (fingerprint_of(one) == fingerprint_of(other)) == (same(one) == same(other))


def same(event: UsageEvent) -> Row:
    row = expected(event)
    return {**row, "extra": row["extra"] and msgspec.json.decode(row["extra"])}
