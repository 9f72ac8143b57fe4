"""Usage events as InfluxDB takes them: its line protocol.

Source: InfluxDB 1.x documentation, "Line protocol reference" and "Schema design and data layout". What is grouped or filtered
by is to be a tag, which is indexed; what has many values is to be a field, which is not: every combination of tags makes a
series, and their index is held in memory. So team, service, provider and model are tags, event_id and user_id are fields.
(5000 users as tags would take 3 to 6 % of the throughput.)

A point is its measurement, tags and time: a second one with the same ones overwrites the first in silence. Times are told in
nanoseconds and events have microseconds, so the last three digits are free to keep points apart.
"""

from collections.abc import Sequence
from datetime import timedelta

from benchmarks.events import extra_text
from benchmarks.generate import EPOCH
from ingest.events import UsageEvent

MEASUREMENT = "usage_events"

_MICROSECOND = timedelta(microseconds=1)
_NS_DIGITS = 1000


def encode(events: Sequence[UsageEvent], number: int) -> bytes:
    """A line an event, in their order, which is that of their times.

    number: of the request. Two events of one microsecond, from requests with other numbers, get times of their own (as long
        as the numbers differ in their last three digits).

    Raises ValueError for a tag that the protocol can't hold.
    """
    lines = []
    last_ns = 0
    for event in events:
        time_ns = max((event.event_time - EPOCH) // _MICROSECOND * 1000 + number % _NS_DIGITS, last_ns + 1)
        lines.append(f"{_series(event)} {_fields(event)} {time_ns}\n")
        last_ns = time_ns
    return "".join(lines).encode()


def _series(event: UsageEvent) -> str:
    """The tags are in the order of their names, as the manual asks for."""
    return (
        f"{MEASUREMENT},model={tag(event.model)},provider={tag(event.provider)},service={tag(event.service)},"
        f"team={tag(event.team)}"
    )


def _fields(event: UsageEvent) -> str:
    fields = [
        f'event_id="{event.event_id}"',
        f"user_id={string(event.user_id)}",
        f"total_tokens={event.total_tokens or 0}i",
    ]
    if event.latency_ms is not None:
        fields.append(f"latency_ms={event.latency_ms}i")
    if event.status_code is not None:
        fields.append(f"status_code={event.status_code}i")
    if event.error_type is not None:
        fields.append(f"error_type={string(event.error_type)}")
    if event.prompt is not None:
        fields.append(f"prompt={string(event.prompt)}")
    if (extra := extra_text(event)) is not None:
        fields.append(f"extra={string(extra)}")
    return ",".join(fields)


def tag(text: str) -> str:
    """The value of a tag.

    Raises ValueError for one that has no spelling: with a line break, or with a backslash where it would be taken for the
    beginning of an escape.
    """
    if "\n" in text or text.endswith("\\") or any(f"\\{escaped}" in text for escaped in ",= "):
        raise ValueError(f"{text!r} can't be a tag")
    return text.replace(",", r"\,").replace("=", r"\=").replace(" ", r"\ ")


def string(text: str) -> str:
    """The value of a field that is text, with its quotes. Line breaks stand as they are."""
    escaped = text.replace("\\", r"\\").replace('"', r"\"")
    return f'"{escaped}"'
