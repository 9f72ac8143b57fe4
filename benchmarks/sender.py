"""Sends a workload over some connections, and remembers what was acknowledged."""

import asyncio
import gc
import math
import random
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Protocol

import msgspec
from msgspec import Struct

from benchmarks.bodies import Body
from benchmarks.generate import EPOCH, MICROSECOND
from benchmarks.http_client import Answer, ClientError, ConnectFailed
from benchmarks.measurements import Counts, Measurements
from benchmarks.workload import Workload

PATH = "/api/v1/ingest/requests:bulk"
HEADERS = {"Content-Type": "application/json", "Content-Encoding": "gzip"}

RETRIES_MAX = 5
RETRY_SECONDS_DEFAULT = 1.0
RETRY_SECONDS_MAX = 30.0

DOWN_SECONDS = 0.1
"""A connection that can't be made is tried again after that; at once, that would be a busy loop."""

# What an SDK sends again: it was too early, or nobody knows what became of it.
RETRIED_STATUSES = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})


class Receipt(Struct, frozen=True, gc=False):
    """A request that was sent, by what makes its body again."""

    number: int
    now_us: int
    items: int
    stored: int
    """How many of its events the answer calls stored; 0 where there was none, or a refusal."""

    @property
    def now(self) -> datetime:
        return EPOCH + self.now_us * MICROSECOND


class _Prepared(Struct, frozen=True):
    body: Body
    due: float | None


