"""From the bytes of a body to a batch.

The fast path decodes the whole batch in one call. Only a batch that fails there is split and read item by item
(`ingest.web.items`), so that one bad item costs nobody but itself.

How arrays are bounded: msgspec would build every element of a list before anyone can count them, and 64 MiB of `[1,1,1,…`
are 32 million. An array-like struct with MAX_BULK_SIZE + 1 optional fields takes that many and skips the rest without
building it (30 million elements: 0.16 s, no memory). It takes 16 µs to look at 1000 fields, which is a lot for ten events; a
small body can't hold many items, and is read as a list.
"""

import re
from collections.abc import Sequence
from enum import Enum
from functools import cache
from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from ingest import errors
from ingest.events import NO_JSON, USAGE_EVENTS, Stream, UsageEvent, Window
from ingest.flow.batch import Batch, Encode
from ingest.verdict import FORBIDDEN_TEAM, Rejection
from ingest.web import items, storable

LIST_BYTES_MAX = 64 * 1024
"""A body of so many bytes can't hold many items."""

# What may stand between values (RFC 8259, section 2); Python's own blanks are more.
_BLANKS = b" \t\r\n"
_LINE = re.compile(rb"[^ \t\r\n][^\n]*")
_TRAILING = "JSON is malformed: trailing characters"


class Media(Enum):
    """What a body claims to be."""

    JSON = "application/json"
    NDJSON = "application/x-ndjson"


class Decoded(Struct, frozen=True, kw_only=True):
    """The valid items of one request, and what was found wrong with the others; members as of ingest.flow.batch.Batch."""

    stream: Stream
    received: int
    items: Sequence[Any]
    """Structs of `stream.item`."""
    indices: Sequence[int]
    sanitized: frozenset[int] = frozenset()
    rejections: Sequence[Rejection] = ()
    strict: bool = False

    def of_teams(self, teams: frozenset[str] | None) -> "Decoded":
        """Without the usage events of other teams than these, which are rejected; None: all teams may be."""
        if teams is None or self.stream is not USAGE_EVENTS or all(event.team in teams for event in self.items):
            return self
        kept = [place for place, event in enumerate(self.items) if event.team in teams]
        forbidden = [
            Rejection(
                index=index,
                event_id=str(event.event_id),
                code=FORBIDDEN_TEAM,
                field="team",
                message="The API key is not for this team.",
            )
            for event, index in zip(self.items, self.indices, strict=True)
            if event.team not in teams
        ]
        return msgspec.structs.replace(
            self,
            items=[self.items[place] for place in kept],
            indices=[self.indices[place] for place in kept],
            rejections=[*self.rejections, *forbidden],
        )

    def encoded(self, encode: Encode) -> Batch:
        """The batch, with the items as rows."""
        return Batch(
            stream=self.stream,
            received=self.received,
            rows=encode(self.stream, self.items),
            indices=self.indices,
            sanitized=self.sanitized,
            rejections=self.rejections,
            strict=self.strict,
        )


def decode(
    stream: Stream, body: bytes | bytearray, media: Media, window: Window, *, items_max: int, strict: bool = False
) -> Decoded:
    """What stands in an inflated body.

    JSON is an array of items, an object with that array under `stream.envelope`, or one item; JSON with more than one
    top-level value is read as NDJSON, because several clients label it so. NDJSON is one item a line.

    Raises errors.BodyUnreadable if the envelope can't be read, errors.LimitExceeded past `items_max` items.
    """
    whole = decode_whole(stream, body, media, window, items_max=items_max, strict=strict)
    return _decode_each(stream, body, media, window, items_max, strict) if whole is None else whole


def decode_whole(
    stream: Stream,
    body: bytes | bytearray,
    media: Media,
    window: Window,
    *,
    items_max: int,
    strict: bool = False,
    extra_bytes_max: int | None = None,
) -> Decoded | None:
    """As `decode`, where that can be done quickly.

    None where the body must be read item by item, or where the items have more than `extra_bytes_max` in `extra`, which takes
    longer than all else, here and where it is encoded.
    """
    whole = _decode_whole(stream, body, media, items_max)
    if whole is None or not _all_good(stream, whole, window, extra_bytes_max):
        return None
    return Decoded(stream=stream, received=len(whole), items=whole, indices=range(len(whole)), strict=strict)


