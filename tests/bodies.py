"""Bodies for tests, made by hypothesis: as clients write them, nearly so, and spoilt; and what codings make of them."""

import gzip
import json
import sys
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from hypothesis import strategies as st

from ingest.events import STREAMS, USAGE_EVENTS, Stream
from ingest.web.decode import Media
from tests.reference.items import RULES
from tests.reference.values import Number, Object
from tests.unit.wire import MICROSECOND, NOW, WINDOW

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

# --- JSON, in different hands -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Hand:
    """How somebody writes JSON."""

    blank: str
    """Stands wherever one may."""
    escapes: str
    """Which characters are escaped though they need not be: none, not ASCII, all, or some."""


hands = st.builds(
    Hand, st.sampled_from(["", "", " ", "\t \r", "\n", " \r\n"]), st.sampled_from(["none", "ASCII", "all", "some"])
)


def written(value: Any, hand: Hand) -> str:
    """The JSON text of a value: objects are Object, numbers are Number."""
    blank = hand.blank
    if isinstance(value, Number):
        return str(value)
    if isinstance(value, str):
        return _written_text(value, hand.escapes)
    if isinstance(value, list):
        return "[" + blank + f"{blank},{blank}".join(written(element, hand) for element in value) + blank + "]"
    if isinstance(value, Object):
        members = [f"{written(name, hand)}{blank}:{blank}{written(member, hand)}" for name, member in value.members]
        return "{" + blank + f"{blank},{blank}".join(members) + blank + "}"
    return json.dumps(value)


def _written_text(text: str, escapes: str) -> str:
    if escapes == "ASCII":
        return json.dumps(text)
    return '"' + "".join(_written_character(character, place, escapes) for place, character in enumerate(text)) + '"'


def _written_character(character: str, place: int, escapes: str) -> str:
    if escapes == "all" or (escapes == "some" and place % 3 == 1) or character < " " or "\ud800" <= character <= "\udfff":
        units = character.encode("utf-16-be", "surrogatepass")
        spelled = units.hex().upper() if place % 2 else units.hex()
        return "".join(f"\\u{spelled[start : start + 4]}" for start in range(0, len(spelled), 4))
    return "\\" + character if character in '"\\' or (character == "/" and escapes == "some") else character


# --- values -----------------------------------------------------------------------------------------------------------

texts = st.text(st.sampled_from('aé😀"\\/u0d8 \n\0\x7f\ud83d\ude00\ufffd'), max_size=6)

numbers = st.sampled_from(
    [
        *("0", "-0", "1", "7", "-1", "99", "100", "599", "600", "2147483647", "2147483648", "-2147483648"),
        *("9223372036854775807", "9223372036854775808", "-9223372036854775809", "18446744073709551616", "1" * 40),
        *("1.0", "1.5", "-0.0", "0e0", "1e2", "1E+2", "15e-1", "1e0001", "1e308", "1e309", "-1e400"),
        *("1e999", "1e1000", "1e-999", "1e-1000", "1E+0999", "1e+00000001000", "1.5e00999", "0.1e99999999999"),
        *("1" * 999, "1" * 1000, "0." + "1" * 999, "0." + "1" * 1000, "1" * 600 + "." + "1" * 600),
    ]
).map(Number)  # fmt: skip


def _nested(levels: int) -> Any:
    value: Any = Number("1")
    for level in range(levels):
        value = [value] if level % 2 else Object([("a", value)])
    return value


deep = st.sampled_from([198, 199, 200, 201, 202]).map(_nested)
names = texts | st.sampled_from(["region", "$.region", "1e9999", "[", "events", "archives", *RULES["usage_events"]])


def _objects(members: st.SearchStrategy[Any], *, max_size: int = 3) -> st.SearchStrategy[Object]:
    return st.lists(st.tuples(names, members), max_size=max_size).map(Object)


usual_numbers = st.integers(-5, 2**31).map(str).map(Number)
odd_texts = st.sampled_from(["1e9999", "1" * 1200, "[" * 300, "\\u0000", "\\ud83d"])
values = st.recursive(
    st.none() | st.booleans() | usual_numbers | texts | texts | odd_texts | usual_numbers | usual_numbers | numbers,
    lambda inner: st.lists(inner, max_size=3) | _objects(inner),
    max_leaves=5,
)


