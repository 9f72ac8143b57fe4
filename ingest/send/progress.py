"""How far a file is: a bar on a terminal, a line now and then elsewhere. Both on standard error."""

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

LINE_SECONDS = 10.0


class Meter(Protocol):
    """What is told how far a file is."""

    def __enter__(self) -> "Meter": ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None: ...

    def advance(self, items: int, read_bytes: int) -> None:
        """So many more items are acknowledged, now that so much of the input is read."""
        ...

    def say(self, sentence: str) -> None:
        """Something a person may want to know."""
        ...


def meter(name: str, size_bytes: int | None, *, is_quiet: bool) -> Meter:
    """The meter of an input; size_bytes None: not known."""
    console = Console(stderr=True, highlight=False)
    if is_quiet:
        return _Lines(name, None, seconds=float("inf"))
    return _Bar(name, size_bytes, console) if console.is_terminal else _Lines(name, size_bytes)


class _Bar:
    def __init__(self, name: str, size_bytes: int | None, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[items]:,} events"),
            TextColumn("{task.fields[rate]:,.0f}/s"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
        )
        self._started = time.monotonic()
        self._items = 0
        self._task = self._progress.add_task(name, total=size_bytes, items=0, rate=0.0)

    def __enter__(self) -> "_Bar":
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._progress.stop()

    def advance(self, items: int, read_bytes: int) -> None:
        self._items += items
        rate = self._items / max(time.monotonic() - self._started, 0.001)
        completed = max(read_bytes, self._progress.tasks[0].completed)
        self._progress.update(self._task, completed=completed, items=self._items, rate=rate)

    def say(self, sentence: str) -> None:
        self._progress.console.print(sentence, markup=False)


class _Lines:
    def __init__(
        self,
        name: str,
        size_bytes: int | None,
        *,
        seconds: float = LINE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._size_bytes = size_bytes
        self._seconds = seconds
        self._clock = clock
        self._items = 0
        self._read_bytes = 0
        self._begin_bytes: int | None = None
        self._started = self._last = clock()

    def __enter__(self) -> "_Lines":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None: ...

    def advance(self, items: int, read_bytes: int) -> None:
        self._items += items
        self._read_bytes = max(self._read_bytes, read_bytes)
        if self._begin_bytes is None:  # what was acknowledged before was read, and not sent: it says nothing of the rate
            self._begin_bytes = read_bytes
        now = self._clock()
        if now - self._last < self._seconds:
            return
        self._last = now
        elapsed = now - self._started
        line = f"{self._name}: {self._items:,} events, {self._items / elapsed:,.0f}/s"
        if self._size_bytes:
            line += f", {self._read_bytes * 100 // self._size_bytes} %"
            if gained := self._read_bytes - self._begin_bytes:
                left = (self._size_bytes - self._read_bytes) * elapsed / gained
                line += f", {left:,.0f} s left"
        self.say(line)

    def say(self, sentence: str) -> None:
        print(sentence, file=sys.stderr, flush=True)  # noqa: T201 - for the person who runs the command
