"""A body, held against the reference in every way that it may be read. The first byte says of which stream and type it is."""

import json

from ingest.events import MESSAGE_ARCHIVES, STREAMS, USAGE_EVENTS, Stream
from ingest.web.decode import Media
from tests.bodies import TOKENS as BODY_TOKENS
from tests.reference.comparison import compare
from tests.reference.items import RULES
from tests.unit.wire import ALL_SHAPES, ITEMS_MAX, WINDOW, archive_text, event_text, event_with

_KINDS = [(stream, media) for stream in STREAMS for media in Media]


def examine(data: bytes) -> None:
    """Raises AssertionError where service and reference differ, and whatever else the service raises."""
    if data:
        stream, media = _KINDS[data[0] % len(_KINDS)]
        compare(stream, data[1:], media, WINDOW, ITEMS_MAX)


def _input(stream: Stream, media: Media, text: str) -> bytes:
    return bytes([_KINDS.index((stream, media))]) + text.encode()


_EVENTS = {
    "whole": event_text(latency_ms=5, status_code=200, error_type="e", prompt="é😀", extra={"a": [1.5, {"b": None}]}),
    "nulls": event_text(**dict.fromkeys(["total_tokens", "latency_ms", "error_type", "prompt", "extra"])),
    "unknown": event_text(region="eu", extra={"region": 1, "$.region": 2}),
    "twice": event_text()[:-1] + ', "user_id": "", "user_id": "eve", "extra": 1, "extra": {}}',
    "mended": event_text(prompt="\0\ud83d\ufffd", extra={"\ude00": "\\ud83d"}),
    "numbers": event_with("extra", '{"a": [1e999, -0.5E-10, 1e1000, 12345678901234567890]}'),
    "time": event_text(event_time="2025-06-01t14:00:00.1234565+02:00"),
    "bad": event_text(total_tokens=-1, team=...),
}
_ARCHIVES = {
    "archive": archive_text(stored_at="2025-06-01 11:00:00-0030", unknown=[{}]),
    "mended archive": archive_text(prompt_full="\ud83d", unknown="\0"),
}

SEEDS = {
    **{f"event-{name}": _input(USAGE_EVENTS, Media.JSON, f"[{text}]") for name, text in _EVENTS.items()},
    **{f"line-{name}": _input(USAGE_EVENTS, Media.NDJSON, f"{text}\r\n\n{{}}") for name, text in _EVENTS.items()},
    **{
        f"archive-{name}": _input(MESSAGE_ARCHIVES, Media.JSON, f'{{"archives": [{text}]}}')
        for name, text in _ARCHIVES.items()
    },
    **{
        f"shape-{name}": _input(USAGE_EVENTS, media, shape([event_text(), event_text(team="")]))
        for name, (shape, media) in ALL_SHAPES.items()
    },
}

TOKENS = [
    *filter(None, BODY_TOKENS),
    *(json.dumps(name).encode() for stream in STREAMS for name in (*RULES[stream.name], stream.envelope)),
    *(
        b'"events":[',
        b'"archives":[',
        b"true",
        b"false",
        b"e999",
        b"e1000",
        b"Z",
        b"z",
        b"T",
        b"+00:00",
        b"-23:59",
        b".9999999",
    ),
]
