"""A batch on its way: the valid items of one request, and the Protocol of whoever stores them."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from msgspec import Struct

from ingest.events import Stream
from ingest.verdict import Outcome, Rejection


class Batch(Struct, frozen=True, kw_only=True):
    """The valid items of one request, and what was found wrong with the others."""

    stream: Stream
    received: int
    """How many items the request had, the rejected ones included."""
    items: Sequence[Any]
    """Structs of `stream.item`."""
    indices: Sequence[int]
    """indices[k] is the place in the request of items[k]."""
    sanitized: frozenset[int] = frozenset()
    """The places in the request of items whose text was changed so that PostgreSQL can hold it."""
    rejections: Sequence[Rejection] = ()
    strict: bool = False
    """Prefer: handling=strict (RFC 7240): one rejected item rejects all."""


class Stored(Struct, frozen=True):
    """What a store made of the items it was given."""

    outcomes: Mapping[int, Outcome]
    """By position among the items: why one was not stored. The others are on disk, if `committed`."""
    committed: bool = True
    """False where all or nothing was asked for and one item was rejected: nothing of the batch is stored."""


class BatchStore(Protocol):
    """Stores batches."""

    def check_ready(self) -> None:
        """Raises errors.Unavailable, at once, where it is known that nothing can be stored now."""
        ...

    def events_from(self) -> datetime | None:
        """The moment before which the store has dropped or forgotten events, as far as it is known; None where it has not.

        An event of then could be stored or counted twice.
        """
        ...

    async def store(self, stream: Stream, items: Sequence[Any], *, strict: bool) -> Stored:
        """Stores the items in one transaction and returns when they are on disk.

        With `strict`, an item that would be rejected (verdict.REJECTING) keeps all of them out.

        Raises errors.Unavailable if nothing could be stored, now; the same items may be given again, whatever became of them.
        """
        ...
