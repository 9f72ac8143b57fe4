"""Targets that are measured against one another, interleaved: in every round each one has its turn, in an order drawn anew.

A machine that others use too is slower now and faster then. Within a round the turns are close together, so what is compared
is the turns of one round, and of all rounds the median of these ratios. Single figures are those of the machine on that day.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from random import Random
from typing import Protocol, TypeVar

from msgspec import Struct

from benchmarks import programs
from benchmarks.bodies import Bodies
from benchmarks.postgres import Costs
from benchmarks.progress import progress

Number = TypeVar("Number", int, float)


class Plan(Struct, frozen=True):
    """How much is sent in a turn, and how."""

    batch: int
    connections: int
    requests: int
    uuid_version: int = 7

    @property
    def warmup(self) -> int:
        """How many requests come before the clock starts. They make connections, plans, a chunk and its indexes."""
        return 2 * self.connections

    def requests_of(self, share: float) -> int:
        """For a target that is sent only a share, so that its turn takes no longer than others'."""
        return min(self.requests, max(self.connections, round(self.requests * share)))


class Round:
    """One round: which requests there are. All targets get the same events."""

    def __init__(self, plan: Plan, bodies: Bodies, first: int, now: datetime) -> None:
        self.plan = plan
        self.bodies = bodies
        self.first = first
        self.now = now

    @cached_property
    def contents(self) -> list[bytes]:
        """The requests' bodies as JSON, gzipped, those of the warm-up first."""
        return [self.bodies.make(number, self.now).content for number in self.numbers(1.0)]

    def numbers(self, share: float) -> range:
        """Those of the warm-up and of that share of the requests."""
        return range(self.first, self.first + self.plan.warmup + self.plan.requests_of(share))


class Turn(Struct, frozen=True):
    """What was measured of a target in one round. The warm-up is in `sent` and `stored` only."""

    events: int
    seconds: float
    generator_cpu_seconds: float
    program_cpu_seconds: float | None
    database_cpu_seconds: float | None
    wal_bytes: int | None
    sent: int = 0
    stored: int | None = None
    """None: this target stores nothing."""
    ids: int | None = None
    """How many different ids the stored events have; None where that was not asked."""

    @property
    def events_per_second(self) -> float:
        return self.events / self.seconds

    @property
    def is_complete(self) -> bool:
        """Whether all that was sent is stored, once."""
        return self.stored in (None, self.sent) and self.ids in (None, self.sent)

    def each_us(self, seconds: float | None) -> float | None:
        """A cost of the turn, in µs an event."""
        return None if seconds is None else seconds / self.events * 1e6


class Target(Protocol):
    """What is measured."""

    name: str

    def run(self, this: Round) -> Turn:
        """Sends the round's requests, and leaves everything as it was before.

        Raises BenchmarkError if one of them is not taken.
        """
        ...


class Meter:
    """Measures what goes on while its context is open.

    pids: the processes of the program that does the work, but for a database.
    database: what it has cost so far.
    """

    def __init__(self, pids: Callable[[], Sequence[int]] = list, database: Callable[[], Costs] = Costs) -> None:
        self._pids = pids
        self._database = database
        self._turn: Turn | None = None

    @contextmanager
    def measuring(self, events: int) -> Iterator[None]:
        """Measures one turn of so many events."""
        pids = self._pids()
        costs, program_cpu = self._database(), programs.cpu_seconds(pids)
        cpu, start = time.process_time(), time.perf_counter()
        yield
        seconds = time.perf_counter() - start
        cpu = time.process_time() - cpu
        program_cpu = programs.cpu_seconds(pids) - program_cpu
        after = self._database()
        self._turn = Turn(
            events=events,
            seconds=seconds,
            generator_cpu_seconds=cpu,
            program_cpu_seconds=program_cpu if pids else None,
            database_cpu_seconds=_difference(after.cpu_seconds, costs.cpu_seconds),
            wal_bytes=_difference(after.wal_bytes, costs.wal_bytes),
        )

    @property
    def turn(self) -> Turn:
        """What was measured."""
        assert self._turn is not None
        return self._turn


def run(
    targets: Sequence[Target], plan: Plan, bodies: Bodies, *, rounds: int, random: Random, title: str = "Rounds"
) -> Mapping[str, list[Turn]]:
    """The turns of every target, by its name; turn k of each is of round k.

    Raises BenchmarkError as `Target.run`.
    """
    turns: dict[str, list[Turn]] = {target.name: [] for target in targets}
    first = 0
    with progress(title, rounds * len(targets), "turns") as shown:
        for number in range(rounds):
            this = Round(plan, bodies, first, datetime.now(UTC))
            for place, target in enumerate(random.sample(targets, len(targets))):
                shown.set(number * len(targets) + place, target.name)
                turns[target.name].append(target.run(this))
            first = this.numbers(1.0).stop
        shown.set(rounds * len(targets))
    return turns


def _difference(after: Number | None, before: Number | None) -> Number | None:
    return None if after is None or before is None else after - before
