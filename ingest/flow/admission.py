"""Who is let in: the bound on everything in flight, counted in bytes, and the door that closes while the process drains.

Bytes and not requests, because a request may hold a hundred bytes or MAX_BODY_SIZE of them. And because 64 KB on the wire
may stand for 64 MB here, whoever holds much and keeps us waiting for the rest gives way when the room is needed: else four
clients that never end what they began would keep all others out.
"""

import time
from collections.abc import Callable, Iterator
from types import TracebackType

from ingest import errors

GIVES_WAY_SECONDS = 0.25
"""Who has been waited for so long, all in all, gives way. A client that is near is hardly ever waited for; one that is far
away is, and is told to try again."""


SMALL_BYTES_MAX = 1024 * 1024
"""A batch of 1000 usual events has 350 KB."""


class Admission:
    """The bytes of request bodies that this process holds, inflated, until they are answered.

    large_bytes_max: how much may be held when a body grows past SMALL_BYTES_MAX; what is left of `bytes_max` is for those
        that don't. A few kilobytes on the wire may fill it all, again and again.
    """

    def __init__(self, bytes_max: int, *, large_bytes_max: int | None = None) -> None:
        self._bytes_max = bytes_max
        self._large_bytes_max = bytes_max if large_bytes_max is None else large_bytes_max
        self._bytes_held = 0
        self._draining = False
        self._incomplete: set[Reservation] = set()

    @property
    def draining(self) -> bool:
        """Whether the door is closed for good."""
        return self._draining

    @property
    def bytes_held(self) -> int:
        """What all the open reservations hold together."""
        return self._bytes_held

    def close(self) -> None:
        """Closes the door: what is inside goes on, nothing more comes in."""
        self._draining = True

    def check_open(self) -> None:
        """Raises errors.Draining while the process stops, errors.QueueFull while nothing more fits."""
        if self._draining:
            raise errors.Draining("The service is stopping and takes no more batches.")
        if self._bytes_held >= self._bytes_max and next(self._slow(), None) is None:
            raise self._full()

    def reserve(self) -> "Reservation":
        """An empty reservation for one request, to be used as a context manager. Raises as `check_open`."""
        self.check_open()
        return Reservation(self)

    def grow(self, bytes_more: int, body_bytes: int) -> None:
        """Counts bytes of a body as held, which has `body_bytes` with them. Of those who keep us waiting, the ones who held
        most for longest give way to them. Raises errors.QueueFull if they don't fit; then they are not counted.
        """
        bytes_max = self._bytes_max if body_bytes <= SMALL_BYTES_MAX else self._large_bytes_max
        if self._bytes_held + bytes_more > bytes_max:
            self._make_room(bytes_more, bytes_max)
        self._bytes_held += bytes_more

    def shrink(self, bytes_less: int) -> None:
        """Gives bytes back that `grow` counted."""
        self._bytes_held -= bytes_less

    def expose(self, reservation: "Reservation") -> None:
        """The client of this reservation is waited for."""
        self._incomplete.add(reservation)

    def cover(self, reservation: "Reservation") -> None:
        """It is waited for no longer."""
        self._incomplete.discard(reservation)

    def _make_room(self, bytes_more: int, bytes_max: int) -> None:
        """Has as many give way as are needed. Raises errors.QueueFull if all of them are not enough; then nobody does."""
        slow = list(self._slow())
        if self._bytes_held - sum(reservation.bytes_held for reservation in slow) + bytes_more > bytes_max:
            raise self._full()
        now = time.monotonic()
        slow.sort(key=lambda one: one.bytes_held * one.waited_seconds(now))
        while self._bytes_held + bytes_more > bytes_max:
            slow.pop().give_way()

    def _slow(self) -> "Iterator[Reservation]":
        """Those whose client is waited for, and may give way."""
        now = time.monotonic()
        return (one for one in self._incomplete if one.bytes_held and one.waited_seconds(now) >= GIVES_WAY_SECONDS)

    def _full(self) -> errors.QueueFull:
        return errors.QueueFull(f"The service holds as much as MAX_INFLIGHT_BYTES allows: {self._bytes_max} bytes.")


class Reservation:
    """What one request holds. Leaving the context gives all of it back."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._bytes_held = 0
        self._waited_seconds = 0.0
        self._waiting_since: float | None = None
        self._interrupt: Callable[[], None] = _nothing
        self._gave_way = False

    @property
    def bytes_held(self) -> int:
        """What it holds now."""
        return self._bytes_held

    def grow(self, bytes_more: int) -> None:
        """Holds more. Raises errors.QueueFull if it doesn't fit, or if what it held was given to others."""
        self.check_kept()
        self._admission.grow(bytes_more, self._bytes_held + bytes_more)
        self._bytes_held += bytes_more

    def begin_waiting(self, interrupt: Callable[[], None]) -> None:
        """The client is waited for. Until `end_waiting` others may have what is held; `interrupt` is called then, once."""
        self._interrupt = interrupt
        self._waiting_since = time.monotonic()
        self._admission.expose(self)

    def end_waiting(self) -> None:
        """The client is waited for no longer."""
        self._admission.cover(self)
        self._waited_seconds = self.waited_seconds(time.monotonic())
        self._waiting_since = None
        self._interrupt = _nothing

    def waited_seconds(self, now: float) -> float:
        """How long its client has been waited for, all in all."""
        return self._waited_seconds + (now - self._waiting_since if self._waiting_since is not None else 0.0)

    def check_kept(self) -> None:
        """Raises errors.QueueFull if what it held was given to others."""
        if self._gave_way:
            raise errors.QueueFull("The body came slowly, and its room was needed for others.")

    def give_way(self) -> None:
        """Gives back what it holds, for others; its request will be told."""
        self._gave_way = True
        self._give_back()
        self._interrupt()

    def _give_back(self) -> None:
        self._admission.shrink(self._bytes_held)
        self._bytes_held = 0

    def __enter__(self) -> "Reservation":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._give_back()


def _nothing() -> None:
    pass
