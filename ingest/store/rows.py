"""Items as rows in PostgreSQL's binary COPY format.

Source: PostgreSQL documentation, COPY, "Binary Format". All integers are big-endian. A file is a header, rows, and a trailer;
a row is the number of its fields, then each field as its length in bytes and its value; a length of -1 is NULL.

Rows are made as soon as their batch is decoded, in bytes, so that they can wait in little room and go to whichever table is
theirs without being touched again. This costs what asyncpg's own encoding of records costs (1.9 µs a usage event, against
1.9 and 0.4 for the tuples it wants), and the fingerprint needs these bytes.
"""

import struct
from array import array
from collections.abc import Container, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import accumulate, chain
from typing import Any

import msgspec
from msgspec import Raw
from xxhash import xxh3_64_digest

from ingest.events import MESSAGE_ARCHIVES, NO_JSON, USAGE_EVENTS, MessageArchive, Stream, UsageEvent
from ingest.flow.batch import Rows

COLUMNS: dict[Stream, tuple[str, ...]] = {
    USAGE_EVENTS: (
        "event_id",
        "event_time",
        "user_id",
        "team",
        "service",
        "provider",
        "model",
        "total_tokens",
        "latency_ms",
        "status_code",
        "error_type",
        "prompt",
        "extra",
    ),
    MESSAGE_ARCHIVES: ("event_id", "stored_at", "user_id", "service", "prompt_full", "response_full"),
}
"""What `Rows.fields` holds, in this order."""

LEDGER_COLUMNS = ("event_id", "event_time", "fingerprint")
STAGING_COLUMNS = ("ord", "is_repeat", "fingerprint")
"""What a staging table has in front of COLUMNS."""

PIECE_BYTES = 512 * 1024
DIMENSIONS_KEPT_MAX = 10_000

_HEADER = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)
_TRAILER = struct.pack(">h", -1)
_COUNT_BYTES = 2
_NULL = struct.pack(">i", -1)
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_JSONB_VERSION = b"\x01"

_length = struct.Struct(">i").pack
_int4 = struct.Struct(">ii").pack
_int2 = struct.Struct(">ih").pack
_time = struct.Struct(">iq").pack
_numbers = struct.Struct(">iiiiih").pack
_staging = struct.Struct(">hiii?i").pack

_ID_LENGTH = struct.pack(">i", 16)
_FINGERPRINT_LENGTH = struct.pack(">i", 8)
_FINGERPRINT_BYTES = 8


def encode(stream: Stream, items: Sequence[Any]) -> Rows:
    """The rows of the items, which are structs of `stream.item` (ingest.flow.batch.Encode)."""
    claims, fields = (_usage_events if stream is USAGE_EVENTS else _message_archives)(items)
    return Rows(
        claims,
        [getattr(item, stream.time_field) for item in items],
        b"".join(fields),
        array("Q", accumulate(map(len, fields))),
    )


def to_claim(group: Sequence[Rows]) -> Iterator[bytes]:
    """A COPY file of LEDGER_COLUMNS, for usage events, in the order of event_id."""
    claims = group[0].claims if len(group) == 1 else list(chain.from_iterable(rows.claims for rows in group))
    before_each = struct.pack(">h", len(LEDGER_COLUMNS)) + _ID_LENGTH
    return _file([before_each + before_each.join(sorted(claims))] if claims else [])


def to_insert(group: Sequence[Rows]) -> Iterator[bytes]:
    """A COPY file of COLUMNS."""
    return _file([rows.fields for rows in group])


def to_stage(stream: Stream, group: Sequence[Rows], positions: Container[int]) -> Iterator[bytes]:
    """A COPY file of STAGING_COLUMNS and COLUMNS, of the rows at these positions in the whole group, which become `ord`."""
    count = len(STAGING_COLUMNS) + len(COLUMNS[stream])
    seen: set[bytes] = set()
    staged: list[bytes | memoryview] = []
    ord_ = 0
    for rows in group:
        fields, start = memoryview(rows.fields), 0
        for claim, end in zip(rows.claims, rows.ends, strict=True):
            if ord_ in positions:
                event_id = claim[:16]
                staged += (
                    _staging(count, 4, ord_, 1, event_id in seen, 8),
                    claim[-_FINGERPRINT_BYTES:],
                    fields[start + _COUNT_BYTES : end],
                )
                seen.add(event_id)
            start = end
            ord_ += 1
    return _file(staged)


