"""Batches into the database: COPY into staging, claim in the ledger, insert what was claimed; one transaction a batch."""

import asyncio
import logging
import random
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg

from ingest import errors, verdict
from ingest.events import MESSAGE_ARCHIVES, STREAMS, USAGE_EVENTS, Stream
from ingest.flow.batch import Stored
from ingest.store import failures, files, rows
from ingest.store.database import Database
from ingest.store.editions import Edition
from ingest.store.partitions import Partitions
from ingest.verdict import Outcome

logger = logging.getLogger(__name__)

ATTEMPTS_MAX = 5
RETRY_SECONDS_MAX = 0.2


class _RolledBack(Exception):
    """Leaves a transaction without committing it, on purpose."""


class BatchWriter:
    """Stores batches (ingest.flow.batch.BatchStore)."""

    def __init__(self, database: Database, *, chunk_interval: timedelta) -> None:
        self._database = database
        self._partitions = {stream: Partitions(stream.name, chunk_interval) for stream in STREAMS}

    def check_ready(self) -> None:
        """Raises errors.Unavailable, at once, where nothing can be stored now."""
        self._database.check_ready()

    def events_from(self) -> datetime | None:
        """The moment before which events were dropped or forgotten, as of a minute ago; None where none were."""
        return self._database.check_ready().events_from

    async def store(self, stream: Stream, items: Sequence[Any], *, strict: bool) -> Stored:
        """Stores the items in one transaction and returns when they are on disk.

        Items that the server refuses for their data are found by bisection and left out.

        Raises errors.Unavailable if nothing could be stored, now; the same items may be given again.
        """
        unstorable: dict[int, Outcome] = {}
        while True:
            positions = [k for k in range(len(items)) if k not in unstorable]
            if strict and unstorable:
                return Stored(unstorable, committed=False)
            try:
                stored = await self._store(stream, items, positions, strict=strict)
            except failures.RowsRefused:
                found = await self._find_unstorable(stream, items, positions)
                if not found:  # refused together, though no row is refused by itself: no verdict would be true
                    raise errors.DatabaseAway("The database refused a batch, but none of its rows.") from None
                unstorable |= dict.fromkeys(found, Outcome.UNSTORABLE)
                continue
            return Stored({**stored.outcomes, **unstorable}, committed=stored.committed)

    async def _store(
        self,
        stream: Stream,
        items: Sequence[Any],
        positions: Sequence[int],
        *,
        strict: bool = False,
        commit: bool = True,
    ) -> Stored:
        """As `store`, for the items at these positions. Raises failures.RowsRefused if the server refuses one of them.

        Without `commit` it is only a try.
        """
        for attempt in range(1, ATTEMPTS_MAX + 1):
            try:
                async with self._database.connection() as connection:
                    return await self._store_on(connection, stream, items, positions, strict=strict, commit=commit)
            except failures.Transient as obstacle:
                logger.info("Attempt %d at a batch of %d met: %s", attempt, len(positions), obstacle)
                self._partitions[stream].forget()
                if attempt == ATTEMPTS_MAX and obstacle.blames_row:
                    raise failures.RowsRefused(str(obstacle)) from obstacle
                await asyncio.sleep(random.uniform(0, RETRY_SECONDS_MAX))  # noqa: S311 - spreads retries, guards nothing
        raise errors.DatabaseAway(f"Other transactions stood in the way of this batch {ATTEMPTS_MAX} times.")

    async def _store_on(
        self,
        connection: asyncpg.Connection,
        stream: Stream,
        items: Sequence[Any],
        positions: Sequence[int],
        *,
        strict: bool,
        commit: bool,
    ) -> Stored:
        now = datetime.now(UTC)
        await self._ensure_partitions(connection, stream, items, positions, now)
        outcomes: dict[int, Outcome] = {}
        try:
            async with connection.transaction(isolation="read_committed"):
                await connection.copy_records_to_table(
                    f"staged_{stream.name}",
                    records=rows.make(stream, items, positions),
                    columns=rows.COLUMNS[stream],
                )
                outcomes = await _load(connection, stream, now)
                if stream is USAGE_EVENTS and self._database.check_ready().edition is not Edition.TIMESCALEDB:
                    await connection.fetch(files.sql("load/usage_events.note_changes"))
                if not commit or (strict and not verdict.REJECTING.isdisjoint(outcomes.values())):
                    raise _RolledBack
        except _RolledBack:
            return Stored(outcomes, committed=False)
        return Stored(outcomes)

    async def _ensure_partitions(
        self,
        connection: asyncpg.Connection,
        stream: Stream,
        items: Sequence[Any],
        positions: Sequence[int],
        now: datetime,
    ) -> None:
        if self._database.check_ready().edition is Edition.POSTGRESQL:
            times = [getattr(items[k], stream.time_field) or now for k in positions]
            await self._partitions[stream].ensure(connection, times)

    async def _find_unstorable(self, stream: Stream, items: Sequence[Any], positions: Sequence[int]) -> list[int]:
        """The positions of rows that the server refuses each by itself; at least one of `positions` is such a row.

        Halves are tried and rolled back: k bad rows of n take about k · log2(n) tries.
        """
        if len(positions) == 1:
            return list(positions)
        found: list[int] = []
        middle = len(positions) // 2
        for half in (positions[:middle], positions[middle:]):
            if await self._is_refused(stream, items, half):
                found += await self._find_unstorable(stream, items, half)
        return found

    async def _is_refused(self, stream: Stream, items: Sequence[Any], positions: Sequence[int]) -> bool:
        try:
            await self._store(stream, items, positions, commit=False)
        except failures.RowsRefused:
            return True
        return False


async def _load(connection: asyncpg.Connection, stream: Stream, now: datetime) -> dict[int, Outcome]:
    """Claims and inserts what is staged. Returns, by `ord`, what was not stored and why."""
    arguments = (now,) if stream is MESSAGE_ARCHIVES else ()
    left = [row["ord"] for row in await connection.fetch(files.sql(f"load/{stream.name}.load"), *arguments)]
    if not left:
        return {}
    judged: Mapping[int, Outcome] = {
        row["ord"]: Outcome(row["outcome"]) for row in await connection.fetch(files.sql(f"load/{stream.name}.judge"), left)
    }
    if len(judged) < len(left):
        raise failures.Transient("a ledger entry that was in the way was pruned meanwhile")
    return dict(judged)
