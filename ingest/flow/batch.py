"""A batch on its way: the valid items of one request, their rows, and the Protocols of whoever stores them."""

from array import array
from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import accumulate
from typing import Any, Protocol

from msgspec import Struct

from ingest.events import Stream
from ingest.verdict import Outcome, Rejection


class Rows(Struct, frozen=True):
    """Items as a store takes them: entry k of each sequence belongs to the k-th item.

    They hold bytes instead of the items' objects because they may have to wait: the rows of a usual event take 0.5 KB, its
    item 1.6 KB.
    """

    claims: list[bytes]
    """What the ledger has of the item: its id in 16 bytes, then the rest in the store's own format."""
    times: list[datetime | None]
    """Aware; None where an archive has none."""
    fields: bytes | bytearray
    """All rows in the store's own format, one after the other."""
    ends: Sequence[int]
    """Where in `fields` each row ends."""

    def __len__(self) -> int:
        return len(self.claims)

    def at(self, positions: Sequence[int]) -> "Rows":
        """Those of the items at these positions."""
        starts = [0, *self.ends]
        pieces = [bytes(self.fields[starts[position] : starts[position + 1]]) for position in positions]
        return Rows(
            [self.claims[position] for position in positions],
            [self.times[position] for position in positions],
            b"".join(pieces),
            array("Q", accumulate(map(len, pieces))),
        )

    @property
    def event_ids(self) -> list[bytes]:
        """16 bytes each."""
        return [claim[:16] for claim in self.claims]


Encode = Callable[[Stream, Sequence[Any]], Rows]
"""Makes the rows of items, which are structs of the stream's `item`."""


class Batch(Struct, frozen=True, kw_only=True):
    """The valid items of one request as rows, and what was found wrong with the others."""

    stream: Stream
    received: int
    """How many items the request had, the rejected ones included."""
    rows: Rows
    indices: Sequence[int]
    """indices[k] is the place in the request of the k-th row."""
    sanitized: frozenset[int] = frozenset()
    """The places in the request of items whose text was changed so that PostgreSQL can hold it."""
    rejections: Sequence[Rejection] = ()
    strict: bool = False
    """Prefer: handling=strict (RFC 7240): one rejected item rejects all."""


class Stored(Struct, frozen=True):
    """What a store made of the rows it was given."""

    outcomes: dict[int, Outcome]
    """By position among the rows: why one was not stored. The others are on disk, if `committed`."""
    committed: bool = True
    """False where all or nothing was asked for and one item was rejected: nothing of the batch is stored."""


class StoreApart(Exception):
    """A group can't be stored because of one of its batches; nothing of it is. By themselves, the others may be stored."""


class Readiness(Protocol):
    """What a store knows of itself, without asking anybody."""

    def check_ready(self) -> None:
        """Raises errors.Unavailable, at once, where it is known that nothing can be stored now."""
        ...

    def events_from(self) -> datetime | None:
        """The moment before which the store has dropped or forgotten events, as far as it is known; None where it has not.

        An event of then could be stored or counted twice.
        """
        ...


class BatchStore(Readiness, Protocol):
    """Stores batches."""

    async def store(self, stream: Stream, rows: Rows, *, strict: bool) -> Stored:
        """Stores the rows and returns when they are on disk.

        With `strict`, a row that would be rejected (verdict.REJECTING) keeps all of them out.

        Raises errors.Unavailable if nothing could be stored, now; the same rows may be given again, whatever became of them.
        """
        ...


class GroupStore(Readiness, Protocol):
    """Stores several batches in one transaction."""

    async def store_group(self, stream: Stream, group: Sequence[Rows], *, strict: bool) -> Sequence[Stored]:
        """Stores the batches of a group and returns when they are on disk: what became of each, in their order.

        With `strict`, which a group of one may ask for, a row that would be rejected keeps all of them out.

        Raises StoreApart if that is to be tried with each batch by itself, which a group of one never is; errors.Unavailable
        if nothing could be stored, now.
        """
        ...
