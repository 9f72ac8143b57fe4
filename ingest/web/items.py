"""One item at a time: the slow path, for batches in which something is wrong or unknown.

It says exactly what `ingest.web.decode` says of a good batch in one call, and of every item what is wrong with it.
"""

import re
from functools import cache
from typing import Any
from uuid import UUID

import msgspec
from msgspec import Raw, Struct

from ingest.events import NO_JSON, Stream, UsageEvent, Window
from ingest.verdict import Rejection
from ingest.web import storable

# An item that has fields to be kept is taken apart; this bounds what taking it apart can cost in memory.
COLONS_MAX = 500_000

# How often an unknown field whose name is taken in `extra` gets a longer one.
PREFIXES_MAX = 8

_MISSING = re.compile(r"Object missing required field `(?P<field>\w+)`")
_WHERE = re.compile(r" - at `\$\.(?P<field>\w+)`$")
_UNKNOWN_FIELD = "Object contains unknown field"


class _Identity(Struct):
    event_id: Raw = NO_JSON


class Rejected(Exception):
    """One item is not valid. It carries what the answer will say, but for the place in the request."""

    def __init__(self, code: str, field: str | None, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.field = field
        self.message = message

    def at(self, index: int, text: bytes | memoryview) -> Rejection:
        """The rejection of the item with this text at this place."""
        return Rejection(index=index, event_id=_event_id(text), code=self.code, field=self.field, message=self.message)


def read(stream: Stream, text: bytes) -> tuple[Any, bool]:
    """The item in this mended JSON text, and whether its text was mended.

    Raises Rejected.
    """
    try:
        try:
            item = _decode(stream, text)
        except msgspec.ValidationError as error:
            msgspec.json.decode(text, type=Raw)  # what is no JSON at all is called that, wherever the first fault stood
            raise _rejected(error) from None
    except msgspec.DecodeError as error:
        raise Rejected("invalid_json", None, f"{error}.") from None
    except RecursionError:
        raise Rejected("invalid_json", None, "Nested too deeply.") from None
    return item, storable.was_mended(text) and _was_mended_where_it_counts(stream, text)


def check(stream: Stream, item: Any, window: Window) -> None:
    """Holds a decoded item against the rules that its struct can't express. Raises Rejected."""
    time = getattr(item, stream.time_field)
    if time is not None and time < window.oldest:
        raise Rejected("too_old", stream.time_field, f"Older than what is kept: before {_utc(window.oldest)}.")
    if time is not None and time > window.newest:
        raise Rejected("in_future", stream.time_field, f"In the future: after {_utc(window.newest)}.")
    if isinstance(item, UsageEvent) and (problem := extra_problem(item)):
        raise Rejected("invalid_field", "extra", f"{problem}.")


def extra_problem(event: UsageEvent) -> str | None:
    """Why `extra` can't be stored; None if it can, is null, or is absent."""
    if event.extra is NO_JSON:
        return None
    text = bytes(event.extra)
    return None if text == b"null" else storable.json_problem(text)


def _decode(stream: Stream, text: bytes) -> Any:
    try:
        return msgspec.json.decode(text, type=stream.item)
    except msgspec.ValidationError as error:
        if stream.keeps_unknown and str(error).startswith(_UNKNOWN_FIELD):
            return _decode_keeping_unknown(text)
        if not _may_stand_twice(text, error):
            raise
        if not stream.keeps_unknown:
            return _decode_last_of_each(stream, text)
        if text.count(b":") > COLONS_MAX:
            raise
        return _decode_keeping_unknown(text)


def _may_stand_twice(text: bytes, error: msgspec.ValidationError) -> bool:
    """Whether the field at fault may stand in the item once more: the last of them counts, but msgspec checks every one."""
    where = _WHERE.search(str(error))
    return where is not None and (text.count(b'"%s"' % where["field"].encode()) > 1 or rb"\u" in text)


def _decode_last_of_each(stream: Stream, text: bytes) -> Any:
    return msgspec.json.decode(msgspec.json.encode(_fields_decoder(stream).decode(text)), type=stream.item)


def _decode_keeping_unknown(text: bytes) -> UsageEvent:
    """A usage event with fields that we don't know: they move into `extra` under their own names."""
    if text.count(b":") > COLONS_MAX:
        raise Rejected("invalid_field", None, "Has too many fields to be kept.")
    members = msgspec.json.decode(text, type=dict[str, Raw])
    known = {name: members.pop(name) for name in UsageEvent.__struct_fields__ if name in members}
    event = msgspec.json.decode(msgspec.json.encode(known), type=UsageEvent)
    if not members:
        return event
    if problem := extra_problem(event):
        raise Rejected("invalid_field", "extra", f"{problem}.")
    has_extra = event.extra is not NO_JSON and bytes(event.extra) != b"null"
    extra = msgspec.json.decode(event.extra, type=dict[str, Raw]) if has_extra else {}
    for name, value in members.items():
        kept_as = name
        for _ in range(PREFIXES_MAX):
            if kept_as not in extra:
                break
            kept_as = f"$.{kept_as}"  # both are kept: `$.name` is where the second one stood
        else:
            raise Rejected("invalid_field", "extra", "Has too many names for one unknown field to find one of its own.")
        extra[kept_as] = value
    event.extra = Raw(msgspec.json.encode(extra))
    return event


def _rejected(error: msgspec.ValidationError) -> Rejected:
    """msgspec's finding in our words: `Expected `int`, got `str` - at `$.total_tokens``."""
    message = str(error)
    if missing := _MISSING.match(message):
        return Rejected("missing_field", missing["field"], f"Required field `{missing['field']}` is missing.")
    where = _WHERE.search(message)
    if where is None:  # the item itself: not an object
        return Rejected("invalid_json", None, f"An item must be a JSON object: {message}.")
    return Rejected("invalid_field", where["field"], f"{message[: where.start()]}.")


@cache
def _fields_decoder(stream: Stream) -> msgspec.json.Decoder[Any]:
    """Of the fields that we know, as they came: of each the last one; NO_JSON where there is none."""
    fields = [(name, Raw, NO_JSON) for name in stream.item.__struct_fields__]
    return msgspec.json.Decoder(msgspec.defstruct("Fields", fields, omit_defaults=True))


def _was_mended_where_it_counts(stream: Stream, text: bytes) -> bool:
    """Whether some of the text that was mended is kept. Raises Rejected if that is in a dimension."""
    fields = msgspec.structs.asdict(_fields_decoder(stream).decode(text))
    mended = {name for name, value in fields.items() if storable.was_mended(bytes(value))}
    for name in sorted(mended & stream.dimensions):
        raise Rejected("invalid_field", name, "Holds U+0000 or half a surrogate pair, which can't be stored.")
    return stream.keeps_unknown or bool(mended)


def _event_id(text: bytes | memoryview) -> str | None:
    try:
        return str(msgspec.json.decode(msgspec.json.decode(text, type=_Identity).event_id, type=UUID))
    except (msgspec.DecodeError, RecursionError):
        return None


def _utc(time: Any) -> str:
    return f"{time:%Y-%m-%dT%H:%M:%SZ}"
