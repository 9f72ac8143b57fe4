"""One item: what is kept of it, and all that is wrong with it. The rules are those of the README, "The API by example"."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from decimal import ROUND_HALF_UP, Decimal
from typing import Any
from uuid import UUID

from ingest.events import Stream, Window
from tests.reference.values import Number, Object, is_storable, only_value, stored, stored_text, texts_in

Fault = tuple[str, str | None]
"""Code and field, as in the answer."""

EXTRA_LEVELS_MAX = 200
DIGITS_MAX = 999
EXPONENT_MAX = 999

NAMES_TRIED = 8
"""How many names an unknown field may have in `extra`: its own, then with one `$.` more each time."""


@dataclass(frozen=True)
class Item:
    """An item that is judged."""

    faults: frozenset[Fault]
    """Empty: it is taken."""
    fields: dict[str, Any] = field(default_factory=dict)
    """What is to be stored of one that is taken."""
    sanitized: bool = False
    """Whether text of it was changed. In a usage event all text counts, in an archive what is kept."""
    event_id: str | None = None
    """What the answer calls it by, if it is not taken."""


NO_OBJECT = Item(frozenset({("invalid_json", None)}))


def judge(stream: Stream, text: str, window: Window) -> Item:
    """The item that stands in this text. Raises Unclear."""
    found = only_value(text)
    if found is None or not isinstance(found[0], Object):
        return NO_OBJECT
    item = found[0]
    members = {name: value for name, value in item.last_of_each().items() if name in RULES[stream.name]}
    faults: set[Fault] = set()
    fields: dict[str, Any] = {}
    for name, (is_required, read) in RULES[stream.name].items():
        value = members.get(name)
        fields[name] = None
        if value is None:
            if is_required:
                faults.add(("invalid_field" if name in members else "missing_field", name))
            continue
        kept = read(value)
        if kept is None or (name in stream.dimensions and not is_storable(value)):
            faults.add(("invalid_field", name))
        fields[name] = kept
    faults.update(_times_out_of(window, fields, stream))
    if stream.keeps_unknown:
        fields["total_tokens"] = fields["total_tokens"] or 0
        if not _keep_unknown(item, fields):
            faults.add(("invalid_field", "extra"))
    counted = item if stream.keeps_unknown else list(members.values())
    event_id = fields["event_id"]
    return Item(
        frozenset(faults),
        {} if faults else fields,
        not all(is_storable(said) for said in texts_in(counted)),
        None if event_id is None else str(event_id),
    )


def _times_out_of(window: Window, fields: dict[str, Any], stream: Stream) -> Iterator[Fault]:
    time = fields[stream.time_field]
    if time is not None and time < window.oldest:
        yield "too_old", stream.time_field
    if time is not None and time > window.newest:
        yield "in_future", stream.time_field


def _keep_unknown(item: Object, fields: dict[str, Any]) -> bool:
    """Puts what is unknown into `extra`; whether there is a place for it, and `extra` may be stored."""
    unknown = {stored_text(name): value for name, value in item.members if name not in RULES["usage_events"]}
    if not unknown:
        return True
    extra = dict(fields["extra"] or {})
    for name, value in unknown.items():
        names = ["$." * count + name for count in range(NAMES_TRIED)]
        free = [candidate for candidate in names if candidate not in extra]
        if not free:
            return False
        extra[free[0]] = stored(value)
    fields["extra"] = extra
    return is_good_extra(Object(list(unknown.items())))


# --- what a field may hold: readers give the value to be stored, or None -----------------------------------------------


_UUID = re.compile(r"[0-9a-fA-F]{8}(-?)[0-9a-fA-F]{4}\1[0-9a-fA-F]{4}\1[0-9a-fA-F]{4}\1[0-9a-fA-F]{12}")


def read_uuid(value: Any) -> UUID | None:
    """RFC 9562's form, in letters of either case; or its 32 digits alone."""
    return UUID(value) if is_text(value) and _UUID.fullmatch(value) else None


_TIME = re.compile(
    r"(?P<date>\d{4}-\d\d-\d\d)[Tt ](?P<time>\d\d:\d\d:\d\d)(?P<fraction>\.\d+)?"
    r"(?:[Zz]|(?P<sign>[+-])(?P<hours>\d\d):?(?P<minutes>\d\d))",
    re.ASCII,
)


