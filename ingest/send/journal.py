"""What of a file is acknowledged, so that it is not sent again: a small state file beside it, and the rejected items.

The state is written after each answer (0.1 ms), to a new file that then takes the old one's place: a crash leaves the one or
the other, whole. It is not forced onto the disk. Who loses power may lose the last of it, and sends again what is stored
already: that costs time, and nothing is stored twice.

A rejected item is written before the state that knows of it. The state holds the length of that file, and what stands behind
that length is cut off when the file is gone on with: no line is there twice.

Standard input has no state, and its rejected items are a file that is locked, so that two of them never share one.
"""

import fcntl
import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from io import FileIO
from itertools import count
from pathlib import Path

import msgspec
from msgspec import Raw, Struct

from ingest import errors
from ingest.client import Counts, ItemError, Outcome
from ingest.send.items import Format
from ingest.send.source import Identity

VERSION = 1
STATE_SUFFIX = ".ingest-send.json"
REJECTED_SUFFIX = ".rejected.ndjson"
_NOTHING = Raw(b"null")
_SHOWN: dict[Format, str] = {"lines": "NDJSON", "json": "JSON"}


class Ranges:
    """Numbers from 0, as few ranges: in order, with a gap between any two."""

    def __init__(self, pairs: Sequence[tuple[int, int]] = ()) -> None:
        self._pairs = list(pairs)

    def __contains__(self, number: int) -> bool:
        place = bisect_right(self._pairs, (number, number + 1)) - 1
        if place >= 0 and self._pairs[place][1] > number:
            return True
        return place + 1 < len(self._pairs) and self._pairs[place + 1][0] <= number < self._pairs[place + 1][1]

    def add(self, start: int, end: int) -> None:
        """Adds start to end - 1, none of which is in it."""
        place = bisect_right(self._pairs, (start, end))
        if place < len(self._pairs) and self._pairs[place][0] == end:
            end = self._pairs.pop(place)[1]
        if place and self._pairs[place - 1][1] == start:
            start = self._pairs.pop(place - 1)[0]
            place -= 1
        self._pairs.insert(place, (start, end))

    def copy(self) -> "Ranges":
        """The same numbers, for who reads while this grows."""
        return Ranges(self._pairs)

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Start, and end behind the last, of each."""
        return self._pairs

    @property
    def count(self) -> int:
        """How many numbers."""
        return sum(end - start for start, end in self._pairs)


class State(Struct, kw_only=True):
    """What the state file holds."""

    version: int = VERSION
    url: str
    stream: str
    format: Format
    """How the file was taken apart. In another way the places of its items are others."""
    identity: Identity
    acknowledged: list[tuple[int, int]] = []
    """Ranges of items, by their place in the file, from 0."""
    rejected_file_bytes: int = 0
    counts: Counts = msgspec.field(default_factory=Counts)
    is_finished: bool = False

    @property
    def makes_sense(self) -> bool:
        """Whether it is as this program writes it."""
        ends = [0, *(end for _, end in self.acknowledged)]
        in_order = all(last <= start < end for last, (start, end) in zip(ends, self.acknowledged, strict=False))
        received = sum(end - start for start, end in self.acknowledged)
        return in_order and received == self.counts.received and self.rejected_file_bytes >= 0


class RejectedItem(Struct, kw_only=True, omit_defaults=True):
    """A line of the file of rejected items. `item` is the JSON as it was sent; `text`, if it is no JSON, what was there."""

    index: int
    line: int | None
    event_id: str | None
    code: str
    field: str | None
    message: str
    item: Raw = _NOTHING
    text: str | None = None


class Journal:
    """Of one input.

    base: the path that the names of both files begin with. begun: what the state file is to hold, now that nothing is
    acknowledged; None: the input can't be known again (standard input), and no state is kept.

    Raises errors.InputRefused if there is the state of another file, service or stream, or one that can't be read or written.
    """

    def __init__(self, base: Path, begun: State | None, *, restart: bool = False) -> None:
        self._state_path = base.with_name(base.name + STATE_SUFFIX)
        self.rejected_path = base.with_name(base.name + REJECTED_SUFFIX)
        self._rejected: FileIO | None = None
        self._is_kept = begun is not None
        self._failure: errors.InputRefused | None = None
        found = None if restart or begun is None else self._load(begun)
        self._state = found or begun or State(url="", stream="", format="lines", identity=Identity(0, 0, ""))
        self.done = Ranges(self._state.acknowledged)
        self.resumed_items = self.done.count
        try:
            if not self._is_kept:
                self.rejected_path, self._rejected = _alone(base)
            elif found is None:
                self.rejected_path.unlink(missing_ok=True)
                self._write()
            elif found.rejected_file_bytes:
                self._rejected = self._reopen(found.rejected_file_bytes)
            else:
                self.rejected_path.unlink(missing_ok=True)
        except OSError as error:
            raise errors.InputRefused(
                f"{error.filename or base} can't be written: {error.strerror}. What is acknowledged is kept beside the file."
            ) from None

    @property
    def counts(self) -> Counts:
        """Of all that is acknowledged, in this run and in those before."""
        return self._state.counts

    @property
    def is_finished(self) -> bool:
        """Whether all of the file is acknowledged."""
        return self._state.is_finished

    @property
    def has_rejected(self) -> bool:
        """Whether there is a file of rejected items."""
        return self._state.rejected_file_bytes > 0

    def acknowledge(self, first: int, texts: Sequence[bytes], lines: Sequence[int | None], outcome: Outcome) -> None:
        """Keeps what became of items that stand one behind the other, the first of them at `first`.

        Raises errors.InputRefused if it can't be written, and ever after: the state is then what it was before.
        """
        self._state.counts.add(outcome)
        with self._written():
            if outcome.errors:
                self._append([_rejected_item(first, texts, lines, error) for error in outcome.errors])
            self.done.add(first, first + len(texts))
            self._write()

    def finish(self) -> None:
        """All of the file is acknowledged. Raises as `acknowledge`."""
        self._state.is_finished = True
        with self._written():
            self._write()

    def close(self) -> None:
        """Closes the file of rejected items."""
        if self._rejected:
            if not self._is_kept and not self.has_rejected:
                self.rejected_path.unlink(missing_ok=True)
            with suppress(OSError):
                self._rejected.close()

    def forget(self) -> None:
        """Removes the state: nothing is to be gone on with. If it can't, the state says so itself."""
        if self._is_kept:
            with suppress(OSError):
                self._state_path.unlink(missing_ok=True)

    @contextmanager
    def _written(self) -> Iterator[None]:
        if self._failure:
            raise self._failure
        try:
            yield
        except OSError as error:
            where = error.filename or f"A file in {self._state_path.parent.resolve()}"
            self._failure = errors.InputRefused(f"{where} can't be written: {error.strerror}.")
            raise self._failure from None

    def _write(self) -> None:
        if not self._is_kept:
            return
        self._state.acknowledged = self.done.pairs
        beside = self._state_path.with_name(self._state_path.name + ".new")
        beside.write_bytes(msgspec.json.encode(self._state))
        beside.replace(self._state_path)

    def _append(self, rejected: Sequence[RejectedItem]) -> None:
        if self._rejected is None:
            self._rejected = self.rejected_path.open("wb", buffering=0)
        # Unbuffered: what a full disk did not take, is not written once more by the next or by the end.
        left = memoryview(b"".join(msgspec.json.encode(item) + b"\n" for item in rejected))
        while left:
            left = left[self._rejected.write(left) :]
        self._state.rejected_file_bytes = self._rejected.tell()

    def _reopen(self, length_bytes: int) -> FileIO:
        if not self.rejected_path.is_file() or self.rejected_path.stat().st_size < length_bytes:
            raise errors.InputRefused(
                f"{self.rejected_path} is shorter than it was: what was rejected before is lost. Begin anew with --restart."
            )
        os.truncate(self.rejected_path, length_bytes)
        file = self.rejected_path.open("r+b", buffering=0)
        file.seek(length_bytes)
        return file

    def _load(self, wanted: State) -> State | None:
        try:
            text = self._state_path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise errors.InputRefused(f"{self._state_path} can't be read: {error.strerror}.") from None
        try:
            state = msgspec.json.decode(text, type=State)
        except (msgspec.DecodeError, UnicodeDecodeError):
            state = None
        if state is None or not state.makes_sense:
            raise errors.InputRefused(f"{self._state_path} can't be understood. Begin anew with --restart.")
        if not state.acknowledged and not state.is_finished:
            return None  # whatever was wrong with that command, this one sends all of the file
        if state.version != VERSION:
            changed = f"it is of another version, {state.version}"
        elif state.url != wanted.url:
            changed = f"it was sent to {state.url}"
        elif state.stream != wanted.stream:
            changed = f"it was sent as {state.stream}"
        elif state.format != wanted.format:
            changed = f"it was read as {_SHOWN[state.format]}"
        elif state.identity != wanted.identity:
            changed = "the file was changed since"
        else:
            return state
        raise errors.InputRefused(
            f"{self._state_path} tells that a part was sent, but {changed}. To send the whole file from its beginning, which "
            "stores nothing twice: --restart."
        )


def _alone(base: Path) -> tuple[Path, FileIO]:
    """A file for rejected items that nobody else has now, and its path: another number for each that runs at once."""
    for number in count(1):
        path = base.with_name(f"{base.name}{f'.{number}' if number > 1 else ''}{REJECTED_SUFFIX}")
        file = path.open("ab", buffering=0)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):  # else it was just removed
                file.truncate(0)
                return path, file
        except BlockingIOError:
            pass
        file.close()
    raise AssertionError


def _rejected_item(first: int, texts: Sequence[bytes], lines: Sequence[int | None], error: ItemError) -> RejectedItem:
    text = texts[error.index]
    rejected = RejectedItem(
        index=first + error.index,
        line=lines[error.index],
        event_id=error.event_id,
        code=error.code,
        field=error.field,
        message=error.message,
    )
    try:
        text.decode()
        msgspec.json.decode(text, type=Raw)
        # Taken apart by its tokens: a number keeps all its digits, and a line feed can only stand between two of them.
        rejected.item = Raw(msgspec.json.format(text, indent=-1) if b"\n" in text or b"\r" in text else text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        rejected.text = text.decode(errors="replace")
    return rejected
