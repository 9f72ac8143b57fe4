"""Bodies for load generators: realistic, cheap to make, and the same again for the same numbers.

A generator that costs more than the service is what gets measured. So the events are drawn once (benchmarks.generate),
encoded and cut apart where the id and the time stand; a body is such pieces with fresh ids and times between them. That takes
about 2 µs an event, half of it gzip. Nobody has to keep a body to send it again: its number and its time make it anew.
"""

import sys
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from hashlib import shake_128
from typing import TypeVar

import msgspec
from msgspec import Struct
from zlib_ng import zlib_ng

from benchmarks.generate import EPOCH, MICROSECOND, SPAN, Generator

T = TypeVar("T")

TEMPLATES = 2000
TIME_SPREAD = timedelta(seconds=5)

GZIP_LEVEL = 1
"""What SDKs that care for their host's CPU choose. zlib-ng takes 0.9 µs an event for it, zlib 2.2 µs."""
_GZIP_WINDOW_BITS = 31

# All events begin alike, so their beginnings are a table of fixed width, which is filled column by column: strided slices
# of bytes are copied in C. The text up to here is the template's, hexadecimal digits and the microsecond are filled in.
_HEAD = '{"event_id":"%s-%s-%d000-8000-000000000000","event_time":"%s.000000Z'
_HEAD_CHARS = len(_HEAD % ("0" * 8, "0" * 4, 7, "0000-00-00T00:00:00"))
_ID = 13
_ID_CHARS = 36
_TIME = _ID + _ID_CHARS + len('","event_time":"')
_MICROSECOND = _TIME + len("0000-00-00T00:00:00.")

_ID_COLUMNS = [column for column in range(_ID, _ID + _ID_CHARS) if column - _ID not in (8, 13, 14, 18, 19, 23)]
"""Where an id's 30 digits stand that are neither dash nor version nor variant."""
_VARIANT = _ID + 19
_TO_VARIANT = bytes.maketrans(b"0123456789abcdef", b"89ab" * 4)
_TEMPLATE_BYTES = 2
_TIME_BYTES = 4
_RANDOM_BYTES = {4: 16, 7: 10}
"""How many random bytes are drawn for an id, by the version of UUIDs: 4 has no time in it, 7 begins with six bytes of it."""


class Body(Struct, frozen=True):
    """A request's body, and what is needed to tell which events are in it."""

    content: bytes
    """gzip of a JSON array of usage events."""
    items: int
    number: int
    now: datetime
    maker: "Bodies"
    time_spread: timedelta
    times: Sequence[datetime] | None

    @property
    def event_ids(self) -> list[str]:
        """The ids in the order of the array; made anew at every look."""
        return self.maker.event_ids(self.number, self.now, self.time_spread, items=self.items, times=self.times)


