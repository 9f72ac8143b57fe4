"""Targets whose tables keep, over all rounds, what they were sent; and which are sent events of their own."""

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import cached_property

from benchmarks import postgres
from benchmarks.bodies import TIME_SPREAD, Bodies
from benchmarks.postgres import Costs
from benchmarks.rounds import Round, Turn
from benchmarks.targets import Program, Tables

Window = Callable[[int, datetime], tuple[datetime, timedelta]]
"""When the events of a request happened, by its number and the round's now: until when, and how long before that."""


class Kept:
    """A database that is not emptied (benchmarks.targets.Storage). Whoever made it counts what it holds, at the end.

    settles: whether the server does after each turn what it would do later; a checkpoint among it.
    """

    def __init__(self, session: postgres.Session, *, settles: bool) -> None:
        self._session = session
        self._settles = settles

    def costs(self) -> Costs:
        return self._session.costs()

    def stored(self) -> tuple[int | None, int | None]:
        return None, None

    def clear(self) -> None:
        if self._settles:
            self._session.settle()


class Emptied(Tables):
    """Tables that are emptied after each turn, and nothing else is done."""

    def clear(self) -> None:
        self._session.empty(self._tables)


def fresh(number: int, now: datetime) -> tuple[datetime, timedelta]:  # noqa: ARG001 - a Window
    """They have just happened."""
    return now, TIME_SPREAD


class Apart:
    """A program that is sent other events than the round's, as many and of the same size (benchmarks.rounds.Target)."""

    def __init__(self, program: Program, bodies: Bodies, window: Window = fresh) -> None:
        self.name = program.name
        self._program = program
        self._bodies = bodies
        self._window = window

    def run(self, this: Round) -> Turn:
        return self._program.run(_Apart(this, self._bodies, self._window))


class _Apart(Round):
    def __init__(self, this: Round, bodies: Bodies, window: Window) -> None:
        super().__init__(this.plan, bodies, this.first, this.now)
        self._window = window

    @cached_property
    def contents(self) -> list[bytes]:
        return [self.bodies.make(number, *self._window(number, self.now)).content for number in self.numbers(1.0)]