class Channel(Protocol):
    """What a Sender sends over: an http_client.Connection."""

    async def connect(self) -> None:
        """Raises ClientError."""
        ...

    async def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Raises ClientError."""
        ...


class Sender:
    """Sends the requests of a workload in their order, each on the first connection that is free when it is due.

    Requests that are due while all connections are busy wait; a connection carries one at a time. A body is made before it is
    due, while others are on their way.

    retries: send again, as an SDK does, what was answered with 408, 429 or 503, or not at all: after Retry-After, or after up
        to 1, 2, 4 … seconds, at most RETRIES_MAX times. The connection is kept busy meanwhile, as an SDK's exporter is.
    """

    def __init__(
        self,
        connections: Sequence[Channel],
        workload: Workload,
        measurements: Measurements,
        *,
        headers: Mapping[str, str] | None = None,
        retries: bool = False,
    ) -> None:
        self.acknowledged: list[Receipt] = []
        self.unacknowledged: list[Receipt] = []
        """Refused, or the answer was lost: then they may be stored."""
        self.sent_seconds = 0.0
        """From the start until no more requests were sent."""
        self.cpu_seconds = 0.0
        """What this process used meanwhile."""
        self._connections = connections
        self._workload = workload
        self._measurements = measurements
        self._headers = {**HEADERS, **(headers or {})}
        self._retries = retries
        self._ready: deque[_Prepared] = deque()
        self._made = 0
        self._taken = 0
        self._stopped = asyncio.Event()
        self._start = 0.0
        self._started_at = EPOCH
        self._until = math.inf

    async def run(self, seconds: float) -> None:
        """Sends until the workload or the time is over, or until `stop`, and waits for the answers.

        Raises http_client.ClientError if not even the connections can be made.
        """
        for connection in self._connections:
            await connection.connect()
        # A collection of all that the imports have made would take tens of milliseconds.
        gc.collect()
        gc.freeze()
        self._start, self._started_at, self._until = time.perf_counter(), datetime.now(UTC), seconds
        cpu_start = time.process_time()
        for _ in self._connections:
            self._make_ahead()
        try:
            async with asyncio.TaskGroup() as group:
                for connection in self._connections:
                    group.create_task(self._work(connection))
                group.create_task(self._end(cpu_start))
        finally:
            gc.unfreeze()

    def stop(self) -> None:
        """Sends nothing more. What is on its way is waited for."""
        self._stopped.set()

    @property
    def elapsed_seconds(self) -> float:
        """Since the start."""
        return time.perf_counter() - self._start

    async def _end(self, cpu_start: float) -> None:
        """Marks the end of what is measured: when the time is over, or earlier when there is nothing left to send."""
        if await self._wait_until(self._until):
            self._stopped.set()
        end = min(self.elapsed_seconds, self._until)
        self.sent_seconds = end
        self.cpu_seconds = time.process_time() - cpu_start
        self._measurements.end(end)
        for number in range(self._taken, self._workload.requests or 0):
            due = self._workload.due_seconds(number)
            if due is None or due > end:
                break
            self._measurements.left_unsent(due, end)

    async def _work(self, connection: Channel) -> None:
        while not self._stopped.is_set():
            if not self._ready:
                self._make_ahead()
            if not self._ready:
                return
            prepared = self._ready.popleft()
            self._taken += 1
            free = self.elapsed_seconds
            if prepared.due is not None:
                if not await self._wait_until(prepared.due):
                    return
                self._measurements.sent_late.record(self.elapsed_seconds - max(prepared.due, free))
            await self._send(connection, prepared)

    def _make_ahead(self) -> None:
        if self._workload.requests is not None and self._made >= self._workload.requests:
            return
        due = self._workload.due_seconds(self._made)
        now = datetime.now(UTC) if due is None else self._started_at + timedelta(seconds=due)
        self._ready.append(_Prepared(self._workload.body(self._made, now), due))
        self._made += 1

    async def _send(self, connection: Channel, prepared: _Prepared) -> None:
        """Sends a request until it is acknowledged or given up."""
        receipt = Receipt(prepared.body.number, (prepared.body.now - EPOCH) // MICROSECOND, prepared.body.items, 0)
        for attempt in range(RETRIES_MAX + 1):
            sent = self.elapsed_seconds
            posting = asyncio.create_task(connection.post(PATH, prepared.body.content, self._headers))
            if attempt == 0:
                # After the first turn of the loop the request is written, after the second it is on its way. (uvloop writes
                # behind all callbacks of a turn.)
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                self._make_ahead()
            is_down = False
            try:
                answer = await posting
            except ClientError as error:
                kind, wait_seconds = error.kind, 2**attempt * random.uniform(0.5, 1)
                is_down = isinstance(error, ConnectFailed)
            else:
                counts = _counts(answer, len(prepared.body.content))
                if counts is not None:
                    self._measurements.acknowledged(due=prepared.due, sent=sent, done=self.elapsed_seconds, verdict=counts)
                    self.acknowledged.append(msgspec.structs.replace(receipt, stored=counts.stored))
                    return
                kind, wait_seconds = error_kind(answer), retry_after_seconds(answer)
            self._measurements.failed(self.elapsed_seconds, kind)
            if wait_seconds is None or not self._retries or attempt == RETRIES_MAX:
                if is_down:
                    await self._wait_until(self.elapsed_seconds + DOWN_SECONDS)
                break
            if not await self._wait_until(self.elapsed_seconds + wait_seconds):
                break
        self.unacknowledged.append(receipt)

    async def _wait_until(self, moment: float) -> bool:
        """Returns False if it was stopped before."""
        while (left := moment - self.elapsed_seconds) > 0:
            if self._stopped.is_set():
                return False
            # Timers have whole milliseconds, and one that is rounded down would be followed by a busy wait.
            with suppress(TimeoutError):
                async with asyncio.timeout(math.ceil(left * 1000) / 1000):
                    await self._stopped.wait()
        return True


def error_kind(answer: Answer) -> str:
    """The status, and the code of the problem document (RFC 9457) if it is one."""
    try:
        return f"{answer.status} {msgspec.json.decode(answer.content, type=_Problem).code}".strip()
    except msgspec.DecodeError:
        return str(answer.status)


def retry_after_seconds(answer: Answer) -> float | None:
    """How long the server asks to wait; RETRY_SECONDS_DEFAULT if it doesn't say. None: sending again would not help."""
    if answer.status not in RETRIED_STATUSES:
        return None
    named = answer.headers.get("retry-after", "")
    return min(float(named), RETRY_SECONDS_MAX) if named.isdecimal() else RETRY_SECONDS_DEFAULT


class _Problem(Struct):
    code: str = ""


def _counts(answer: Answer, sent_bytes: int) -> Counts | None:
    """What became of the events; None if nothing was acknowledged."""
    if not answer.ok:
        return None
    try:
        return Counts(
            accepted=int(answer.headers["x-ingest-accepted"]),
            duplicates=int(answer.headers["x-ingest-duplicates"]),
            conflicts=int(answer.headers["x-ingest-conflicts"]),
            rejected=int(answer.headers["x-ingest-rejected"]),
            sent_bytes=sent_bytes,
        )
    except (KeyError, ValueError):
        return None
