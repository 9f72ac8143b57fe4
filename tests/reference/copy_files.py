"""Rows of a binary COPY file, read by PostgreSQL's manual alone (PostgreSQL documentation, COPY, "Binary Format")."""

import struct
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

HEADER = b"PGCOPY\n\377\r\n\0" + bytes(8)  # no flags, no extension
TRAILER = b"\xff\xff"

Row = dict[str, Any]


def read(file: Iterable[bytes], columns: Sequence[str]) -> list[Row]:
    """The rows of a binary COPY file (PostgreSQL documentation, COPY, "Binary Format"), which has to be whole."""
    data = b"".join(file)
    assert data.startswith(HEADER)
    read_rows: list[Row] = []
    at = len(HEADER)
    while data[at:] != TRAILER:
        assert int.from_bytes(data[at : at + 2]) == len(columns)
        at += 2
        row: Row = {}
        for column in columns:
            length = int.from_bytes(data[at : at + 4], signed=True)
            at += 4
            row[column] = None if length == -1 else value_of(column, data[at : at + length])
            at += max(length, 0)
        read_rows.append(row)
    return read_rows


def value_of(column: str, data: bytes) -> Any:
    """A field as PostgreSQL's type of its column would receive it."""
    match column:
        case "event_id":
            return UUID(bytes=data)
        case "event_time" | "stored_at":
            return datetime(2000, 1, 1, tzinfo=UTC) + timedelta(microseconds=struct.unpack(">q", data)[0])
        case "fingerprint":
            return struct.unpack(">q", data)[0]
        case "total_tokens" | "latency_ms" | "ord":
            return struct.unpack(">i", data)[0]
        case "status_code":
            return struct.unpack(">h", data)[0]
        case "is_repeat":
            return struct.unpack(">?", data)[0]
        case "extra":
            assert data[:1] == b"\x01"  # the version of jsonb
            return data[1:]
        case _:
            return data.decode()
