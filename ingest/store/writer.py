"""Groups of batches into the database, one transaction a group, every event once.

Two ways lead there:

- New ids, the usual case: COPY the claims into the ledger, COPY the rows into the table. If the ledger has one of the ids
  already, nothing of it happened, and the other way is taken.
- Any ids: COPY into staging, claim with `INSERT … ON CONFLICT` and move what was claimed (sql/load/*.load.sql), and ask the
  ledger what became of the rest (sql/load/*.judge.sql).

The first way costs 29 % less than the second; usage_events.load.sql has the figures.
"""

import asyncio
import logging
import random
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import asyncpg

from ingest import errors, metrics, verdict
from ingest.events import MESSAGE_ARCHIVES, STREAMS, USAGE_EVENTS, Stream
from ingest.flow.batch import Rows, StoreApart, Stored
from ingest.store import failures, files, rows
from ingest.store.database import Database
from ingest.store.editions import Edition
from ingest.store.partitions import Partitions
from ingest.verdict import Outcome

logger = logging.getLogger(__name__)

ATTEMPTS_MAX = 5
RETRY_SECONDS_MAX = 0.2

CAUTIOUS_GROUPS = 50
"""After an id that was there already, so many groups go the way of any ids: what is sent again comes in swarms. It also
bounds what the server's log has of it: one line `duplicate key value violates unique constraint` for so many groups."""

SCHEMA = "analytics"

_RETRIED = metrics.STORE_RETRIES.labels("transaction")
_BISECTED = metrics.STORE_RETRIES.labels("bisection")


class _RolledBack(Exception):
    """Leaves a transaction without committing it, on purpose."""


class BatchWriter:
    """Stores groups of batches (ingest.flow.batch.GroupStore)."""

    def __init__(self, database: Database, *, chunk_interval: timedelta) -> None:
        self._database = database
        self._partitions = {stream: Partitions(stream.name, chunk_interval) for stream in STREAMS}
        self._cautious_groups_left = 0
        self._may_copy = True

    def check_ready(self) -> None:
        """Raises errors.Unavailable, at once, where nothing can be stored now."""
        self._database.check_ready()

    def events_from(self) -> datetime | None:
        """The moment before which events were dropped or forgotten, as of a minute ago; None where none were."""
        return self._database.check_ready().events_from

    async def store_group(self, stream: Stream, group: Sequence[Rows], *, strict: bool) -> Sequence[Stored]:
        """Stores the batches in one transaction and returns when they are on disk: what became of each.

        If the server refuses some row of a batch that is alone for its data, the row is found by bisection and left out.

        Raises StoreApart if the server refuses some row of several batches, or if another transaction holds what one of them
        needs; errors.Unavailable if nothing could be stored, now, which may be tried again.
        """
        if len(group) == 1:
            return [await self._store_batch(stream, group[0], strict=strict)]
        try:
            stored = await self._attempt(stream, group, range(sum(map(len, group))))
        except (failures.RowsRefused, errors.DatabaseBusy) as problem:
            raise StoreApart(str(problem)) from problem
        return list(_shares(stored, group))

    async def _store_batch(self, stream: Stream, batch: Rows, *, strict: bool = False) -> Stored:
        unstorable: dict[int, Outcome] = {}
        while True:
            if strict and unstorable:
                return Stored(unstorable, committed=False)
            positions = [k for k in range(len(batch)) if k not in unstorable]
            try:
                stored = await self._attempt(stream, [batch], positions, strict=strict)
            except failures.RowsRefused:
                found = await self._find_unstorable(stream, batch, positions)
                if not found:  # refused together, though no row is refused by itself: no verdict would be true
                    raise errors.DatabaseAway("The database refused a batch, but none of its rows.") from None
                unstorable |= dict.fromkeys(found, Outcome.UNSTORABLE)
                continue
            return Stored({**stored.outcomes, **unstorable}, committed=stored.committed)

    async def _attempt(
        self, stream: Stream, group: Sequence[Rows], positions: Sequence[int], *, strict: bool = False, commit: bool = True
    ) -> Stored:
        """Stores the rows at these positions in the group. Raises failures.RowsRefused if the server refuses one of them.

        Without `commit` it is only a try.
        """
        for attempt in range(1, ATTEMPTS_MAX + 1):
            try:
                async with self._database.connection() as connection:
                    await self._ensure_partitions(connection, stream, group, positions)
                    is_whole = len(positions) == sum(map(len, group))
                    if is_whole and commit and not strict and await self._store_if_new(connection, stream, group):
                        return Stored({})
                    return await self._store_any(connection, stream, group, positions, strict=strict, commit=commit)
            except failures.Transient as obstacle:
                logger.info("Attempt %d at %d rows met: %s", attempt, len(positions), obstacle)
                _RETRIED.inc()
                self._partitions[stream].forget()
                if attempt == ATTEMPTS_MAX and obstacle.blames_row:
                    raise failures.RowsRefused(str(obstacle)) from obstacle
                await asyncio.sleep(random.uniform(0, RETRY_SECONDS_MAX))  # noqa: S311 - spreads retries, guards nothing
        raise errors.DatabaseAway(f"Other transactions stood in the way of this batch {ATTEMPTS_MAX} times.")

    async def _store_if_new(self, connection: asyncpg.Connection, stream: Stream, group: Sequence[Rows]) -> bool:
        """Stores usage events if all their ids are new, and says whether they are; else nothing of it happened."""
        if stream is not USAGE_EVENTS or not self._may_copy:
            return False
        if self._cautious_groups_left:
            self._cautious_groups_left -= 1
            return False
        try:
            async with _transaction(connection):
                await _copy(connection, "usage_event_ids", rows.LEDGER_COLUMNS, rows.to_claim(group), schema=SCHEMA)
                await _copy(connection, stream.name, rows.COLUMNS[stream], rows.to_insert(group), schema=SCHEMA)
                await self._note_changes(connection, group)
        except asyncpg.UniqueViolationError as violation:
            if violation.table_name != "usage_event_ids":
                raise  # an index of the DBA's
            self._cautious_groups_left = CAUTIOUS_GROUPS
            return False
        except asyncpg.FeatureNotSupportedError as refusal:  # row-level security, which COPY does not know
            logger.warning("Events go through staging, which takes longer: %s", refusal)
            self._may_copy = False
            return False
        return True

    async def _store_any(
        self,
        connection: asyncpg.Connection,
        stream: Stream,
        group: Sequence[Rows],
        positions: Sequence[int],
        *,
        strict: bool,
        commit: bool,
    ) -> Stored:
        """Stores what is new of the rows at these positions, and says what the others are."""
        outcomes: dict[int, Outcome] = {}
        try:
            async with _transaction(connection):
                columns = rows.STAGING_COLUMNS + rows.COLUMNS[stream]
                await _copy(connection, f"staged_{stream.name}", columns, rows.to_stage(stream, group, set(positions)))
                outcomes = await _load(connection, stream)
                if stream is USAGE_EVENTS:
                    await self._note_changes(connection, group)
                if not commit or (strict and not verdict.REJECTING.isdisjoint(outcomes.values())):
                    raise _RolledBack
        except _RolledBack:
            return Stored(outcomes, committed=False)
        return Stored(outcomes)

    async def _note_changes(self, connection: asyncpg.Connection, group: Sequence[Rows]) -> None:
        if self._database.check_ready().edition is not Edition.TIMESCALEDB:
            times = [time.astimezone(UTC) for batch in group for time in batch.times if time is not None]
            hours = {time.replace(minute=0, second=0, microsecond=0) for time in times}
            await connection.execute(files.sql("load/usage_events.note_changes"), sorted(hours))

    async def _ensure_partitions(
        self, connection: asyncpg.Connection, stream: Stream, group: Sequence[Rows], positions: Sequence[int]
    ) -> None:
        if self._database.check_ready().edition is Edition.POSTGRESQL:
            now = datetime.now(UTC)
            times = [time or now for batch in group for time in batch.times]
            await self._partitions[stream].ensure(connection, [times[position] for position in positions])

    async def _find_unstorable(self, stream: Stream, batch: Rows, positions: Sequence[int]) -> list[int]:
        """The positions of rows that the server refuses each by itself, among these, which it refuses together.

        Halves are tried and rolled back: k bad rows of n take about k · log2(n) tries.
        """
        if len(positions) <= 1:
            return list(positions)
        found: list[int] = []
        middle = len(positions) // 2
        for half in (positions[:middle], positions[middle:]):
            if await self._is_refused(stream, batch, half):
                found += await self._find_unstorable(stream, batch, half)
        return found

    async def _is_refused(self, stream: Stream, batch: Rows, positions: Sequence[int]) -> bool:
        _BISECTED.inc()
        try:
            await self._attempt(stream, [batch], positions, commit=False)
        except failures.RowsRefused:
            return True
        return False


