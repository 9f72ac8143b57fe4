"""Usage events as ClickHouse takes them with the least work: its RowBinary format.

Source: ClickHouse documentation, "Formats for input and output data", RowBinary. Numbers are little-endian; text is its
length as LEB128, then UTF-8; what may be NULL has a byte before it, 1 for NULL; a UUID is two UInt64, its first half first.

A DateTime of ClickHouse 18 has whole seconds: the microsecond is a column of its own.
"""

import struct
from collections.abc import Sequence
from datetime import timedelta

from benchmarks.events import extra_text
from benchmarks.generate import EPOCH
from ingest.events import UsageEvent

COLUMNS = (
    ("event_id", "UUID"),
    ("event_time", "DateTime"),
    ("event_microsecond", "UInt32"),
    ("user_id", "String"),
    ("team", "String"),
    ("service", "String"),
    ("provider", "String"),
    ("model", "String"),
    ("total_tokens", "Int32"),
    ("latency_ms", "Nullable(Int32)"),
    ("status_code", "Nullable(Int16)"),
    ("error_type", "Nullable(String)"),
    ("prompt", "Nullable(String)"),
    ("extra", "Nullable(String)"),
)
"""What `encode` writes, with the types that it writes them for."""

_MICROSECOND = timedelta(microseconds=1)
_NULL = b"\x01"
_NOT_NULL = b"\x00"

_int4 = struct.Struct("<i").pack
_id_and_time = struct.Struct("<QQII").pack
_some_int4 = struct.Struct("<bi").pack
_some_int2 = struct.Struct("<bh").pack


def encode(events: Sequence[UsageEvent]) -> bytes:
    """The events one behind the other, each with the columns of COLUMNS."""
    return b"".join([part for event in events for part in _parts(event)])


def _parts(event: UsageEvent) -> tuple[bytes, ...]:
    id_number = event.event_id.int
    second, microsecond = divmod((event.event_time - EPOCH) // _MICROSECOND, 1_000_000)
    return (
        _id_and_time(id_number >> 64, id_number & 0xFFFF_FFFF_FFFF_FFFF, second, microsecond),
        text(event.user_id),
        text(event.team),
        text(event.service),
        text(event.provider),
        text(event.model),
        _int4(event.total_tokens or 0),
        _NULL if event.latency_ms is None else _some_int4(0, event.latency_ms),
        _NULL if event.status_code is None else _some_int2(0, event.status_code),
        _NULL if event.error_type is None else _NOT_NULL + text(event.error_type),
        _NULL if event.prompt is None else _NOT_NULL + text(event.prompt),
        _NULL if (extra := extra_text(event)) is None else _NOT_NULL + text(extra),
    )


def text(value: str) -> bytes:
    """Text with its length in front."""
    encoded = value.encode()
    return leb128(len(encoded)) + encoded


def leb128(number: int) -> bytes:
    """A number from 0 on, seven bits a byte, the lowest first; the upper bit says that there is more."""
    groups = bytearray()
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    groups.append(number)
    return bytes(groups)