taken_moments = st.sampled_from([NOW, NOW, WINDOW.oldest, WINDOW.newest])
refused_moments = st.sampled_from([WINDOW.oldest - MICROSECOND, WINDOW.newest + MICROSECOND]) | st.datetimes(
    datetime(1, 1, 3),  # noqa: DTZ001 - as it is asked for
    datetime(9999, 12, 29),  # noqa: DTZ001
    timezones=st.just(UTC),
)


@st.composite
def times(draw: st.DrawFn, moments: st.SearchStrategy[datetime]) -> str:
    """RFC 3339 in all its forms, and in some that are not in it but taken."""
    moment = draw(moments)
    offset = draw(st.sampled_from([0, 0, 0, 120, -330, 1439, -1439]) | st.integers(-1439, 1439))
    local = moment.astimezone(timezone(timedelta(minutes=offset)))
    fraction = draw(st.sampled_from(["", "", "0", "4", "49999999999999999999", "5", "50000", "9", "999999999999"]))
    digits = f".{local.microsecond:06d}{fraction}" if local.microsecond or fraction or draw(st.booleans()) else ""
    colon = draw(st.sampled_from([":", ":", ""]))
    signed = f"{'-' if offset < 0 else '+'}{abs(offset) // 60:02d}{colon}{abs(offset) % 60:02d}"
    zone = signed if offset else draw(st.sampled_from(["Z", "z", "+00:00", "-00:00"]))
    return f"{local:%Y-%m-%d}".rjust(10, "0") + draw(st.sampled_from("TTTt ")) + f"{local:%H:%M:%S}{digits}{zone}"


no_times = st.sampled_from(
    [
        *("now", "", "2025-06-01", "2025-06-01T12:00:00", "2025-06-01T12:00Z", "20250601T120000Z", "2025-W22-7T12:00:00Z"),
        *("2025-06-31T12:00:00Z", "2025-06-01T24:00:00Z", "2025-06-01T12:60:00Z", "2025-06-01T12:00:00,5Z"),
        *("2025-05-31T23:59:60Z", "2016-12-31T23:59:60Z", "2016-12-31T23:59:61Z", "2025-06-01T12:00:00.Z"),
        *("2025-06-01T12:00:00+24:00", "2025-06-01T12:00:00+12:60", "2025-06-01T12:00:00+02", "2025-06-01T12:00:00+2:00"),
        *("2025-06-01T12:00:00ZZ", " 2025-06-01T12:00:00Z", "2025-06-01T12:00:00Z\0", "2025-06-01T12:00:00\u221202:00"),
        *("\uff12025-06-01T12:00:00Z", "0000-01-01T00:00:00Z", "10000-01-01T00:00:00Z", "-001-01-01T00:00:00Z"),
        *("9999-12-31T23:59:59.9999999Z", "9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59-23:59"),
        *("0001-01-01T00:00:00Z", "0001-01-01T00:00:00+23:59"),
    ]
)

event_ids = st.uuids().flatmap(
    lambda event_id: st.sampled_from([str(event_id), str(event_id), str(event_id).upper(), event_id.hex])
)
no_event_ids = st.uuids().flatmap(
    lambda event_id: st.sampled_from([f"{{{event_id}}}", event_id.urn, str(event_id)[:-1], f"{event_id} ", f"{event_id}\0"])
)
dimensions = st.sampled_from(["ada", "é" * 256, "😀" * 256, "\ufffd", "\\ud83d", " "])
no_dimensions = st.sampled_from(["", "x" * 257, "\0", "\ud83d", "a\ude00", "\ude00\ud83d"])
counts = st.none() | st.sampled_from(["0", "-0", "7", "2147483647"]).map(Number)