@asynccontextmanager
async def _transaction(connection: asyncpg.Connection) -> AsyncIterator[None]:
    """As the driver's, but a connection that did not answer in time is ended. The driver would cancel the statement and roll
    back, and wait for that as long again."""
    transaction = connection.transaction(isolation="read_committed")
    try:
        await transaction.start()
        try:
            yield
        except (TimeoutError, asyncio.CancelledError):
            raise
        except BaseException:
            await transaction.rollback()
            raise
        await transaction.commit()
    except (TimeoutError, asyncio.CancelledError):
        connection.terminate()
        raise


async def _load(connection: asyncpg.Connection, stream: Stream) -> dict[int, Outcome]:
    """Claims and inserts what is staged. Returns, by `ord`, what was not stored and why."""
    arguments = (datetime.now(UTC),) if stream is MESSAGE_ARCHIVES else ()
    left = [row["ord"] for row in await connection.fetch(files.sql(f"load/{stream.name}.load"), *arguments)]
    if not left:
        return {}
    judged = {
        row["ord"]: Outcome(row["outcome"]) for row in await connection.fetch(files.sql(f"load/{stream.name}.judge"), left)
    }
    if len(judged) < len(left):
        raise failures.Transient("a ledger entry that was in the way was pruned meanwhile")
    return judged


async def _copy(
    connection: asyncpg.Connection, table: str, columns: Sequence[str], file: Iterable[bytes], *, schema: str | None = None
) -> None:
    await connection.copy_to_table(table, schema_name=schema, columns=columns, source=_each(file), format="binary")


async def _each(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


def _shares(stored: Stored, group: Sequence[Rows]) -> Iterator[Stored]:
    """What became of each batch of a group, from what became of all its rows."""
    left = deque(sorted(stored.outcomes.items()))
    start = 0
    for batch in group:
        end = start + len(batch)
        share: dict[int, Outcome] = {}
        while left and left[0][0] < end:
            position, outcome = left.popleft()
            share[position - start] = outcome
        yield Stored(share)
        start = end