def prepare(stream: Stream, items_max: int) -> None:
    """Makes the decoders, which for large batches would take the first of them up to a second."""
    _array_decoder(stream, items_max)
    _enveloped_array_decoder(stream, items_max)
    _raw_array_decoder(items_max)


# --- the fast path ----------------------------------------------------------------------------------------------------


@cache
def _list_decoder(stream: Stream) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(_list_of(stream.item))


@cache
def _enveloped_list_decoder(stream: Stream) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(_envelope(stream, _list_of(stream.item)))


@cache
def _array_decoder(stream: Stream, items_max: int) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(_bounded_array(stream.item | UnsetType, UNSET, items_max))


@cache
def _enveloped_array_decoder(stream: Stream, items_max: int) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(_envelope(stream, _bounded_array(stream.item | UnsetType, UNSET, items_max)))


def _list_of(item: Any) -> Any:
    return list[item]


def _envelope(stream: Stream, array: Any) -> Any:
    return msgspec.defstruct("Envelope", [("items", array)], rename={"items": stream.envelope})


@cache
def _line_decoder(stream: Stream) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(stream.item)


def _bounded_array(element: Any, absent: Any, items_max: int) -> Any:
    fields = [(f"item{k}", element, absent) for k in range(items_max + 1)]
    return msgspec.defstruct("BoundedArray", fields, array_like=True, gc=False)


def _present(array: Struct, absent: Any, items_max: int) -> list[Any]:
    return _bounded([item for item in msgspec.structs.astuple(array) if item is not absent], items_max)


def _bounded(present: list[Any], items_max: int) -> list[Any]:
    if len(present) > items_max:
        raise _too_many(items_max)
    return present


def _too_many(items_max: int) -> errors.LimitExceeded:
    return errors.LimitExceeded("MAX_BULK_SIZE", items_max, items_max + 1, "items")


def _decode_whole(stream: Stream, body: bytes | bytearray, media: Media, items_max: int) -> list[Any] | None:
    """All items at once, or None if that can't be done."""
    if storable.needs_mending(body):
        return None
    is_enveloped = media is Media.JSON and body.lstrip(_BLANKS)[:1] == b"{"
    if is_enveloped or not stream.keeps_unknown:
        _check_utf8(body)  # msgspec does where it makes a `str`, but not in what it skips
    try:
        if media is Media.NDJSON:
            return _decode_lines(stream, body, items_max)
        if not is_enveloped:
            return _decode_array(stream, body, items_max)
        try:
            return _decode_envelope(stream, body, items_max)
        except msgspec.DecodeError:
            # One item, or NDJSON under another name. Many lines may be a pretty envelope, and where unknown fields are
            # skipped, any envelope may pass for an item.
            if body.count(b"\n") > items_max or not stream.keeps_unknown:
                return None
            lines = _decode_lines(stream, body, items_max + 1)
            if len(lines) > items_max:
                raise _too_many(items_max) from None
            return lines
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _decode_array(stream: Stream, body: bytes | bytearray, items_max: int) -> list[Any]:
    if len(body) <= LIST_BYTES_MAX:
        return _bounded(_list_decoder(stream).decode(body), items_max)
    return _present(_array_decoder(stream, items_max).decode(body), UNSET, items_max)


def _decode_envelope(stream: Stream, body: bytes | bytearray, items_max: int) -> list[Any]:
    if len(body) <= LIST_BYTES_MAX:
        return _bounded(_enveloped_list_decoder(stream).decode(body).items, items_max)
    return _present(_enveloped_array_decoder(stream, items_max).decode(body).items, UNSET, items_max)


def _decode_lines(stream: Stream, body: bytes | bytearray, items_max: int) -> list[Any]:
    # Not msgspec's decode_lines: it takes several values on one line, and one value on several lines.
    one = _line_decoder(stream)
    return [one.decode(line) for line in _split_lines(body, items_max)]