_good: dict[str, st.SearchStrategy[Any]] = {
    "event_id": event_ids,
    "event_time": times(taken_moments),
    "stored_at": st.none() | times(taken_moments),
    **dict.fromkeys(["user_id", "team", "service", "provider", "model"], dimensions),
    **dict.fromkeys(["total_tokens", "latency_ms"], counts),
    "status_code": st.none() | st.sampled_from(["100", "599"]).map(Number),
    "error_type": st.none() | texts | st.sampled_from(["", "😀" * 256]),
    **dict.fromkeys(["prompt", "prompt_full", "response_full"], st.none() | texts),
    "extra": st.none() | _objects(values) | st.just(Object([])),
}
_bad: dict[str, st.SearchStrategy[Any]] = {
    "event_id": no_event_ids,
    **dict.fromkeys(["event_time", "stored_at"], no_times | times(refused_moments)),
    **dict.fromkeys(["user_id", "team", "service", "provider", "model"], no_dimensions),
    **dict.fromkeys(["total_tokens", "latency_ms", "status_code"], numbers),
    "error_type": st.just("e" * 257),
    "extra": deep,
}


# --- items ------------------------------------------------------------------------------------------------------------


@st.composite
def items(draw: st.DrawFn, stream: Stream) -> Any:
    """An item with nothing, little or much wrong with it. Most are good."""
    known = list(RULES[stream.name])
    members = [(name, draw(_good[name])) for name in known]
    kind = draw(st.integers(0, 9))
    if kind == 9:
        return draw(values)
    if kind in (1, 2):
        members += draw(st.lists(st.tuples(names, values | deep), max_size=3))
    for _ in range(draw(st.integers(1, 2)) if kind in (3, 4) else 0):
        at = draw(st.integers(0, len(members) - 1))
        name = members[at][0]
        members[at] = (name, draw(_bad.get(name, values) | values))
    if kind == 5:
        members.pop(draw(st.integers(0, len(members) - 1)))
    if kind in (6, 7):  # a name stands twice
        name = draw(st.sampled_from(known))
        again = (name, draw(_bad.get(name, values) | values | _good[name]))
        members.insert(draw(st.integers(0, len(members))), again)
    return Object(draw(st.permutations(members)) if draw(st.booleans()) else members)


# --- bodies -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sent:
    """A body, and what it claims to be."""

    stream: Stream
    media: Media
    body: bytes


def _array(texts: Sequence[str], blank: str) -> str:
    return f"[{blank}" + f"{blank},{blank}".join(texts) + f"{blank}]"


def _envelope(before: str, behind: str) -> Callable[[str, Sequence[str], str], str]:
    return lambda name, texts, blank: f'{{{before}"{name}"{blank}:{blank}{_array(texts, blank)}{behind}}}'


_SHAPES: dict[str, Callable[[str, Sequence[str], str], str]] = {
    "array": lambda name, texts, blank: _array(texts, blank),
    "envelope": _envelope("", ""),
    "envelope with more": _envelope('"v": {}, ', ', "sent_at": [1, "\\u0000", {"events": 5}]'),
    "envelope twice, the last is none": _envelope("", ', "events": 5, "archives": "x"'),
    "envelope twice, the first is none": _envelope('"events": {}, "archives": null, ', ""),
    "envelope spelled otherwise": lambda name, texts, blank: f'{{"\\u{ord(name[0]):04x}{name[1:]}":{_array(texts, blank)}}}',
    "one": lambda name, texts, blank: texts[0] if texts else "",
    "lines": lambda name, texts, blank: "\n".join(texts),
    "lines with CRLF": lambda name, texts, blank: "".join(f"{text}\r\n" for text in texts),
    "lines with blank ones": lambda name, texts, blank: "\n \t\n" + "\n\r\n\n".join(f" {text}\t" for text in texts) + "\n\n",
    "two on a line": lambda name, texts, blank: " ".join(texts[:2]) + "\n" + "\n".join(texts[2:]),
}

TOKENS = [
    *(b"", b"\n", b"\r\n", b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b" ", b"0", b"-", b".", b"e", b"null", b"{}"),
    *(b"\x00", b"\x0b", b"\x0c", b"\x1f", b"\x85", b"\xa0", b"\xff", b"\xc3"),
    *(b"\xed\xa0\xbd", b"\xef\xbb\xbf", b"\xe2\x80\xa8"),
    *(rb"\u0000", rb"\ud83d", rb"\ude00", rb"\u", rb"\ufffd", rb"\uFfFd", rb"\x41", b"NaN", b"Infinity", b"/**/", b"'"),
]


