"""The service and the reference, held against each other. Raises AssertionError where they differ."""

from collections.abc import Sequence
from typing import Any
from unittest import mock

from ingest import errors
from ingest.events import NO_JSON, USAGE_EVENTS, Stream, Window
from ingest.flow.batch import Rows
from ingest.store import rows
from ingest.web import decode as decoding
from ingest.web.decode import Decoded, Media
from tests.reference import bodies, copy_files
from tests.reference.bodies import Body
from tests.reference.items import Item
from tests.reference.values import Unclear, only_value, stored

# How a body may be read; all of them must say the same.
WAYS: dict[str, tuple[str, Any]] = {
    "as a list": ("LIST_BYTES_MAX", 2**62),
    "as a bounded array": ("LIST_BYTES_MAX", -1),
    "item by item": ("_decode_whole", lambda *_: None),
}


def compare(stream: Stream, body: bytes, media: Media, window: Window, items_max: int) -> Body | None:
    """Reads a body in all ways there are and holds each against the reference, whose reading it returns.

    None if the reference can't judge the body; then only what must hold for every body does.
    """
    try:
        expected: Body | None = bodies.read(stream, body, media, window, items_max)
    except (Unclear, RecursionError):
        expected = None
    encoded: list[Rows] = []
    for way, (name, value) in WAYS.items():
        with mock.patch.object(decoding, name, value):
            decoded = _decoded(stream, body, media, window, items_max)
        if isinstance(decoded, errors.RequestRefused):
            assert expected is None or decoded.code in expected.refusals, (way, decoded, expected)
            _check_refusal(decoded, items_max)
            continue
        assert expected is None or not expected.refusals, (way, decoded, expected)
        _check_counts(decoded, items_max)
        encoded.append(rows.encode(stream, decoded.items))
        if expected is not None:
            _check_items(way, decoded, expected.items)
            _check_rows(stream, encoded[-1], [item for item in expected.items if not item.faults])
    if expected is not None:
        assert len(encoded) in (0, len(WAYS))
        # The ledger has the same of an item however it was read, or the same event sent again would be a conflict.
        assert all(one.claims == encoded[0].claims for one in encoded)
    return expected


def _decoded(stream: Stream, body: bytes, media: Media, window: Window, items_max: int) -> Decoded | errors.RequestRefused:
    """No other error may come."""
    try:
        return decoding.decode(stream, bytearray(body), media, window, items_max=items_max)
    except (errors.BodyUnreadable, errors.LimitExceeded) as refusal:
        return refusal


def _check_refusal(refusal: errors.RequestRefused, items_max: int) -> None:
    assert "\n" not in str(refusal)
    if isinstance(refusal, errors.LimitExceeded):
        assert (refusal.name, refusal.limit, refusal.seen) == ("MAX_BULK_SIZE", items_max, items_max + 1)


def _check_counts(decoded: Decoded, items_max: int) -> None:
    """What holds for every body that is not refused: each item is either taken or rejected, in their order."""
    assert decoded.received == len(decoded.items) + len(decoded.rejections) <= items_max
    assert len(decoded.items) == len(decoded.indices)
    rejected = [rejection.index for rejection in decoded.rejections]
    assert sorted([*decoded.indices, *rejected]) == list(range(decoded.received))
    assert rejected == sorted(rejected)
    assert list(decoded.indices) == sorted(decoded.indices)
    assert decoded.sanitized <= set(decoded.indices)


def _check_items(way: str, decoded: Decoded, expected: Sequence[Item]) -> None:
    assert decoded.received == len(expected), way
    rejections = {rejection.index: rejection for rejection in decoded.rejections}
    items = dict(zip(decoded.indices, decoded.items, strict=True))
    for index, item in enumerate(expected):
        if item.faults:
            assert index in rejections, (way, index, item.faults, items.get(index))
            rejection = rejections[index]
            assert (rejection.code, rejection.field) in item.faults, (way, rejection, item.faults)
            assert rejection.event_id == item.event_id, (way, rejection, item.event_id)
            assert rejection.message.endswith("."), (way, rejection)
        else:
            assert index in items, (way, index, rejections.get(index))
            assert _held(items[index]) == item.fields, (way, index)
            assert (index in decoded.sanitized) == item.sanitized, (way, index)


def _held(item: Any) -> dict[str, Any]:
    """What a decoded item says, in the reference's terms."""
    held = {name: getattr(item, name) for name in item.__struct_fields__}
    if "extra" in held:
        held["extra"] = None if held["extra"] is NO_JSON else _json(bytes(held["extra"]))
        held["total_tokens"] = held["total_tokens"] or 0
    return held


def _json(text: bytes) -> Any:
    found = only_value(text.decode())
    assert found is not None, text
    return stored(found[0])


def _check_rows(stream: Stream, encoded: Rows, expected: Sequence[Item]) -> None:
    """The rows of the items that were taken, in their order, hold what the items do."""
    read = copy_files.read(rows.to_insert([encoded]), rows.COLUMNS[stream])
    for row in read:
        if row.get("extra") is not None:
            row["extra"] = _json(row["extra"])
    assert read == [item.fields for item in expected]
    assert encoded.event_ids == [item.fields["event_id"].bytes for item in expected]
    if stream is USAGE_EVENTS:
        claims = copy_files.read(rows.to_claim([encoded]), rows.LEDGER_COLUMNS)
        assert [(claim["event_id"], claim["event_time"]) for claim in claims] == sorted(
            (item.fields["event_id"], item.fields["event_time"]) for item in expected
        )
