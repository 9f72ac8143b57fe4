"""How far a run is: a bar on a terminal, and a line every few seconds in a log. Both on standard error."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

LOG_EVERY_SECONDS = 5.0


class Shown(Protocol):
    """A progress that is being shown."""

    def set(self, done: float, note: str = "") -> None:
        """How much of the total is done, and a few words on it."""
        ...


@contextmanager
def progress(title: str, total: float, unit: str) -> Iterator[Shown]:
    """Shows how much of `total` is done, while the context is open.

    unit: what is counted, behind the numbers: "s", "events".
    """
    if sys.stderr.isatty():
        columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}"), TimeElapsedColumn()
        with Progress(*columns, console=Console(stderr=True, markup=False, highlight=False)) as bar:
            yield _Bar(bar, bar.add_task(title, total=total, note=""), total, unit)
    else:
        lines = _Lines(title, total, unit)
        try:
            yield lines
        finally:
            lines.end()


def say(line: str) -> None:
    """A line for people, on standard error."""
    print(line, file=sys.stderr, flush=True)


class _Bar:
    def __init__(self, bar: Progress, task: TaskID, total: float, unit: str) -> None:
        self._bar = bar
        self._task = task
        self._total = total
        self._unit = unit

    def set(self, done: float, note: str = "") -> None:
        self._bar.update(self._task, completed=done, note=f"{_of(done, self._total, self._unit)}  {note}")


class _Lines:
    def __init__(self, title: str, total: float, unit: str) -> None:
        self._title = title
        self._total = total
        self._unit = unit
        self._next = time.monotonic() + LOG_EVERY_SECONDS
        self._line = ""

    def set(self, done: float, note: str = "") -> None:
        self._line = f"{self._title}: {_of(done, self._total, self._unit)}  {note}".rstrip()
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + LOG_EVERY_SECONDS
            self.end()

    def end(self) -> None:
        """Writes the last state that was not written yet."""
        if self._line:
            say(self._line)
        self._line = ""


def _of(done: float, total: float, unit: str) -> str:
    return f"{done:,.0f} of {total:,.0f} {unit}"