class Bodies:
    """Makes bodies of `batch_items` usage events; body k of a seed has ids of its own, and no other seed has them.

    The same seed, number, `now` (aware) and other arguments give the same bytes. `uuid_version` is 7 or 4, as RFC 9562 has
    them in sections 5.7 and 5.4; a UUIDv7 holds the time of its event.

    Raises ValueError for any other version.
    """

    def __init__(self, seed: int, batch_items: int, *, uuid_version: int = 7) -> None:
        self.seed = seed
        self.batch_items = batch_items
        self._uuid_version = uuid_version
        drawn = Generator(seed, now=EPOCH + SPAN, uuid_version=uuid_version).usage_events(TEMPLATES)
        self._tails = [_tail(event) for event in drawn]
        # Where token counts are given, the call was served.
        self._served = [
            _cut_at_tokens(tail) for tail, event in zip(self._tails, drawn, strict=True) if "error_type" not in event
        ]

    def make(
        self,
        number: int,
        now: datetime,
        time_spread: timedelta = TIME_SPREAD,
        *,
        items: int | None = None,
        times: Sequence[datetime] | None = None,
        token_counts: Sequence[int] | None = None,
    ) -> Body:
        """Body `number` of this seed, as `json` has it."""
        text = self.json(number, now, time_spread, items=items, times=times, token_counts=token_counts)
        content = zlib_ng.compress(text, GZIP_LEVEL, _GZIP_WINDOW_BITS)
        return Body(content, self._items(items, times, token_counts), number, now, self, time_spread, times)

    def json(
        self,
        number: int,
        now: datetime,
        time_spread: timedelta = TIME_SPREAD,
        *,
        items: int | None = None,
        times: Sequence[datetime] | None = None,
        token_counts: Sequence[int] | None = None,
    ) -> bytes:
        """A JSON array of usage events in order of time, the times being in the `time_spread` before `now`.

        items: how many there are, if not `batch_items`.
        times: the events' times, aware and in order, instead of drawn ones.
        token_counts: `total_tokens` of each event instead of drawn ones; none of the events is a failed call then.
        """
        count = self._items(items, times, token_counts)
        random = self._random(number, count)
        heads = self._heads(random, _times_us(random, count, now, time_spread, times))
        first = int.from_bytes(random[:_TEMPLATE_BYTES])
        if token_counts is None:
            tails = _cycle(self._tails, first, count)
        else:
            served = _cycle(self._served, first, count)
            tails = [
                b"%b%d%b" % (before, tokens, after) for (before, after), tokens in zip(served, token_counts, strict=True)
            ]
        pieces = [b""] * (2 * count)
        pieces[::2] = [heads[start : start + _HEAD_CHARS] for start in range(0, len(heads), _HEAD_CHARS)]
        pieces[1::2] = tails
        return b"[%b]" % b"".join(pieces)[:-1]

    def event_ids(
        self,
        number: int,
        now: datetime,
        time_spread: timedelta = TIME_SPREAD,
        *,
        items: int | None = None,
        times: Sequence[datetime] | None = None,
    ) -> list[str]:
        """The ids in the body that the same arguments make, in its order."""
        count = self._items(items, times)
        random = self._random(number, count)
        heads = self._heads(random, _times_us(random, count, now, time_spread, times))
        return [heads[start : start + _ID_CHARS].decode() for start in range(_ID, len(heads), _HEAD_CHARS)]

    def _items(self, items: int | None, *lists: Sequence[object] | None) -> int:
        given = [len(values) for values in lists if values is not None]
        return items if items is not None else given[0] if given else self.batch_items

    def _random(self, number: int, count: int) -> bytes:
        """The randomness of a body: for the first template, for each time, for each id.

        An extendable hash, because setting up a Mersenne Twister takes 14 µs, as long as ten events.
        """
        wanted = _TEMPLATE_BYTES + (_TIME_BYTES + _RANDOM_BYTES[self._uuid_version]) * count
        return shake_128(f"{self.seed}:{number}".encode()).digest(wanted)

    def _heads(self, random: bytes, times_us: Sequence[int]) -> bytes:
        """The beginnings of the events, one behind the other, each _HEAD_CHARS long."""
        heads = bytearray()
        start = 0
        while start < len(times_us):
            # The upper 32 of a UUIDv7's 48 bits of milliseconds change once a minute, and the second once a second.
            minute, second = times_us[start] // 1000 >> 16, times_us[start] // 1_000_000
            end = bisect_left(times_us, min(((minute + 1) << 16) * 1000, (second + 1) * 1_000_000), start)
            heads += _head(minute, second, self._uuid_version) * (end - start)
            start = end
        microseconds = "".join([f"{time_us % 1_000_000:06d}" for time_us in times_us]).encode()
        for digit in range(6):
            heads[_MICROSECOND + digit :: _HEAD_CHARS] = microseconds[digit::6]
        self._fill_ids(heads, random, times_us)
        return bytes(heads)

    def _fill_ids(self, heads: bytearray, random: bytes, times_us: Sequence[int]) -> None:
        bytes_each = _RANDOM_BYTES[self._uuid_version]
        digits = random[_TEMPLATE_BYTES + _TIME_BYTES * len(times_us) :].hex().encode()
        columns = _ID_COLUMNS
        if self._uuid_version == 7:
            lower = array("H", [time_us // 1000 & 0xFFFF for time_us in times_us])
            if sys.byteorder == "little":
                lower.byteswap()
            milliseconds = lower.tobytes().hex().encode()
            for digit in range(4):
                heads[_ID + 9 + digit :: _HEAD_CHARS] = milliseconds[digit::4]
            columns = _ID_COLUMNS[12:]
        for digit, column in enumerate(columns):
            heads[column::_HEAD_CHARS] = digits[digit :: 2 * bytes_each]
        heads[_VARIANT::_HEAD_CHARS] = digits[2 * bytes_each - 1 :: 2 * bytes_each].translate(_TO_VARIANT)


@lru_cache(maxsize=1024)
def _head(minute: int, second: int, uuid_version: int) -> bytes:
    time = (EPOCH + timedelta(seconds=second)).strftime("%Y-%m-%dT%H:%M:%S")
    return (_HEAD % (f"{minute:08x}", "0000", uuid_version, time)).encode()


def _times_us(
    random: bytes, count: int, now: datetime, time_spread: timedelta, times: Sequence[datetime] | None
) -> Sequence[int]:
    """Ascending, in µs since the epoch."""
    if times is not None:
        return [(time - EPOCH) // MICROSECOND for time in times]
    now_us = (now - EPOCH) // MICROSECOND
    spread_us = time_spread // MICROSECOND
    drawn = array("I", random[_TEMPLATE_BYTES : _TEMPLATE_BYTES + _TIME_BYTES * count])
    return sorted([now_us - (fraction * spread_us >> 32) for fraction in drawn])


def _tail(event: dict[str, object]) -> bytes:
    """What stands behind the microsecond, and the comma behind the event."""
    return msgspec.json.encode(event)[_HEAD_CHARS:] + b","


def _cut_at_tokens(tail: bytes) -> tuple[bytes, bytes]:
    """What stands before and behind the value of `total_tokens`."""
    before, name, after = tail.partition(b'"total_tokens":')
    return before + name, after.lstrip(b"0123456789")


def _cycle(values: list[T], first: int, count: int) -> list[T]:
    """`count` values from the one at `first` on, which may lie behind the end; after the last comes the first again."""
    start = first % len(values)
    taken = values[start : start + count]
    while len(taken) < count:
        taken += values[: count - len(taken)]
    return taken
