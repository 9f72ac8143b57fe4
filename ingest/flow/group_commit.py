"""Group commit: requests that arrive while writers are busy share one COPY and one commit; each gets its own verdict.

A batch that comes alone is stored at once. While others are being written, a further writer starts as soon as as many rows
wait as are being written, or as make a group worth its transaction; what has gathered when a writer is done goes out
together. So groups grow with the load, and with nothing but the load.

Larger groups are cheaper: a transaction of 4000 rows took 17.5 µs a row, four of 1000 took 22.5 (both sides' CPU, PostgreSQL
15, TimescaleDB 2.28). Of 10 rows, it is the transactions that cost: where every batch that found a writer free started it,
32 connections stored 7 % less, at 18 % more of PostgreSQL's CPU (medians of 5 interleaved rounds).
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence
from datetime import datetime

from msgspec import Struct

from ingest import errors, metrics
from ingest.events import STREAMS, Stream
from ingest.flow.batch import GroupStore, Rows, StoreApart, Stored

logger = logging.getLogger(__name__)

GROUP_ROWS_MAX = 5000
GROUP_BYTES_MAX = 8 * 1024 * 1024
"""A batch that is larger by itself goes alone."""

FURTHER_WRITER_ROWS = 200
"""So many rows don't wait while there is another writer, however many are being written."""
FURTHER_WRITER_SECONDS = 0.01
"""Nor does any row for longer than this: a transaction that hangs holds up no other."""


class _Waiting(Struct, eq=False):
    """A batch that waits for its turn, or for its outcome."""

    stream: Stream
    rows: Rows
    strict: bool
    is_apart: bool
    """Goes alone: it asked for all or nothing, or was in a group that could not be stored together."""
    stored: "asyncio.Future[Stored]"
    since: float
    """When it came, by the performance counter: the event loop's own clock is too coarse."""
    patience: asyncio.TimerHandle | None = None
    is_queued: bool = False
    taken: float | None = None
    """When a writer took it last."""


_WAIT_SECONDS = {stream: metrics.STAGE_DURATION.labels(stream.name, "wait") for stream in STREAMS}
_COMMIT_SECONDS = {stream: metrics.STAGE_DURATION.labels(stream.name, "commit") for stream in STREAMS}
_APART = metrics.STORE_RETRIES.labels("apart")