def _all_good(stream: Stream, whole: Sequence[Any], window: Window, extra_bytes_max: int | None) -> bool:
    """Whether the rules that the structs can't express hold for all items, as far as that is to be found out."""
    if stream.item is UsageEvent:
        extras = [bytes(event.extra) for event in whole if event.extra is not NO_JSON]
        if extra_bytes_max is not None and sum(map(len, extras)) > extra_bytes_max:
            return False
        return window.holds_all([event.event_time for event in whole]) and storable.all_storable(extras)
    return window.holds_all([archive.stored_at for archive in whole if archive.stored_at is not None])


# --- the slow path ----------------------------------------------------------------------------------------------------


def _check_utf8(body: bytes | bytearray) -> None:
    if body.isascii():
        return
    try:
        body.decode()
    except UnicodeDecodeError as error:
        raise errors.BodyUnreadable(f"The body is not UTF-8: {error.reason} at byte {error.start}.") from None


def _decode_each(
    stream: Stream, body: bytes | bytearray, media: Media, window: Window, items_max: int, strict: bool
) -> Decoded:
    _check_utf8(body)
    texts = _split(stream, storable.mend(body), media, items_max)
    good: list[Any] = []
    indices: list[int] = []
    mended: set[int] = set()
    rejections: list[Rejection] = []
    for index, text in enumerate(texts):
        try:
            item, was_mended = items.read(stream, text)
            items.check(stream, item, window)
        except items.Rejected as rejected:
            rejections.append(rejected.at(index, text))
            continue
        good.append(item)
        indices.append(index)
        if was_mended:
            mended.add(index)
    return Decoded(
        stream=stream,
        received=len(texts),
        items=good,
        indices=indices,
        sanitized=frozenset(mended),
        rejections=rejections,
        strict=strict,
    )


def _split(stream: Stream, body: bytes, media: Media, items_max: int) -> list[bytes]:
    """The JSON text of each item of a mended body."""
    if media is Media.NDJSON:
        return _split_lines(body, items_max)
    try:
        if body.lstrip(_BLANKS)[:1] == b"{":
            return _split_object(stream, body, items_max)
        return _split_array(body, items_max)
    except RecursionError:
        raise errors.BodyUnreadable("The body is nested too deeply to be read.") from None
    except msgspec.DecodeError as error:
        if str(error).startswith(_TRAILING) or _looks_like_lines(body):
            return _split_lines(body, items_max)
        raise errors.BodyUnreadable(f"The body is not JSON: {error}.") from None


def _split_lines(body: bytes | bytearray, items_max: int) -> list[bytes]:
    texts: list[bytes] = []
    for line in _LINE.finditer(body):
        if len(texts) == items_max:
            raise _too_many(items_max)
        texts.append(line[0].rstrip(_BLANKS))
    return texts


def _looks_like_lines(body: bytes) -> bool:
    """Whether the first two lines stand in braces each: NDJSON with a bad first line, and no array that is broken."""
    lines = _LINE.finditer(body)
    first_two = [line[0].rstrip(_BLANKS) for line, _ in zip(lines, range(2), strict=False)]
    return len(first_two) == 2 and all(line[:1] == b"{" and line[-1:] == b"}" for line in first_two)


@cache
def _raw_array_decoder(items_max: int) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(_bounded_array(Raw, NO_JSON, items_max))


def _split_array(body: bytes | Raw, items_max: int) -> list[bytes]:
    try:
        array = _raw_array_decoder(items_max).decode(body)
    except msgspec.ValidationError:
        msgspec.json.decode(body, type=Raw)  # more than one value: not this function's body
        raise errors.BodyUnreadable("The body must be a JSON array of items, or a JSON object.") from None
    return [bytes(text) for text in _present(array, NO_JSON, items_max)]


@cache
def _raw_envelope_decoder(stream: Stream) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(
        msgspec.defstruct("RawEnvelope", [("items", Raw, NO_JSON)], rename={"items": stream.envelope})
    )


def _split_object(stream: Stream, body: bytes, items_max: int) -> list[bytes]:
    """The items of an envelope; an object that is none is one item itself."""
    inside = _raw_envelope_decoder(stream).decode(body).items
    if bytes(inside[:1] if isinstance(inside, bytes) else memoryview(inside)[:1]) == b"[":
        return _split_array(inside, items_max)
    return [body.strip(_BLANKS)]
