"""What is sent and when: without a pause, at a rate, or as a recorded trace has it.

Requests are numbered from 0. When they are due is known beforehand, so that a service that is slow can't put off the next
one; and body `number` made for the same moment is the same bytes, so that an audit can make it again.
"""

from array import array
from bisect import bisect_left
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Protocol

from msgspec import Struct

from benchmarks.bodies import TIME_SPREAD, Bodies, Body


class Workload(Protocol):
    """What a Sender sends."""

    @property
    def requests(self) -> int | None:
        """How many there are; None if there is no end to them."""
        ...

    def due_seconds(self, number: int) -> float | None:
        """When request `number` is to be sent, from the start on; None: as soon as a connection is free."""
        ...

    @property
    def time_spread(self) -> timedelta:
        """How long before that moment, at most, its events happened."""
        ...

    def body(self, number: int, now: datetime) -> Body:
        """The body of request `number`, for the moment when it is due (aware)."""
        ...

    def event_ids(self, number: int, now: datetime) -> list[str]:
        """The ids in that body."""
        ...


class Closed:
    """Each connection sends as soon as it was answered."""

    requests: int | None = None
    time_spread = TIME_SPREAD

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies

    def due_seconds(self, number: int) -> float | None:  # noqa: ARG002 - none of them has a time
        return None

    def body(self, number: int, now: datetime) -> Body:
        return self._bodies.make(number, now)

    def event_ids(self, number: int, now: datetime) -> list[str]:
        return self._bodies.event_ids(number, now)


class Steady(Closed):
    """So many events a second for so many seconds, in requests at equal distances."""

    def __init__(self, bodies: Bodies, events_per_second: float, seconds: float) -> None:
        super().__init__(bodies)
        self._interval_seconds = bodies.batch_items / events_per_second
        self.requests: int | None = max(1, round(seconds / self._interval_seconds))

    def due_seconds(self, number: int) -> float | None:
        return number * self._interval_seconds


class Call(Struct, frozen=True, gc=False):
    """A call of a trace: when it came in, from the start on, and its tokens."""

    arrived_seconds: float
    tokens: int


class Traced:
    """The calls of a trace, each an event, in batches as an SDK makes them: sent off when `batch_items` are together, or
    `flush_seconds` after the first of them.

    An event's time is that of its call. Calls are in order of time.
    """

    def __init__(self, bodies: Bodies, calls: Iterable[Call], flush_seconds: float) -> None:
        self.time_spread = timedelta(seconds=flush_seconds)
        self._bodies = bodies
        self._arrived = array("d")
        self._tokens = array("q")
        self._ends = array("q")
        """Behind which call each request ends."""
        self._due = array("d")
        for call in calls:
            start = self._ends[-1] if self._ends else 0
            held = len(self._arrived) - start
            if held and call.arrived_seconds > self._arrived[start] + flush_seconds:
                self._send_off(self._arrived[start] + flush_seconds)
            self._arrived.append(call.arrived_seconds)
            self._tokens.append(call.tokens)
            if len(self._arrived) - (self._ends[-1] if self._ends else 0) == bodies.batch_items:
                self._send_off(call.arrived_seconds)
        start = self._ends[-1] if self._ends else 0
        if len(self._arrived) > start:
            self._send_off(self._arrived[start] + flush_seconds)
        self.requests: int | None = len(self._ends)

    @property
    def seconds(self) -> float:
        """From the start until the last request is due."""
        return self._due[-1] if self._due else 0.0

    def cut(self, seconds: float) -> None:
        """Leaves out the requests that are due after that."""
        self.requests = bisect_left(self._due, seconds)

    def due_seconds(self, number: int) -> float | None:
        return self._due[number]

    def body(self, number: int, now: datetime) -> Body:
        calls = self._calls(number)
        return self._bodies.make(number, now, times=self._times(number, now), token_counts=self._tokens[calls])

    def event_ids(self, number: int, now: datetime) -> list[str]:
        return self._bodies.event_ids(number, now, times=self._times(number, now))

    def _calls(self, number: int) -> slice:
        return slice(self._ends[number - 1] if number else 0, self._ends[number])

    def _times(self, number: int, now: datetime) -> list[datetime]:
        due = self._due[number]
        return [now - timedelta(seconds=due - arrived) for arrived in self._arrived[self._calls(number)]]

    def _send_off(self, due: float) -> None:
        self._ends.append(len(self._arrived))
        self._due.append(due)


def calls_of_trace(rows: Iterable[tuple[int, int, int]], speed: float) -> Iterable[Call]:
    """The rows of generate.trace_rows, `speed` times as fast as they were recorded."""
    first_us: int | None = None
    for time_us, context_tokens, generated_tokens in rows:
        first_us = time_us if first_us is None else first_us
        yield Call((time_us - first_us) / 1e6 / speed, context_tokens + generated_tokens)
