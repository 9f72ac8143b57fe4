"""Native range partitions, for plain PostgreSQL only: made before a batch needs them, in a transaction of their own."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

import asyncpg
from msgspec import Struct

from ingest.store import files


class Range(Struct, frozen=True):
    """A span of time, `lower` included, `upper` not."""

    lower: datetime
    upper: datetime


class Partitions:
    """The ranges of one table that are known to have a partition.

    Only what is known is remembered: a partition that somebody dropped is made again when a batch fails for it, after
    `forget`.
    """

    def __init__(self, table: str, width: timedelta) -> None:
        self._table = table
        self._width = width
        self._known: list[Range] = []

    async def ensure(self, connection: asyncpg.Connection, times: Sequence[datetime]) -> None:
        """Makes whatever partition the aware times lack."""
        if not times or self._covers(min(times), max(times)):
            return
        if not self._known:
            rows = await connection.fetch(files.sql("state/partitions"), self._table)
            self._known = _merged(Range(row["lower_bound"], row["upper_bound"]) for row in rows)
        for time in times:
            if not self._covers(time, time):
                row = await connection.fetchrow(files.sql("load/ensure_partition"), self._table, time, self._width)
                self._known = _merged([*self._known, Range(row["lower_bound"], row["upper_bound"])])

    def forget(self) -> None:
        """Drops what is known, to be asked again."""
        self._known = []

    def _covers(self, first: datetime, last: datetime) -> bool:
        return any(known.lower <= first and last < known.upper for known in self._known)


def _merged(ranges: Iterable[Range]) -> list[Range]:
    """The same span of time in as few ranges as possible, newest first: that is where batches fall."""
    merged: list[Range] = []
    for part in sorted(ranges, key=lambda part: part.lower):
        if merged and part.lower <= merged[-1].upper:
            merged[-1] = Range(merged[-1].lower, max(merged[-1].upper, part.upper))
        else:
            merged.append(part)
    return merged[::-1]
