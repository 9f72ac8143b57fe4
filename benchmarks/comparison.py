"""What comparisons have in common: options, programs to compare, and the turns of targets as tables, plots and checks."""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Any

from msgspec import Struct

from benchmarks import documents_stack, postgres, programs
from benchmarks.documents_stack import Insert
from benchmarks.results import Axis, Check, Column, Plot, Scalar, Series, Table
from benchmarks.rounds import Plan, Turn
from benchmarks.targets import Program, Tables
from ingest.settings import DatabaseUrl

Turns = Mapping[str, Sequence[Turn]]

OURS = "ours"
OUR_TABLES = ("analytics.usage_events", "analytics.usage_event_ids")
STACKS: Mapping[Insert, str] = {
    "values": "documents' stack, values()",
    "executemany": "documents' stack, executemany",
}

METHOD = (
    "In every round each target has its turn, in an order drawn anew. It gets the round's events in bodies that were made "
    "before the clock starts, after a warm-up that makes connections, plans, a chunk and its indexes. Each turn begins with "
    "empty tables, so that every round measures the same. After it the stored events are counted, the tables emptied, and a "
    "checkpoint, autovacuum and the writing of files waited for, so that none of it is at the cost of the next one."
)
COSTS = (
    "CPU of the database is that of its sessions, without checkpointer and WAL writer; WAL is all that the server wrote "
    "meanwhile. The generator is part of the machine too: its CPU is missing elsewhere."
)


class Ratio(Struct, frozen=True):
    """A ratio to be told: the throughput of one target to that of another, by their names."""

    of: str
    to: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of every comparison."""
    programs.add_database_option(parser)
    parser.add_argument("--rounds", type=at_least_one, metavar="N", help="(default: 7)")
    parser.add_argument("--events", type=at_least_one, metavar="N", help="of a turn, about (default: a few seconds' worth)")


def add_plan_arguments(parser: argparse.ArgumentParser, *, batch: int, connections: int) -> None:
    """Adds the options that `plan_of` reads; their defaults are told here, and set by `set_defaults`."""
    parser.add_argument("--batch", type=at_least_one, metavar="N", help=f"events a request (default: {batch})")
    parser.add_argument("--connections", type=at_least_one, metavar="N", help=f"(default: {connections})")


def plan_of(options: argparse.Namespace) -> Plan:
    """As many requests as hold `events` of the options."""
    return Plan(options.batch, options.connections, requests=-(-options.events // options.batch))


def title_of(plan: Plan) -> str:
    """What a turn is, in a few words."""
    return f"{plan.batch} events a request, {plan.connections} connections"


def parameters_of(plan: Plan, options: argparse.Namespace) -> dict[str, Any]:
    """What every comparison tells of its options."""
    return {
        "batch": plan.batch,
        "connections": plan.connections,
        "rounds": options.rounds,
        "events of a turn": plan.requests * plan.batch,
    }


def stack_parameters(plan: Plan, values_share: float, executemany_share: float) -> dict[str, Any]:
    """How many events of a turn the documents' stack is sent."""
    return {
        "of them for the documents' stack, values()": plan.requests_of(values_share) * plan.batch,
        "of them for the documents' stack, executemany": plan.requests_of(executemany_share) * plan.batch,
    }


def set_defaults(options: argparse.Namespace, **defaults: int) -> None:
    """Gives options that are not given their default."""
    for name, value in defaults.items():
        if getattr(options, name) is None:
            setattr(options, name, value)


def at_least_one(text: str) -> int:
    """A whole number from 1 on, of the command line."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text} is no whole number from 1 on")
    return int(text)


@contextmanager
def ours(url: DatabaseUrl, session: postgres.Session) -> Iterator[Program]:
    """The service as it is served by default. Raises ProgramFailed."""
    with programs.service(url) as running:
        yield Program(OURS, running, Tables(session, *OUR_TABLES))


@contextmanager
def stack(url: DatabaseUrl, session: postgres.Session, insert: Insert, share: float) -> Iterator[Program]:
    """The documents' stack, sent a share of the events. Raises ProgramFailed."""
    with programs.service(url, module="benchmarks.documents_stack", environment={"STACK_INSERT": insert}) as running:
        storage = Tables(session, f"{documents_stack.SCHEMA}.usage_events")
        yield Program(STACKS[insert], running, storage, share=share)


def throughput_table(turns: Turns, title: str) -> Table:
    """A row a target: its throughput, and what an event costs. Figures are medians over the rounds."""
    columns = [
        Column("target"),
        Column("throughput", "events/s"),
        Column("lowest", "events/s"),
        Column("highest", "events/s"),
        Column("program's CPU", "µs/event"),
        Column("database's CPU", "µs/event"),
        Column("generator's CPU", "µs/event"),
        Column("WAL", "bytes/event"),
    ]
    rows: list[list[Scalar]] = []
    for name, of_target in turns.items():
        rates = [turn.events_per_second for turn in of_target]
        rows.append(
            [
                name,
                median(rates),
                min(rates),
                max(rates),
                _median(turn.each_us(turn.program_cpu_seconds) for turn in of_target),
                _median(turn.each_us(turn.database_cpu_seconds) for turn in of_target),
                _median(turn.each_us(turn.generator_cpu_seconds) for turn in of_target),
                _median(None if turn.wal_bytes is None else turn.wal_bytes / turn.events for turn in of_target),
            ]
        )
    return Table(title, columns, rows)


def ratio_table(turns: Turns, wanted: Sequence[Ratio], title: str = "Ratios of throughput") -> Table:
    """A row a ratio: the median of those of the rounds, and how far they lie apart."""
    rows: list[list[Scalar]] = []
    for ratio in wanted:
        found = ratios(turns, ratio)
        rows.append([f"{ratio.of} / {ratio.to}", median(found), min(found), max(found)])
    return Table(title, [Column("ratio"), Column("median of rounds"), Column("lowest"), Column("highest")], rows)


def ratios(turns: Turns, ratio: Ratio) -> list[float]:
    """The ratio in each round."""
    return [
        this.events_per_second / other.events_per_second for this, other in zip(turns[ratio.of], turns[ratio.to], strict=True)
    ]


def throughput_plots(turns: Turns, title: str = "Throughput") -> list[Plot]:
    """The medians side by side, and each round's."""
    axis = Axis("throughput", "events/s")
    names = list(turns)
    medians = [median(turn.events_per_second for turn in of_target) for of_target in turns.values()]
    plots = [Plot(f"{title}, median of rounds", "bar", Axis("target"), axis, [Series("median", names, medians)])]
    rounds = max(map(len, turns.values()))
    if rounds > 1:
        lines = [
            Series(name, [float(k) for k in range(1, rounds + 1)], [turn.events_per_second for turn in of_target])
            for name, of_target in turns.items()
        ]
        plots.append(Plot(f"{title} by round", "line", Axis("round"), axis, lines))
    return plots


def storage_check(turns: Turns, what: str = "every target stored all that it was sent, once") -> Check:
    """Holds what is stored against what was sent."""
    wrong = [
        f"{name} in round {number}: {turn.sent:,} sent, {turn.stored:,} stored"
        + (f" with {turn.ids:,} ids" if turn.ids is not None else "")
        for name, of_target in turns.items()
        for number, turn in enumerate(of_target, 1)
        if not turn.is_complete
    ]
    events = sum(turn.sent for of_target in turns.values() for turn in of_target if turn.stored is not None)
    return Check(what, not wrong, "; ".join(wrong) or f"{events:,} events")


def _median(values: Iterator[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None
