"""Items as rows of their staging tables: `ord`, `is_repeat`, then the columns in the order of COLUMNS."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any
from uuid import UUID

from msgspec import Raw

from ingest.events import MESSAGE_ARCHIVES, NO_JSON, USAGE_EVENTS, MessageArchive, Stream, UsageEvent

Row = tuple[Any, ...]

COLUMNS: dict[Stream, tuple[str, ...]] = {
    USAGE_EVENTS: (
        "ord",
        "is_repeat",
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
    MESSAGE_ARCHIVES: (
        "ord",
        "is_repeat",
        "event_id",
        "user_id",
        "service",
        "prompt_full",
        "response_full",
        "stored_at",
    ),
}


def make(stream: Stream, items: Sequence[Any], positions: Sequence[int]) -> list[Row]:
    """The rows of items[k] for every k of `positions`, with k as `ord`."""
    repeats = _repeats([items[k].event_id for k in positions])
    build = _BUILD[stream]
    return [build(k, is_repeat, items[k]) for k, is_repeat in zip(positions, repeats, strict=True)]


def _repeats(event_ids: Sequence[UUID]) -> Iterator[bool]:
    """For each id, whether it stands earlier in the sequence."""
    if len(set(event_ids)) == len(event_ids):
        return iter([False] * len(event_ids))
    seen: set[UUID] = set()
    # set.add returns None: an id not seen before is added on the way to False.
    return (event_id in seen or bool(seen.add(event_id)) for event_id in event_ids)  # type: ignore[func-returns-value]


def _usage_event(position: int, is_repeat: bool, event: UsageEvent) -> Row:
    return (
        position,
        is_repeat,
        event.event_id,
        event.event_time,
        event.user_id,
        event.team,
        event.service,
        event.provider,
        event.model,
        event.total_tokens or 0,
        event.latency_ms,
        event.status_code,
        event.error_type,
        event.prompt,
        _json(event.extra),
    )


def _json(text: Raw) -> Raw | None:
    return None if text is NO_JSON or bytes(text) == b"null" else text


def _message_archive(position: int, is_repeat: bool, archive: MessageArchive) -> Row:
    return (
        position,
        is_repeat,
        archive.event_id,
        archive.user_id,
        archive.service,
        archive.prompt_full,
        archive.response_full,
        archive.stored_at,
    )


_BUILD: dict[Stream, Callable[[int, bool, Any], Row]] = {
    USAGE_EVENTS: _usage_event,
    MESSAGE_ARCHIVES: _message_archive,
}