@st.composite
def spoilt(draw: st.DrawFn, body: bytes) -> bytes:
    """The body with a few bytes gone, or others in their place."""
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(body)))
        gone = draw(st.sampled_from([0, 0, 1, 1, 2, 10, 200]))
        body = body[:start] + draw(st.sampled_from(TOKENS) | st.binary(max_size=3)) + body[start + gone :]
    return body


@st.composite
def bodies(draw: st.DrawFn) -> Sent:
    """A body of either stream: one in four is spoilt."""
    stream = draw(st.sampled_from([USAGE_EVENTS, *STREAMS]))
    hand = draw(hands)
    shape = draw(st.sampled_from(sorted(_SHAPES)))
    # A blank that is a line break would cut an item on a line in two, which is no bad test, but not the usual one.
    is_lines = "line" in shape
    if is_lines and "\n" in hand.blank and draw(st.integers(0, 3)) < 3:
        hand = Hand(" ", hand.escapes)
    media = draw(st.sampled_from([Media.JSON, Media.NDJSON if is_lines else Media.JSON, *Media]))
    few, many = draw(st.sampled_from([(1, 3), (1, 1), (0, 2), (1, 4), (5, 7)]))
    listed = [written(item, hand) for item in draw(st.lists(items(stream), min_size=few, max_size=many))]
    body = _SHAPES[shape](stream.envelope, listed, hand.blank).encode()
    if draw(st.integers(0, 3)) == 3:
        body = draw(spoilt(body))
    return Sent(stream, media, body)


# --- codings ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Coded:
    """A body as it goes over the wire."""

    coding: str
    chunks: tuple[bytes, ...]

    @property
    def wire(self) -> bytes:
        """All of it."""
        return b"".join(self.chunks)


def cut(data: bytes, places: Iterable[int]) -> tuple[bytes, ...]:
    """The data cut at these places, which must be in order."""
    ends = [*places, len(data)]
    return tuple(data[start:end] for start, end in zip([0, *ends], ends, strict=False))


def _raw_deflate(data: bytes) -> bytes:
    deflating = zlib.compressobj(wbits=-15)
    return deflating.compress(data) + deflating.flush()


def gzip_with_every_field(data: bytes) -> bytes:
    """A member whose header has FEXTRA, FNAME, FCOMMENT and FHCRC (RFC 1952, section 2.3)."""
    head = b"\x1f\x8b\x08\x1e" + bytes(6) + b"\x04\x00ABCD" + b"name\0" + b"comment\0"
    sums = zlib.crc32(data).to_bytes(4, "little") + len(data).to_bytes(4, "little")
    return head + (zlib.crc32(head) & 0xFFFF).to_bytes(2, "little") + _raw_deflate(data) + sums


def _with_checksum(data: bytes) -> bytes:
    return zstd.compress(data, options={zstd.CompressionParameter.checksum_flag: True})


ENCODERS: dict[str, list[Callable[[bytes], bytes]]] = {
    "gzip": [lambda data: gzip.compress(data, 1), lambda data: gzip.compress(data, 0), gzip_with_every_field],
    "zstd": [zstd.compress, _with_checksum, lambda data: zstd.compress(data, 19)],
    "deflate": [zlib.compress, _raw_deflate],
    "identity": [bytes],
}
"""By coding: compressors of one stream each."""
BETWEEN = {"gzip": [b"", b"", b"\0", b"\0" * 600], "zstd": [b"", b"", b"\x50\x2a\x4d\x18\x05\0\0\0hello"]}
"""What may stand behind one stream of those codings that take several."""


@st.composite
def coded(draw: st.DrawFn, body: bytes) -> Coded:
    """The body in a coding, in one stream or several, in chunks of any size; one in four is spoilt."""
    coding = draw(st.sampled_from(["gzip", "gzip", "zstd", "deflate", "identity"]))
    places = st.lists(st.integers(0, len(body)), max_size=3).map(sorted)
    parts = cut(body, draw(places)) if coding in BETWEEN else (body,)
    wire = b"".join(
        draw(st.sampled_from(ENCODERS[coding]))(part) + draw(st.sampled_from(BETWEEN.get(coding, [b""]))) for part in parts
    )
    if draw(st.integers(0, 3)) == 3:
        wire = draw(spoilt(wire))
    return Coded(coding, cut(wire, sorted(draw(st.lists(st.integers(0, len(wire)), max_size=5)))))