class GroupCommit:
    """Stores batches in groups (ingest.flow.batch.BatchStore)."""

    def __init__(
        self,
        store: GroupStore,
        *,
        writers_max: int,
        queued_rows_max: int,
        queued_bytes_max: int,
        queue_timeout_seconds: float,
    ) -> None:
        self._store = store
        self._writers_max = writers_max
        self._queued_rows_max = queued_rows_max
        self._queued_bytes_max = queued_bytes_max
        self._queue_timeout_seconds = queue_timeout_seconds
        self._queue: deque[_Waiting] = deque()
        self._queued_rows = 0
        self._queued_bytes = 0
        self._writing = 0
        self._writing_rows = 0
        self._impatience: asyncio.TimerHandle | None = None
        self._writers: set[asyncio.Task[None]] = set()

    def check_ready(self) -> None:
        """Raises errors.Unavailable, at once, where nothing can be stored now."""
        self._store.check_ready()

    def events_from(self) -> datetime | None:
        """The moment before which events were dropped or forgotten; None where none were."""
        return self._store.events_from()

    @property
    def queued_rows(self) -> int:
        """How many rows wait for a writer."""
        return self._queued_rows

    @property
    def queued_bytes(self) -> int:
        """How many bytes these rows have."""
        return self._queued_bytes

    async def store(self, stream: Stream, rows: Rows, *, strict: bool) -> Stored:
        """Stores the rows, in one transaction with those of others, and returns when they are on disk.

        Raises errors.QueueFull, at once, if they don't fit in the queue, or if no writer took them in time; other kinds of
        errors.Unavailable if nothing of them could be stored.
        """
        if (self._queue and self._writing == self._writers_max) and (
            self._queued_rows + len(rows) > self._queued_rows_max
            or self._queued_bytes + len(rows.fields) > self._queued_bytes_max
        ):
            raise errors.QueueFull(
                f"{self._queued_rows} rows ({self._queued_bytes} bytes) wait for the database; MAX_QUEUED_ROWS is "
                f"{self._queued_rows_max}."
            )
        loop = asyncio.get_running_loop()
        waiting = _Waiting(stream, rows, strict, strict, loop.create_future(), time.perf_counter())
        self._queue.append(waiting)
        self._note(waiting)
        if self._queued_rows >= min(self._writing_rows, FURTHER_WRITER_ROWS):
            self._start_writer()
        elif self._impatience is None:
            self._impatience = loop.call_later(FURTHER_WRITER_SECONDS, self._start_writer)
        try:
            stored = await waiting.stored
        finally:
            self._leave(waiting)  # if it still waits: it was given up, or cancelled
        assert waiting.taken is not None
        _WAIT_SECONDS[stream].observe(waiting.taken - waiting.since)
        _COMMIT_SECONDS[stream].observe(time.perf_counter() - waiting.taken)
        return stored

    def _leave(self, waiting: _Waiting) -> None:
        if waiting.is_queued:
            self._queue.remove(waiting)
            self._forget(waiting)

    def _give_up(self, waiting: _Waiting) -> None:
        if not waiting.stored.done():
            waiting.stored.set_exception(
                errors.QueueFull(f"No writer was free within {self._queue_timeout_seconds:g} s (QUEUE_TIMEOUT_SECONDS).")
            )

    def _start_writer(self) -> None:
        """Starts one if something waits, unless as many as may be are writing; these will see to it."""
        if self._impatience is not None:
            self._impatience.cancel()
            self._impatience = None
        if self._queue and self._writing < self._writers_max:
            self._writing += 1
            writer = asyncio.create_task(self._write(), name="writer")
            self._writers.add(writer)  # the event loop holds its tasks by weak references only
            writer.add_done_callback(self._writers.discard)

    async def _write(self) -> None:
        """Stores group after group until the queue is empty."""
        try:
            while group := self._next_group():
                self._start_writer()  # for what did not fit in the group
                rows = sum(len(waiting.rows) for waiting in group)
                self._writing_rows += rows
                try:
                    await self._store_group(group)
                finally:
                    self._writing_rows -= rows
        finally:
            self._writing -= 1  # at once, and not when the task counts as done: a batch that comes in between needs a writer

    def _next_group(self) -> list[_Waiting]:
        """The batch that has waited longest and, in their order, those of its stream that fit in one transaction with it.

        One that is to go apart goes alone. One whose request was cancelled or sent away is left out.
        """
        group: list[_Waiting] = []
        passed_over: list[_Waiting] = []
        taken = time.perf_counter()
        rows = size = 0
        while self._queue:
            waiting = self._queue.popleft()
            if waiting.stored.done():
                self._forget(waiting)
                continue
            if group and (waiting.stream is not group[0].stream or waiting.is_apart):
                passed_over.append(waiting)
                continue
            rows += len(waiting.rows)
            size += len(waiting.rows.fields)
            if group and (rows > GROUP_ROWS_MAX or size > GROUP_BYTES_MAX):
                passed_over.append(waiting)
                break
            group.append(waiting)
            waiting.taken = taken
            self._forget(waiting)
            if waiting.is_apart:
                break
        self._queue.extendleft(reversed(passed_over))
        return group

    def _note(self, waiting: _Waiting) -> None:
        waiting.is_queued = True
        self._queued_rows += len(waiting.rows)
        self._queued_bytes += len(waiting.rows.fields)
        loop = asyncio.get_running_loop()
        waiting.patience = loop.call_later(self._queue_timeout_seconds, self._give_up, waiting)

    def _forget(self, waiting: _Waiting) -> None:
        waiting.is_queued = False
        self._queued_rows -= len(waiting.rows)
        self._queued_bytes -= len(waiting.rows.fields)
        if waiting.patience is not None:
            waiting.patience.cancel()

    async def _store_group(self, group: Sequence[_Waiting]) -> None:
        """Stores the group and tells each batch its outcome, whatever happens."""
        try:
            results: Sequence[Stored | Exception] = await self._store.store_group(
                group[0].stream, [waiting.rows for waiting in group], strict=group[0].strict
            )
        except StoreApart:
            self._queue_apart(group)
            return
        except errors.Unavailable as problem:
            results = [problem] * len(group)
        except Exception as mistake:
            if len(group) > 1:  # whoever's fault it is, it shall not be the others'
                logger.exception("A group of %d batches failed; they are stored apart", len(group))
                self._queue_apart(group)
                return
            results = [mistake]
        except BaseException:  # this process ends
            for waiting in group:
                waiting.stored.cancel()
            raise
        for waiting, result in zip(group, results, strict=True):
            _tell(waiting, result)

    def _queue_apart(self, group: Sequence[_Waiting]) -> None:
        """Lets the batches of the group wait again, before all others, for a writer each: none of them holds up another."""
        _APART.inc()
        for waiting in reversed(group):
            waiting.is_apart = True
            self._queue.appendleft(waiting)
            self._note(waiting)
        self._start_writer()


def _tell(waiting: _Waiting, result: Stored | Exception) -> None:
    if waiting.stored.done():  # it was cancelled, or sent away
        return
    if isinstance(result, Exception):
        waiting.stored.set_exception(result)
    else:
        waiting.stored.set_result(result)
