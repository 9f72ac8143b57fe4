"""Items and bodies as clients write them, and short words for decoding them."""

import json
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from ingest.events import NO_JSON, USAGE_EVENTS, Stream, UsageEvent, Window
from ingest.verdict import Rejection
from ingest.web import decode as decoding
from ingest.web.decode import Decoded, Media
from tests import samples

NOW = datetime(2025, 6, 1, 12, 0, 0, tzinfo=UTC)
WINDOW = Window.around(NOW, age_days_max=180, skew_seconds_max=300)
ITEMS_MAX = 5

ID = "01972b1c-8c00-7000-8000-000000000001"
FFFD = "\N{REPLACEMENT CHARACTER}"
MICROSECOND = timedelta(microseconds=1)

TEXTS = ["user_id", "team", "service", "provider", "model"]
COUNTS = ["total_tokens", "latency_ms"]

Shape = Callable[[Sequence[str]], str]

SHAPES: dict[str, tuple[Shape, Media]] = {
    "array": (lambda texts: f"[{','.join(texts)}]", Media.JSON),
    "array with spaces": (lambda texts: " \r\n[ " + " ,\t".join(texts) + " ] \n", Media.JSON),
    "envelope": (lambda texts: f'{{"events":[{",".join(texts)}]}}', Media.JSON),
    "envelope with more": (lambda texts: f'\n{{"v": {{}}, "events": [{", ".join(texts)}], "sent_at": [1]}}', Media.JSON),
    "NDJSON": (lambda texts: "\n".join(texts), Media.NDJSON),
    "NDJSON with a last newline": (lambda texts: "".join(text + "\n" for text in texts), Media.NDJSON),
    "NDJSON with CRLF": (lambda texts: "".join(text + "\r\n" for text in texts), Media.NDJSON),
    "NDJSON with blank lines": (lambda texts: "\n \n\r\n" + "\n\n\t\n".join(texts) + "\n\n", Media.NDJSON),
    "NDJSON with spaces": (lambda texts: "\n".join(f"  {text}\t " for text in texts), Media.NDJSON),
}
SNIFFED: dict[str, Shape] = {
    "NDJSON that says JSON": lambda texts: "\n".join(texts),
    "NDJSON with CRLF that says JSON": lambda texts: "".join(text + "\r\n" for text in texts),
    "NDJSON with blank lines that says JSON": lambda texts: "\n\n" + " \n\n".join(texts) + "\n",
}
"""Shapes of two items or more."""
ALL_SHAPES = {**SHAPES, **{name: (shape, Media.JSON) for name, shape in SNIFFED.items()}}


def wire_event(**fields: Any) -> dict[str, Any]:
    return samples.wire_event(**{"event_id": ID, "event_time": "2025-06-01T11:59:00Z", **fields})


def event_text(**fields: Any) -> str:
    return json.dumps(wire_event(**fields))


def event_with(field: str, value: str) -> str:
    """An event that has this JSON text as the last field."""
    return f'{event_text(**{field: ...})[:-1]}, "{field}": {value}}}'


def decode(
    body: str | bytes,
    media: Media = Media.JSON,
    stream: Stream = USAGE_EVENTS,
    *,
    items_max: int = ITEMS_MAX,
    strict: bool = False,
) -> Decoded:
    text = body.encode() if isinstance(body, str) else body
    return decoding.decode(stream, bytearray(text), media, WINDOW, items_max=items_max, strict=strict)


def decode_one(text: str, stream: Stream = USAGE_EVENTS) -> Any:
    """The one item of a batch that has no other, and nothing wrong with it."""
    batch = decode(f"[{text}]", stream=stream)
    assert not batch.rejections
    return batch.items[0]


def rejection_of(text: str, stream: Stream = USAGE_EVENTS) -> Rejection:
    """What is said of this item, which stands behind a good one that nothing happens to."""
    good = event_text() if stream is USAGE_EVENTS else archive_text()
    batch = decode(f"[{good}, {text}]", stream=stream)
    assert (batch.received, list(batch.indices)) == (2, [0])
    (rejection,) = batch.rejections
    assert rejection.index == 1
    return rejection


def archive_text(**fields: Any) -> str:
    archive = {**samples.wire_archive(ID), **fields}
    return json.dumps({name: value for name, value in archive.items() if value is not ...})


def extra_of(event: UsageEvent) -> Any:
    return None if event.extra is NO_JSON else json.loads(bytes(event.extra))


def replaced(text: str) -> str:
    """The text as it is stored: with U+FFFD for all that PostgreSQL can't hold."""
    return re.sub("[\0\ud800-\udfff]", FFFD, text)
