"""Input to items: the text of each unchanged, however the bytes come."""

import gzip
import json
import tracemalloc
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest import errors
from ingest.client import Limits
from ingest.send import items, source
from ingest.send.items import Item
from ingest.send.journal import Ranges
from ingest.send.reader import Reader
from ingest.send.source import Source

MIB = 1024 * 1024


def pieces(text: bytes, size: int) -> Iterator[bytes]:
    return (text[start : start + size] for start in range(0, len(text), size))


def found(text: bytes, *, name: str = "x", size: int = 7, item_bytes_max: int = MIB) -> list[Item]:
    kind, chunks = items.detect(name, pieces(text, size), b"events")
    read = items.lines(chunks, item_bytes_max) if kind == "lines" else items.json_values(chunks, b"events", item_bytes_max)
    return list(read)


def texts(text: bytes, **options: object) -> list[bytes]:
    return [item.text for item in found(text, **options)]  # type: ignore[arg-type]


A = b'{"a":1e400,"b":{"c":[1.000,"}],[\\"{"]}}'
B = b'{ "b" : 12345678901234567890.10 , "events" : "events" }'
PRETTY = b'{\n  "a": [\n    1.0\n  ]\n}'


@pytest.mark.parametrize(
    "text",
    [
        A + b"\n" + B + b"\n",
        A + b"\r\n\r\n  " + B,
        b"\xef\xbb\xbf" + A + b"\n" + B,
        b"[" + A + b" , \n" + B + b"]",
        b' {"events": [' + A + b"," + B + b"]}\n",
        b'{"source": {"events": [1]},\n "events" :\n [' + A + b"," + B + b'], "n": [{}, "x"], "z": 1}',
        b'{"events": [' + A + b']}\n{"events": [' + B + b"]}",
        b"[" + A + b"] [" + B + b"]",
    ],
)
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_the_text_of_an_item_goes_through_as_it_is(text: bytes, size: int) -> None:
    assert texts(text, size=size) == [A, B]


@pytest.mark.parametrize("text", [PRETTY + b"\n" + PRETTY, PRETTY + b",\n" + PRETTY, b"[" + PRETTY + b",\n" + PRETTY + b"]"])
def test_items_over_several_lines(text: bytes) -> None:
    assert texts(text, size=5) == [PRETTY, PRETTY]


def test_bad_lines_stop_nothing_and_every_item_knows_its_line() -> None:
    text = b'{"cut\n' + A + b"\n\n  nonsense\n" + B + b'\n{"half": '

    for name in ("x", "x.ndjson", "x.jsonl.gz"):
        assert [(item.text, item.line) for item in found(text, name=name)] == [
            (b'{"cut', 1),
            (A, 2),
            (b"nonsense", 4),
            (B, 5),
            (b'{"half":', 6),
        ]


def test_a_line_that_is_too_long_costs_itself_and_no_memory() -> None:
    text = A + b"\n" + b"x" * 5000 + b"\n" + B

    one, two, three = found(text, item_bytes_max=1000, name="x.ndjson")

    assert (one.text, three.text) == (A, B)
    assert (two.line, two.too_long_bytes) == (2, 5000)
    assert len(two.text) <= items.SHOWN_BYTES


def test_a_bad_element_does_not_hide_its_neighbours() -> None:
    assert texts(b"[" + A + b', {"x": nonsense}, tru, ' + B + b"]") == [A, b'{"x": nonsense}', b"tru", B]


@pytest.mark.parametrize("text", [b"[" + A + b"," + B, b'{"events": [' + A + b"," + B + b" "])
def test_an_array_without_an_end_gives_what_is_in_it_and_then_says_so(text: bytes) -> None:
    kind, chunks = items.detect("x", pieces(text, 9), b"events")
    read = items.json_values(chunks, b"events", MIB)

    assert kind == "json"
    assert [next(read).text, next(read).text] == [A, B]
    with pytest.raises(errors.InputRefused, match="cut short"):
        next(read)


@pytest.mark.parametrize("text", [b"", b"\n \n", b"[]", b'{"events":[]}', b"[ ]\n"])
def test_nothing_is_nothing(text: bytes) -> None:
    assert texts(text) == []


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.lists(st.dictionaries(st.text(max_size=3), VALUES, max_size=3), min_size=1, max_size=6),
    st.sampled_from([None, 1]),
    st.integers(1, 40),
    st.booleans(),
)
def test_an_array_is_taken_apart_by_its_brackets_as_by_a_parser(
    objects: list[dict[str, object]], indent: int | None, size: int, is_slow: bool
) -> None:
    wanted = [json.dumps(value, indent=indent, ensure_ascii=False).encode() for value in objects]
    reading = items._Json(pieces(b"[" + b" ,\n".join(wanted) + b"]", size), b"events", MIB)
    reading._slow_bytes = MIB if is_slow else 0

    assert [item.text for item in reading.items()] == wanted


