"""What other databases are sent holds what the events hold."""

import struct
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from benchmarks import events, line_protocol, row_binary
from benchmarks.bodies import Bodies
from ingest.events import UsageEvent
from tests.samples import wire_event

NOW = datetime(2025, 11, 24, 12, 30, 15, 123456, tzinfo=UTC)
ID = uuid.UUID("0197f0a1-b2c3-7d4e-8f56-0123456789ab")


def event(**fields: object) -> UsageEvent:
    fields = {"event_id": str(ID), "event_time": NOW.isoformat(), **fields}
    [decoded] = events.decode(msgspec.json.encode([wire_event(**fields)]))
    return decoded


# --- line protocol ------------------------------------------------------------------------------------------------------


def lines(*encoded: UsageEvent, number: int = 0) -> list[str]:
    return line_protocol.encode(encoded, number).decode().splitlines()


def time_ns(line: str) -> int:
    return int(line.rpartition(" ")[2])


def test_a_line_has_tags_fields_and_a_time():
    [line] = lines(event(latency_ms=81, status_code=200, error_type="none", prompt="Hi", extra={"a": [1]}), number=7)
    assert line == (
        "usage_events,model=gpt-4o,provider=openai,service=chat,team=search "
        f'event_id="{ID}",user_id="ada",total_tokens=1234i,latency_ms=81i,status_code=200i,error_type="none",prompt="Hi",'
        r'extra="{\"a\":[1]}" 1763987415123456007'
    )


@pytest.mark.parametrize("nothing", [None, ...])
def test_a_line_leaves_out_what_is_absent(nothing):
    [line] = lines(event(latency_ms=nothing, status_code=nothing, error_type=nothing, prompt=nothing, extra=nothing))
    assert line.split(" ")[1] == f'event_id="{ID}",user_id="ada",total_tokens=1234i'


@pytest.mark.parametrize(
    ("text", "written"),
    [("a,b", r"a\,b"), ("a=b", r"a\=b"), ("a b", r"a\ b"), ("a\\b", r"a\b"), ('"', '"'), ("Zürich 🚀", r"Zürich\ 🚀")],
)
def test_a_tag_is_escaped(text, written):
    assert line_protocol.tag(text) == written


@pytest.mark.parametrize("text", ["two\nlines", "ends with \\", "a\\,b", "a\\ b", "a\\=b"])
def test_a_tag_that_can_not_be_written_is_refused(text):
    with pytest.raises(ValueError, match="can't be a tag"):
        line_protocol.tag(text)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("plain, a=b", '"plain, a=b"'),
        ('say "hi"', r'"say \"hi\""'),
        ("a\\", r'"a\\"'),
        (r"\"", r'"\\\""'),
        ("a\nb", '"a\nb"'),
    ],
)
def test_text_is_escaped(text, written):
    assert line_protocol.string(text) == written


def test_points_never_meet():
    """Events of the same microsecond and tags, in one request and in others."""
    times = [time_ns(line) for number in range(1000) for line in lines(event(), number=number)]
    assert len(set(times)) == 1000
    times = [time_ns(line) for line in lines(*[event()] * 5)]
    assert times == list(range(times[0], times[0] + 5))


# --- RowBinary ----------------------------------------------------------------------------------------------------------


class Reader:
    """Reads RowBinary by the types of the columns."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.place = 0

    def take(self, count: int) -> bytes:
        taken = self.data[self.place : self.place + count]
        assert len(taken) == count
        self.place += count
        return taken

    def number(self, form: str) -> int:
        [value] = struct.unpack(form, self.take(struct.calcsize(form)))
        return int(value)

    def text(self) -> str:
        length = shift = 0
        while True:
            group = self.take(1)[0]
            length |= (group & 0x7F) << shift
            shift += 7
            if group < 0x80:
                return self.take(length).decode()

    def value(self, kind: str) -> Any:
        if kind.startswith("Nullable("):
            return None if self.take(1) == b"\x01" else self.value(kind.removeprefix("Nullable(").removesuffix(")"))
        if kind == "UUID":
            return uuid.UUID(int=self.number("<Q") << 64 | self.number("<Q"))
        if kind == "DateTime":
            return datetime.fromtimestamp(self.number("<I"), UTC)
        return self.text() if kind == "String" else self.number({"UInt32": "<I", "Int32": "<i", "Int16": "<h"}[kind])

    def rows(self) -> list[dict[str, Any]]:
        rows = []
        while self.place < len(self.data):
            rows.append({name: self.value(kind) for name, kind in row_binary.COLUMNS})
        return rows


def test_row_binary_reads_back():
    text = Bodies(5, 300).json(0, NOW)
    read = Reader(row_binary.encode(events.decode(text))).rows()
    sent = msgspec.json.decode(text)
    assert len(read) == len(sent) == 300
    for row, wire in zip(read, sent, strict=True):
        time = row.pop("event_time") + timedelta(microseconds=row.pop("event_microsecond"))
        extra = row.pop("extra")
        assert time == datetime.fromisoformat(wire.pop("event_time"))
        assert (None if extra is None else msgspec.json.decode(extra)) == wire.pop("extra", None)
        assert str(row.pop("event_id")) == wire.pop("event_id")
        assert row == dict.fromkeys(row) | wire


@pytest.mark.parametrize("nothing", [None, ...])
def test_row_binary_has_null_for_what_is_absent(nothing):
    [row] = Reader(
        row_binary.encode([event(latency_ms=nothing, status_code=nothing, error_type=nothing, prompt=nothing, extra=nothing)])
    ).rows()
    assert [name for name, value in row.items() if value is None] == [
        "latency_ms",
        "status_code",
        "error_type",
        "prompt",
        "extra",
    ]
    assert row["event_id"] == ID


@pytest.mark.parametrize(
    ("number", "written"), [(0, "00"), (127, "7f"), (128, "8001"), (300, "ac02"), (16_384, "808001"), (2**32, "8080808010")]
)
def test_leb128(number, written):
    assert row_binary.leb128(number).hex() == written
