"""A body of any shape gives its items; past a limit, or where it can't be read, it is refused."""

import json
import tracemalloc
from uuid import UUID

import pytest

from ingest import errors
from ingest.events import MESSAGE_ARCHIVES, USAGE_EVENTS, Stream
from ingest.web import decode as decoding
from ingest.web.decode import Media
from tests.unit.wire import (
    ALL_SHAPES,
    ID,
    ITEMS_MAX,
    SHAPES,
    WINDOW,
    archive_text,
    decode,
    event_text,
    event_with,
    extra_of,
    wire_event,
)


@pytest.fixture(autouse=True, params=["small", "large"])
def size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test takes its bodies for small ones, and then for large ones."""
    if request.param == "large":
        monkeypatch.setattr(decoding, "LIST_BYTES_MAX", -1)


@pytest.mark.parametrize("name", ALL_SHAPES)
def test_every_shape_gives_its_items_in_order(name: str) -> None:
    shape, media = ALL_SHAPES[name]
    texts = [event_text(user_id=f"user {k}") for k in range(3)]

    batch = decode(shape(texts), media)

    assert batch.received == 3
    assert [event.user_id for event in batch.items] == ["user 0", "user 1", "user 2"]
    assert list(batch.indices) == [0, 1, 2]
    assert (list(batch.rejections), batch.sanitized, batch.stream) == ([], frozenset(), USAGE_EVENTS)


@pytest.mark.parametrize("name", ALL_SHAPES)
def test_one_bad_item_never_costs_the_others(name: str) -> None:
    shape, media = ALL_SHAPES[name]
    texts = [event_text(user_id="first"), event_text(team=""), event_text(user_id="last")]

    batch = decode(shape(texts), media)

    assert batch.received == 3
    assert [event.user_id for event in batch.items] == ["first", "last"]
    assert list(batch.indices) == [0, 2]
    assert [(rejection.index, rejection.field) for rejection in batch.rejections] == [(1, "team")]


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_may_be_empty(name: str) -> None:
    shape, media = SHAPES[name]

    batch = decode(shape([]), media)

    assert (batch.received, list(batch.items), list(batch.rejections)) == (0, [], [])


def test_an_object_that_is_no_envelope_is_one_item() -> None:
    batch = decode(f" {event_text()}\n")

    assert (batch.received, [event.event_id for event in batch.items]) == (1, [UUID(ID)])


def test_an_envelope_whose_name_holds_no_array_is_one_item() -> None:
    batch = decode(event_with("events", '{"of": "a client"}'))

    assert extra_of(batch.items[0]) == {"events": {"of": "a client"}}


@pytest.mark.parametrize("user_id", ["ada", ""], ids=["good", "bad"])
def test_an_envelope_is_one_though_it_has_the_fields_of_an_item_too(user_id: str) -> None:
    item = archive_text(user_id=user_id)

    batch = decode(f'{{"archives": [{item}, {item}], {archive_text()[1:]}', stream=MESSAGE_ARCHIVES)

    assert batch.received == 2


def test_each_stream_has_its_own_envelope() -> None:
    assert decode(f'{{"archives": [{archive_text()}]}}', stream=MESSAGE_ARCHIVES).items[0].user_id == "ada"
    assert decode(f'{{"events": [{archive_text()}]}}', stream=MESSAGE_ARCHIVES).rejections[0].code == "missing_field"


def test_a_pretty_printed_body_is_read() -> None:
    one = wire_event(extra={"a": [1, 2]})

    assert decode(json.dumps([one, one], indent=2)).received == 2
    assert decode(json.dumps({"events": [one, one]}, indent=2)).received == 2
    assert decode(json.dumps(one, indent=2)).received == 1


@pytest.mark.parametrize("first", ["{oops}", "{}", '{"event_id": 5, }', event_text(team="")])
def test_ndjson_that_says_json_is_known_though_its_first_line_is_bad(first: str) -> None:
    batch = decode(f"{first}\n{event_text()}\n")

    assert (batch.received, list(batch.indices)) == (2, [1])
    assert batch.rejections[0].index == 0


@pytest.mark.parametrize("last", ["{oops}", "oops", "5", "[]", event_text()[:30]])
def test_ndjson_that_says_json_is_known_though_its_last_line_is_bad(last: str) -> None:
    batch = decode(f"{event_text()}\n{last}")

    assert (batch.received, list(batch.indices)) == (2, [0])
    assert (batch.rejections[0].index, batch.rejections[0].code) == (1, "invalid_json")


@pytest.mark.parametrize("first", ["5", "null", '"x"'])
def test_ndjson_that_says_json_is_known_though_its_first_line_is_a_scalar(first: str) -> None:
    assert decode(f"{first}\n{event_text()}").received == 2


@pytest.mark.parametrize("media", Media)
def test_strict_is_handed_on(media: Media) -> None:
    assert decode(event_text(), media, strict=True).strict
    assert decode(event_text(team=""), media, strict=True).strict
    assert not decode(event_text(), media).strict


# --- NDJSON is one item a line ----------------------------------------------------------------------------------------


def test_two_values_on_one_line_are_no_item() -> None:
    batch = decode(f"{event_text()} {event_text()}\n{event_text()}", Media.NDJSON)

    assert (batch.received, list(batch.indices)) == (2, [1])


@pytest.mark.parametrize("blank", ["\v", "\f", "\x85", "\xa0", "\u2028", "\ufeff"])
def test_a_blank_that_is_none_of_json_makes_a_line_invalid(blank: str) -> None:
    batch = decode(f"{blank}{event_text()}\n{event_text()}{blank}\n{blank}\n{event_text()}", Media.NDJSON)

    assert (batch.received, list(batch.indices)) == (4, [3])


def test_values_on_one_line_do_not_slip_past_the_limit() -> None:
    assert decode(event_text() * (ITEMS_MAX + 1), Media.NDJSON).received == 1


def test_an_item_on_several_lines_is_read_the_same_whether_or_not_another_is_bad() -> None:
    pretty = json.dumps(wire_event(), indent=1)

    alone = decode(pretty, Media.NDJSON, items_max=100)
    beside_a_bad_one = decode(f"{pretty}\n{{}}", Media.NDJSON, items_max=100)

    assert len(alone.items) == len(beside_a_bad_one.items)


# --- limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("item", [event_text(), "{}"], ids=["good", "bad"])
@pytest.mark.parametrize("name", ALL_SHAPES)
def test_as_many_items_as_the_limit_are_taken_and_one_more_is_not(name: str, item: str) -> None:
    shape, media = ALL_SHAPES[name]

    assert decode(shape([item] * ITEMS_MAX), media).received == ITEMS_MAX
    with pytest.raises(errors.LimitExceeded) as caught:
        decode(shape([item] * (ITEMS_MAX + 1)), media)
    assert (caught.value.name, caught.value.limit, caught.value.seen) == ("MAX_BULK_SIZE", ITEMS_MAX, ITEMS_MAX + 1)


def test_an_item_past_the_limit_counts_though_it_is_of_another_type() -> None:
    with pytest.raises(errors.LimitExceeded):
        decode(f"[{', '.join([event_text()] * ITEMS_MAX)}, null]")


@pytest.mark.parametrize(
    "body",
    [
        b"[" + b"1," * 10**7 + b"1]",
        b'{"events": [' + b"[]," * 10**6 + b"1]}",
        b'{"v": [' + b"1," * 10**7 + b'1], "events": [' + b"{}," * 1000 + b"{}]}",
        b"[" + b"{}," * 10**6 + b"{}]",
    ],
    ids=["10⁷ numbers", "10⁶ arrays", "10⁷ numbers aside", "10⁶ objects"],
)
def test_a_bomb_of_elements_is_refused_without_building_them(body: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(errors.LimitExceeded, match="MAX_BULK_SIZE"):
            decoding.decode(USAGE_EVENTS, body, Media.JSON, WINDOW, items_max=1000)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak_bytes < 2.5 * len(body)  # the text decoded for the check of UTF-8, and its mended copy


def test_a_bomb_of_lines_is_refused_without_splitting_them() -> None:
    body = b"{}\n" * 10**6

    tracemalloc.start()
    try:
        with pytest.raises(errors.LimitExceeded, match="MAX_BULK_SIZE"):
            decoding.decode(USAGE_EVENTS, body, Media.NDJSON, WINDOW, items_max=1000)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak_bytes < 1024 * 1024


def test_an_item_of_too_many_unknown_fields_is_refused_before_it_is_taken_apart() -> None:
    many = ", ".join(f'"{k:x}": 0' for k in range(500_001))

    tracemalloc.start()
    try:
        batch = decode(f"{event_text()[:-1]}, {many}}}")
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert [(rejection.code, rejection.field) for rejection in batch.rejections] == [("invalid_field", None)]
    assert peak_bytes < 64 * 1024 * 1024


# --- bodies that can't be read -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b" \n", b"hello", b"5", b'"x"', b"null", b"true", b"[", b"[}", b"[1", b"[1,]", b"{", b'{"events": ['),
        *(b"[1 2]", b"['a']", b"[NaN]", b"[Infinity]", b"[01]", b"[1.]", b"[+1]", b"[.5]", b"[0x10]", b"[undefined]"),
        *(b'["\n"]', b'["\x00"]', b'["\x1f"]', rb'["\x41"]', rb'["\u12"]', rb'["\ud83d\u"]', b"[/* */]"),
        *(b"\xff\xfe[\x00]\x00", b"\x00[\x00]", b"\x1f\x8b\x08\x00"),
    ],
)
def test_a_body_that_is_no_json_is_refused(body: bytes) -> None:
    with pytest.raises(errors.BodyUnreadable) as caught:
        decode(body)

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bad", [b"\xff", b"\xc3", b"\xc0\x80", b"\xed\xa0\xbd", b"\xf4\x90\x80\x80"])
@pytest.mark.parametrize("field", ["user_id", "prompt", "extra", "unknown"])
@pytest.mark.parametrize("media", Media)
def test_a_body_that_is_not_utf8_is_refused(media: Media, field: str, bad: bytes) -> None:
    value = {"in": "Q"} if field == "extra" else "Q"
    body = event_text(**{field: value}).encode().replace(b"Q", bad)

    with pytest.raises(errors.BodyUnreadable, match="not UTF-8"):
        decode(body, media)


@pytest.mark.parametrize(
    ("body", "stream"),
    [
        (f'{{"v": "Q", "events": [{event_text()}]}}', USAGE_EVENTS),
        (f"[{archive_text(unknown='Q')}]", MESSAGE_ARCHIVES),
    ],
    ids=["beside the envelope", "in a field that is skipped"],
)
def test_a_body_that_is_not_utf8_where_it_is_skipped_is_refused_too(body: str, stream: Stream) -> None:
    with pytest.raises(errors.BodyUnreadable, match="not UTF-8"):
        decode(body.encode().replace(b"Q", b"\xff"), stream=stream)


def test_a_byte_order_mark_is_no_json() -> None:
    # RFC 8259, section 8.1: it must not be added, and may be treated as an error.
    with pytest.raises(errors.BodyUnreadable):
        decode(b"\xef\xbb\xbf" + f"[{event_text()}]".encode())


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_a_body_of_nothing_but_nesting_is_refused(opening: str) -> None:
    with pytest.raises(errors.BodyUnreadable, match="nested too deeply"):
        decode(opening * 100_000)


@pytest.mark.parametrize("levels", [201, 500, 100_000])
def test_a_line_that_is_nested_too_deeply_costs_only_itself(levels: int) -> None:
    deep = event_with("extra", '{"a":' * levels + "1" + "}" * levels)

    batch = decode(f"{deep}\n{event_text()}", Media.NDJSON)

    assert list(batch.indices) == [1]
    assert batch.rejections[0].index == 0


@pytest.mark.parametrize("levels", [201, 500])
def test_an_element_that_is_nested_too_deeply_costs_only_itself(levels: int) -> None:
    deep = event_with("extra", '{"a":' * levels + "1" + "}" * levels)

    batch = decode(f"[{deep},{event_text()}]")

    assert list(batch.indices) == [1]
    assert (batch.rejections[0].index, batch.rejections[0].event_id) == (0, ID)


def test_an_array_with_an_element_that_can_not_be_skipped_is_refused_whole() -> None:
    # Past about 1000 levels nothing finds the end of the element, and so not the beginning of the next.
    with pytest.raises(errors.BodyUnreadable, match="nested too deeply"):
        decode(f"[{event_with('extra', '[' * 100_000 + ']' * 100_000)},{event_text()}]")
