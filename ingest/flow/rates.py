"""How often each API key may be used: a bucket of a minute's requests that fills again as time goes by.

The generic cell rate algorithm (ITU-T I.371, annex A) keeps one number for each key: the time at which its bucket would be
full again. The numbers stand in memory that all workers of a service share, so that a rate holds for the service and not for
each of them. They are read and written without a lock: of two workers that count for one key in the same microsecond, one may
be forgotten.
"""

import mmap
import os
import struct
import tempfile
import time
from collections.abc import Callable

SLOTS = 2**20
"""Keys that are counted apart; the one after these shares the first one's bucket. Only pages that are used take memory."""

WINDOW_SECONDS = 60.0

_TIME = struct.Struct("=d")


class Rates:
    """Counts requests. `descriptor`: of the shared memory, made by `share`; None: nobody else counts.

    clock: seconds, the same for all who share (CLOCK_MONOTONIC is, on one machine).
    """

    def __init__(self, descriptor: int | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._full_at = mmap.mmap(-1 if descriptor is None else descriptor, SLOTS * _TIME.size)
        self._clock = clock

    def count(self, number: int, per_minute: int) -> float:
        """Counts a request of the key with this number, if its rate allows it: 0.0 then, else the seconds until it would."""
        offset = number % SLOTS * _TIME.size
        now = self._clock()
        (full_at,) = _TIME.unpack_from(self._full_at, offset)
        full_at = max(full_at, now) + WINDOW_SECONDS / per_minute
        early_seconds: float = full_at - now - WINDOW_SECONDS
        if early_seconds > 1e-6:  # what adding up may be off by
            return early_seconds
        _TIME.pack_into(self._full_at, offset, full_at)
        return 0.0


def share() -> int:
    """A descriptor of memory for `Rates`, to be inherited by processes."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("ingest-rates")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, SLOTS * _TIME.size)
    return descriptor