def _file(parts: Iterable[bytes | bytearray | memoryview]) -> Iterator[bytes]:
    """Header, parts and trailer, in pieces of about PIECE_BYTES: fewer cost less, larger ones hold up the event loop."""
    small: list[bytes | bytearray | memoryview] = [_HEADER]
    small_bytes = 0
    for part in parts:
        if small_bytes + len(part) > PIECE_BYTES:
            if small:
                yield b"".join(small)
            small, small_bytes = [], 0
        if len(part) > PIECE_BYTES:
            view = memoryview(part)
            yield from (bytes(view[start : start + PIECE_BYTES]) for start in range(0, len(part), PIECE_BYTES))
        else:
            small.append(part)
            small_bytes += len(part)
    yield b"".join([*small, _TRAILER])


# --- usage events -----------------------------------------------------------------------------------------------------


def _usage_events(events: Sequence[UsageEvent]) -> tuple[list[bytes], list[bytes]]:
    count = struct.pack(">h", len(COLUMNS[USAGE_EVENTS])) + _ID_LENGTH
    claims: list[bytes] = []
    rows: list[bytes] = []
    for event in events:
        event_id = event.event_id.int.to_bytes(16)
        time = _time(8, (event.event_time - _EPOCH) // _MICROSECOND)
        tokens, latency, status = event.total_tokens or 0, event.latency_ms, event.status_code
        if latency is not None and status is not None:
            numbers = _numbers(4, tokens, 4, latency, 2, status)
        else:
            numbers = (
                _int4(4, tokens)
                + (_NULL if latency is None else _int4(4, latency))
                + (_NULL if status is None else _int2(2, status))
            )
        plain = b"".join(
            (
                count,
                event_id,
                time,
                _dimensions[event.user_id],
                _dimensions[event.team],
                _dimensions[event.service],
                _dimensions[event.provider],
                _dimensions[event.model],
                numbers,
                _NULL if event.error_type is None else _dimensions[event.error_type],
                _NULL if event.prompt is None else _text(event.prompt),
            )
        )
        if event.extra is NO_JSON or (extra := bytes(event.extra)) == b"null":
            rows.append(plain + _NULL)
            fingerprint = xxh3_64_digest(plain)
        else:
            rows.append(b"".join((plain, _length(1 + len(extra)), _JSONB_VERSION, extra)))
            fingerprint = xxh3_64_digest(plain + _canonical(event.extra))
        claims.append(event_id + time + _FINGERPRINT_LENGTH + fingerprint)
    return claims, rows


class _Dimensions(dict[str, bytes]):
    """As `_text`, for text that comes again and again. (functools.lru_cache takes twice as long for what it has.)"""

    def __missing__(self, text: str) -> bytes:
        if len(self) >= DIMENSIONS_KEPT_MAX:
            self.clear()
        self[text] = encoded = _text(text)
        return encoded


_dimensions = _Dimensions()


def _text(text: str) -> bytes:
    encoded = text.encode()
    return _length(len(encoded)) + encoded


# --- message archives -------------------------------------------------------------------------------------------------


def _message_archives(archives: Sequence[MessageArchive]) -> tuple[list[bytes], list[bytes]]:
    count = struct.pack(">h", len(COLUMNS[MESSAGE_ARCHIVES])) + _ID_LENGTH
    rows = [
        b"".join(
            (
                count,
                archive.event_id.bytes,
                _NULL if archive.stored_at is None else _time(8, (archive.stored_at - _EPOCH) // _MICROSECOND),
                _dimensions[archive.user_id],
                _dimensions[archive.service],
                _NULL if archive.prompt_full is None else _text(archive.prompt_full),
                _NULL if archive.response_full is None else _text(archive.response_full),
            )
        )
        for archive in archives
    ]
    return [archive.event_id.bytes + xxh3_64_digest(row) for archive, row in zip(archives, rows, strict=True)], rows


# --- JSON as it is compared -------------------------------------------------------------------------------------------


_decode_json = msgspec.json.Decoder().decode
_encode_json = msgspec.json.Encoder(order="deterministic").encode


def _canonical(text: Raw) -> bytes:
    """The same bytes for the same JSON, whatever the order of its keys, its blanks and the spelling of its text.

    Numbers with a fraction or an exponent count as doubles (RFC 8259, section 6). To tell exactly what PostgreSQL's numeric
    tells, 1 from 1.0 for one, takes 1.5 µs a number, and a body may hold hundreds of thousands. What is too large for a
    double counts as it was written.
    """
    try:
        return _encode_json(_decode_json(text))
    except (msgspec.MsgspecError, RecursionError):
        return bytes(text)
