"""One input to the service: read in a thread, sent by a few tasks, kept in the journal."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import CancelledError

from ingest.client import Client, ItemError, Outcome
from ingest.send.journal import Journal
from ingest.send.reader import Batch

_QUEUED_MAX = 2
"""Batches that are read ahead of those in flight."""
HELD_BYTES_MAX = 16 * 1024 * 1024
"""How much is read ahead and in flight, where that is more than one batch: one with a large item goes alone."""

Acknowledged = Callable[[Batch, Outcome], None]


async def send(
    batches: Iterator[Batch], client: Client, journal: Journal, *, in_flight_max: int, acknowledged: Acknowledged
) -> None:
    """Sends all batches, `in_flight_max` at once; returns when each is acknowledged and in the journal.

    acknowledged: told of each.

    Raises errors.InputRefused, when all that could be read is acknowledged, if the input can't be read to its end; at once,
    if the journal can't be written, and client.SendError.
    """
    queue: asyncio.Queue[Batch | None] = asyncio.Queue(_QUEUED_MAX)
    room = _Room(HELD_BYTES_MAX)
    refusals: list[Exception] = []
    # A daemon: one that waits for standard input must not keep the program from ending.
    thread = threading.Thread(
        target=_read, args=(batches, queue, room, asyncio.get_running_loop(), refusals), name="reader", daemon=True
    )
    thread.start()
    tasks = [asyncio.create_task(_work(queue, room, client, journal, acknowledged)) for _ in range(in_flight_max)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if refusals:
        raise refusals[0]


class _Room:
    """Room for so many bytes; for more, if they are alone."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._held_bytes = 0
        self._changed = asyncio.Condition()

    async def take(self, count: int) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: not self._held_bytes or self._held_bytes + count <= self._bytes_max)
            self._held_bytes += count

    async def give_back(self, count: int) -> None:
        async with self._changed:
            self._held_bytes -= count
            self._changed.notify_all()


def _read(
    batches: Iterator[Batch],
    queue: "asyncio.Queue[Batch | None]",
    room: _Room,
    loop: asyncio.AbstractEventLoop,
    refusals: list[Exception],
) -> None:
    def wait_for(step: Coroutine[None, None, None]) -> None:
        try:
            asyncio.run_coroutine_threadsafe(step, loop).result()
        except RuntimeError:
            step.close()
            raise

    try:
        try:
            for batch in batches:
                wait_for(room.take(batch.size_bytes))
                wait_for(queue.put(batch))
        except Exception as error:  # noqa: BLE001 - raised again where it belongs, at the end of send
            refusals.append(error)
        wait_for(queue.put(None))
    except (RuntimeError, CancelledError):
        return  # the loop has ended, and nobody waits for batches


async def _work(
    queue: "asyncio.Queue[Batch | None]", room: _Room, client: Client, journal: Journal, acknowledged: Acknowledged
) -> None:
    while (batch := await queue.get()) is not None:
        outcome = _too_long(batch) if batch.too_long else await client.send(batch.texts)
        texts = [batch.too_long.text] if batch.too_long else batch.texts
        journal.acknowledge(batch.first, texts, batch.lines, outcome)
        acknowledged(batch, outcome)
        await room.give_back(batch.size_bytes)
    await queue.put(None)  # for the next of us


def _too_long(batch: Batch) -> Outcome:
    assert batch.too_long is not None
    message = f"The item has {batch.too_long.too_long_bytes} bytes, more than the service takes; `text` is its beginning."
    return Outcome(
        received=1,
        rejected=1,
        errors=[ItemError(index=0, code="limit_exceeded", message=message)],
    )