def read_time(value: Any) -> datetime | None:
    """RFC 3339, section 5.6, to the nearest microsecond. A blank for the `T` and an offset without its colon are taken, too.

    A leap second is refused: there has been none since 2016, and neither Python nor PostgreSQL can hold one.
    """
    match = _TIME.fullmatch(value) if is_text(value) else None
    if match is None:
        return None
    hours, minutes = int(match["hours"] or 0), int(match["minutes"] or 0)
    if hours > 23 or minutes > 59:
        return None
    microseconds = int((Decimal(match["fraction"] or 0) * 1_000_000).quantize(Decimal(1), ROUND_HALF_UP))
    offset = timedelta(hours=hours, minutes=minutes) * (-1 if match["sign"] == "-" else 1)
    try:
        whole = datetime.strptime(f"{match['date']} {match['time']}", "%Y-%m-%d %H:%M:%S").replace(tzinfo=timezone(offset))
        return whole + timedelta(microseconds=microseconds)
    except (ValueError, OverflowError):  # no such day, no such second, past the year 9999
        return None


def is_text(value: Any) -> bool:
    return isinstance(value, str) and not isinstance(value, Number)


def read_text(characters_min: int, characters_max: int | None) -> Callable[[Any], str | None]:
    def read(value: Any) -> str | None:
        if not is_text(value) or len(value) < characters_min or (characters_max is not None and len(value) > characters_max):
            return None
        text: str = stored(value)
        return text

    return read


def read_whole(lowest: int, highest: int) -> Callable[[Any], int | None]:
    def read(value: Any) -> int | None:
        if not isinstance(value, Number) or not re.fullmatch(r"-?\d{1,20}", value):
            return None
        return int(value) if lowest <= int(value) <= highest else None

    return read


def read_extra(value: Any) -> dict[str, Any] | None:
    if not isinstance(value, Object):
        return None
    extra: dict[str, Any] = stored(value)
    return extra if is_good_extra(value) else None


def is_good_extra(value: Any) -> bool:
    """Whether a value as it came is nested as little as `extra` may be, and has numbers as it may have."""
    return _levels(value) <= EXTRA_LEVELS_MAX and all(_is_good_number(number) for number in _numbers(value))


def _inner(value: Any) -> list[Any]:
    if isinstance(value, Object):
        return [member for _, member in value.members]
    return value if isinstance(value, list) else []


def _levels(value: Any) -> int:
    is_nesting = isinstance(value, Object | list)
    return is_nesting + max((_levels(inner) for inner in _inner(value)), default=0)


def _numbers(value: Any) -> Iterator[Number]:
    if isinstance(value, Number):
        yield value
    for inner in _inner(value):
        yield from _numbers(inner)


def _is_good_number(number: Number) -> bool:
    """999 digits before the point, 999 behind it, an exponent of at most 999 in at most 999 digits."""
    if any(len(digits) > DIGITS_MAX for digits in re.findall(r"\d+", number)):
        return False
    _, _, exponent = number.lower().partition("e")
    return abs(int(exponent or 0)) <= EXPONENT_MAX


DIMENSION = (True, read_text(1, 256))
COUNT = (False, read_whole(0, 2**31 - 1))
TEXT = (False, read_text(0, None))

RULES: dict[str, dict[str, tuple[bool, Callable[[Any], Any]]]] = {
    "usage_events": {
        "event_id": (True, read_uuid),
        "event_time": (True, read_time),
        **dict.fromkeys(["user_id", "team", "service", "provider", "model"], DIMENSION),
        "total_tokens": COUNT,
        "latency_ms": COUNT,
        "status_code": (False, read_whole(100, 599)),
        "error_type": (False, read_text(0, 256)),
        "prompt": TEXT,
        "extra": (False, read_extra),
    },
    "message_archives": {
        "event_id": (True, read_uuid),
        "user_id": DIMENSION,
        "service": DIMENSION,
        "prompt_full": TEXT,
        "response_full": TEXT,
        "stored_at": (False, read_time),
    },
}
"""By stream and field: whether it is required, and its reader."""
