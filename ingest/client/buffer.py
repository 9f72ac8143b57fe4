"""Items one at a time, as a program makes them, to batches."""

import asyncio
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Protocol

from ingest.client import batching
from ingest.client.failures import GivenUp, SendError
from ingest.client.sender import Outcome


class Sender(Protocol):
    """What takes the batches: a Client."""

    async def send(self, items: Sequence[bytes]) -> Outcome:
        """Returns when the batch is stored. Raises SendError."""
        ...


Done = Callable[[Sequence[bytes], Outcome | SendError], None]
"""Called once for each batch, also where it is cancelled, with its items and what became of them."""


class Buffer:
    """Collects items and sends them when there are `items_max` of them, or `bytes_max` bytes, or when the first of them has
    waited `linger_seconds`. At most `in_flight_max` batches are on their way; then `add` waits, so that a service that is
    away costs a bounded amount of memory.

    done: must not raise; a batch that comes with a SendError is the caller's again, to keep or to count as lost.
    """

    def __init__(
        self,
        sender: Sender,
        done: Done,
        *,
        items_max: int = 1000,
        bytes_max: int = batching.BATCH_BYTES_MAX,
        linger_seconds: float = 1.0,
        in_flight_max: int = 4,
    ) -> None:
        self._sender = sender
        self._done = done
        self._batcher = batching.Batcher(items_max, bytes_max)
        self._linger_seconds = linger_seconds
        self._in_flight_max = in_flight_max
        self._slots = asyncio.Semaphore(in_flight_max)
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> "Buffer":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        try:
            await self.flush()
        except asyncio.CancelledError:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            raise

    async def add(self, item: bytes) -> None:
        """Takes the JSON text of one item; waits while too much is on its way. Raises ValueError if it is blank."""
        if not item.strip():
            raise ValueError("An item is blank.")
        full = self._batcher.add(item)
        if full is not None:
            self._stop_timer()
            self._start(full)
        if len(self._batcher) and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._linger_seconds, self._lingered)
        while len(self._tasks) > self._in_flight_max:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)

    async def flush(self) -> None:
        """Sends what there is, and returns when everything that was added has its outcome."""
        self._lingered()
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _lingered(self) -> None:
        self._stop_timer()
        if len(self._batcher):
            self._start(self._batcher.take())

    def _start(self, items: list[bytes]) -> None:
        task = asyncio.create_task(self._send(items))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send(self, items: list[bytes]) -> None:
        said: Outcome | SendError = GivenUp("It was cancelled.")
        try:
            async with self._slots:
                said = await self._sender.send(items)
        except SendError as error:
            said = error
        except Exception as error:  # noqa: BLE001 - whatever it is, the batch is the caller's again
            said = GivenUp(f"{type(error).__name__}: {error}")
            said.__cause__ = error
        finally:
            self._done(items, said)

    def _stop_timer(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
