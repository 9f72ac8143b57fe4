"""What became of each item of a batch, and the answer that says so.

For every answer: accepted + duplicates + conflicts + rejected = received.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from uuid import UUID

from msgspec import Struct

ERRORS_LISTED_MAX = 100

FORBIDDEN_TEAM = "forbidden_team"
"""The code of an item that the API key may not send: its event is another team's."""


class Outcome(StrEnum):
    """What the database found of an item that it did not store. An item without an outcome was accepted."""

    DUPLICATE = "duplicate"
    CONFLICT = "conflict"
    UNKNOWN_EVENT = "unknown_event"
    UNSTORABLE = "unstorable"


REJECTING = frozenset({Outcome.UNKNOWN_EVENT, Outcome.UNSTORABLE})

MESSAGES = {
    Outcome.CONFLICT: "This event_id is stored already with other content; the first one stays.",
    Outcome.UNKNOWN_EVENT: "No usage event with this event_id is stored; send the event first, then this archive again.",
    Outcome.UNSTORABLE: "The database refused this very item.",
}


class Rejection(Struct, frozen=True, kw_only=True):
    """Why one item was not stored. `index` is its place in the request, from 0; `code` is of contract's list."""

    index: int
    event_id: str | None
    code: str
    field: str | None
    message: str


class Verdict(Struct, frozen=True, kw_only=True):
    """The answer to one request. `errors` holds the first ERRORS_LISTED_MAX rejections and conflicts, by index."""

    received: int
    accepted: int
    duplicates: int
    conflicts: int
    rejected: int
    sanitized: int
    errors: list[Rejection]
    errors_truncated: bool

    @property
    def all_rejected(self) -> bool:
        """Whether there were items, and not one of them is stored."""
        return self.received > 0 and self.rejected == self.received


def give(
    received: int,
    rejections: Sequence[Rejection],
    event_ids: Sequence[bytes] = (),
    indices: Sequence[int] = (),
    outcomes: Mapping[int, Outcome] | None = None,
    *,
    sanitized: frozenset[int] = frozenset(),
    committed: bool = True,
) -> Verdict:
    """The verdict on a batch.

    received: how many items the request had.
    rejections: those found wrong before the database was asked.
    event_ids, indices: what the database was asked to store (16 bytes an id), and the places in the request.
    outcomes: by position among `event_ids`, what the database did not store.
    sanitized: places in the request of the items whose text was changed; counted where they were accepted.
    committed: False where the request asked for all or nothing and got nothing. Then every item counts as rejected, and
        `errors` lists the ones that were the cause.
    """
    tally = dict.fromkeys(Outcome, 0)
    listed = list(rejections)
    not_stored: set[int] = set()
    for position, outcome in (outcomes or {}).items():
        tally[outcome] += 1
        index = indices[position]
        not_stored.add(index)
        if outcome in (REJECTING if not committed else MESSAGES):
            listed.append(
                Rejection(
                    index=index,
                    event_id=str(UUID(bytes=event_ids[position])),
                    code=outcome.value,
                    field=None if outcome is Outcome.UNSTORABLE else "event_id",
                    message=MESSAGES[outcome],
                )
            )
    listed.sort(key=lambda rejection: rejection.index)
    errors, truncated = listed[:ERRORS_LISTED_MAX], len(listed) > ERRORS_LISTED_MAX
    if not committed:
        return Verdict(
            received=received,
            accepted=0,
            duplicates=0,
            conflicts=0,
            rejected=received,
            sanitized=0,
            errors=errors,
            errors_truncated=truncated,
        )
    return Verdict(
        received=received,
        accepted=len(event_ids) - len(not_stored),
        duplicates=tally[Outcome.DUPLICATE],
        conflicts=tally[Outcome.CONFLICT],
        rejected=len(rejections) + tally[Outcome.UNKNOWN_EVENT] + tally[Outcome.UNSTORABLE],
        sanitized=len(sanitized.intersection(indices) - not_stored) if sanitized else 0,
        errors=errors,
        errors_truncated=truncated,
    )