def written(folder: Path, text: bytes, name: str = "x.ndjson") -> str:
    (folder / name).write_bytes(text)
    return str(folder / name)


def test_gzip_is_known_by_its_bytes_whatever_its_members_and_its_name(tmp_path: Path) -> None:
    text = b"".join(b'{"n":%d}\n' % number for number in range(200_000))
    name = written(tmp_path, gzip.compress(text[:700]) + gzip.compress(text[700:]) + b"\0" * 600)

    opened = Source(name)

    assert b"".join(opened.chunks()) == text
    assert opened.read_bytes == opened.size_bytes
    opened.close()


@pytest.mark.parametrize("damage", [lambda data: data[:-20], lambda data: data[:2000] + b"xx" + data[2002:]])
def test_gzip_that_is_damaged_gives_what_is_before_and_then_says_so(tmp_path: Path, damage: object) -> None:
    data = gzip.compress(b"".join(b'{"n":"%s"}\n' % (b"%d" % n).hex().encode() for n in range(20_000)))
    opened = Source(written(tmp_path, damage(data)))  # type: ignore[operator]

    batches = Reader(opened, "usage-events", Limits(), items_max=10, input_format=None).batches(Ranges())

    with pytest.raises(errors.InputRefused, match="gzip data"):
        for _ in batches:
            pass
    opened.close()


def test_a_file_is_sent_by_one_at_a_time(tmp_path: Path) -> None:
    opened = Source(written(tmp_path, A))
    with pytest.raises(errors.InputRefused, match="another `ingest send`"):
        Source(opened.name)
    opened.close()
    Source(opened.name).close()


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(errors.InputRefused, match="No such file"):
        Source(str(tmp_path / "no"))


def test_batches_leave_out_what_is_acknowledged_and_stay_in_one_piece(tmp_path: Path) -> None:
    lines = [b'{"n":%d}' % number for number in range(20)]
    lines[12] = b'{"n":"%s"}' % (b"x" * 2000)
    opened = Source(written(tmp_path, b"\n".join(lines)))
    limits = msgspec.structs.replace(Limits(), body_bytes_max=1000)

    batches = list(Reader(opened, "usage-events", limits, items_max=4, input_format=None).batches(Ranges([(0, 3), (5, 9)])))

    assert [batch.first for batch in batches] == [3, 9, 12, 13, 17]
    assert [batch.texts for batch in batches] == [lines[3:5], lines[9:12], [], lines[13:17], lines[17:]]
    assert batches[2].too_long is not None
    assert batches[2].too_long.too_long_bytes == len(lines[12])
    assert [line for batch in batches for line in batch.lines] == [4, 5, *range(10, 21)]
    opened.close()


@pytest.mark.parametrize("form", ["lines", "json"])
def test_memory_does_not_grow_with_the_input(form: str) -> None:
    event = json.dumps({"extra": {"a": [{"b": "x" * 300}]}, "model": "m"}).encode()
    block = (event + (b"\n" if form == "lines" else b",")) * 1000
    blocks = chain([b"" if form == "lines" else b"["], (block for _ in range(100)), [event + b"]"])
    read = items.lines(blocks, MIB) if form == "lines" else items.json_values(blocks, b"events", MIB)

    tracemalloc.start()
    count = sum(1 for _ in read)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert count == 100_001
    assert peak_bytes < 6 * MIB


@given(st.lists(st.integers(0, 30), unique=True))
def test_ranges_are_the_numbers_that_were_added(numbers: list[int]) -> None:
    ranges = Ranges()
    for number in numbers:
        ranges.add(number, number + 1)

    assert [number for number in range(-1, 33) if number in ranges] == sorted(numbers)
    assert ranges.count == len(numbers)
    assert all(one[1] < two[0] for one, two in zip(ranges.pairs, ranges.pairs[1:], strict=False))


def test_the_identity_tells_a_changed_file(tmp_path: Path) -> None:
    first = Source(written(tmp_path, A))
    first.close()
    second = Source(written(tmp_path, A.replace(b"1", b"2")))
    second.close()

    assert first.identity != second.identity
    assert len(A) <= source.HEAD_BYTES
