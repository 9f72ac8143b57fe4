"""Growth: throughput as ledger and table grow from empty to 20 million rows, with UUIDv7 and with UUIDv4.

Two databases grow, one for each version of UUIDs; a third one is emptied after every turn. At every step all three have their
turns, interleaved, so that a full table is compared with an empty one in the same minute, and not with what the machine did
half an hour ago. From one step to the next the server makes the rows itself, over the days of the retention
(benchmarks/fill.py): sent to the service they would take an hour. It takes 1.2 GB of disk for a million rows of --rows.
"""

import argparse
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from statistics import median
from threading import Lock

import psycopg
from msgspec import Struct

from benchmarks import comparison, facts, fill, jobs, postgres, programs, rounds
from benchmarks.bodies import Bodies
from benchmarks.comparison import COSTS, OUR_TABLES, Ratio, Turns
from benchmarks.errors import BenchmarkError
from benchmarks.lasting import Apart, Emptied, Kept
from benchmarks.progress import progress
from benchmarks.results import Axis, Check, Column, Findings, Plot, Scalar, Series, Table
from benchmarks.rounds import Plan, Target, Turn
from benchmarks.targets import Program
from ingest.settings import DatabaseUrl

TINY = {"batch": 100, "connections": 2, "rounds": 1, "rows": 6000, "steps": 3, "segment_events": 500, "days": 5}
FULL = {
    "batch": 1000,
    "connections": 4,
    "rounds": 3,
    "rows": 20_000_000,
    "steps": 6,
    "segment_events": 200_000,
    "days": 179,
}

EMPTIED = "empty"
VERSIONS: Mapping[str, int] = {"UUIDv7": 7, "UUIDv4": 4}

Steps = Sequence[tuple[int, Turns]]
"""How many rows there were before, and the turns."""

SIZES_SQL = Path(__file__).with_name("growth.sizes.sql")
STORED_SQL = Path(__file__).with_name("growth.stored.sql")

BYTES_A_MB = 1_000_000

METHOD = (
    "At every step the three have their turns, in every round in an order drawn anew, on bodies that were made before the "
    "clock starts, after a warm-up. What is measured is sent through the service, and of now; it stays, but for the database "
    "called empty (UUIDv7), which is emptied after each turn. Between the steps the server makes the rows that are lacking, "
    "from older to newer days, and vacuums. No chunk is compressed; only the newest one takes the measured rows."
)
CHECKPOINTS = (
    "A step begins with a checkpoint, and behind it the first round writes every page that it changes to the WAL as a whole. "
    "With UUIDv4 these are nearly all pages of the ledger's key, which is seen in the lowest ratio. Between the rounds there "
    "is no checkpoint, unless the server makes one."
)


class Size(Struct, frozen=True):
    """What growth.sizes.sql returns."""

    ledger_bytes: int
    key_bytes: int
    table_bytes: int
    chunks: int


class Growing:
    """A database that grows, and the service on it.

    rows: what was made or sent so far.
    sizes: those at each step, before it.
    """

    def __init__(self, name: str, url: DatabaseUrl, session: postgres.Session, running: programs.Running) -> None:
        self.name = name
        self.url = url
        self.session = session
        self.program = Program(name, running, Kept(session, settles=False))
        self.rows = 0
        self.sizes: list[Size] = []


class Span(Struct, frozen=True):
    """The time over which made rows are spread, in as many parts as they are made in."""

    begin: datetime
    end: datetime
    parts: int

    def part(self, number: int) -> tuple[datetime, datetime]:
        """From when until when; the first part is 1."""
        length = (self.end - self.begin) / self.parts
        return self.begin + (number - 1) * length, self.begin + number * length


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `growth`."""
    programs.add_database_option(parser)
    parser.add_argument("--rows", type=comparison.at_least_one, metavar="N", help="at the end (default: 20000000)")
    parser.add_argument(
        "--steps", type=comparison.at_least_one, metavar="N", help="from empty to the end, 2 or more (default: 6)"
    )
    parser.add_argument("--segment-events", type=comparison.at_least_one, metavar="N", help="of a turn (default: 200000)")
    parser.add_argument("--rounds", type=comparison.at_least_one, metavar="N", help="at each step (default: 3)")
    parser.add_argument(
        "--days",
        type=comparison.at_least_one,
        metavar="N",
        help="before today over which the made rows are spread, a chunk each (default: 179)",
    )
    comparison.add_plan_arguments(parser, batch=FULL["batch"], connections=FULL["connections"])


def run(options: argparse.Namespace) -> Findings:
    """Measures. Raises BenchmarkError or errors.IngestError where it can't be done."""
    comparison.set_defaults(options, **(TINY if options.tiny else FULL))
    if options.steps == 1:
        raise BenchmarkError("--steps: a beginning and an end are 2.")
    plan = Plan(options.batch, options.connections, requests=-(-options.segment_events // options.batch))
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    span = Span(today - timedelta(days=options.days), today, options.steps - 1)
    with ExitStack() as stack:
        server = stack.enter_context(programs.database_server(options.db_url))
        emptied = _emptied(stack, server)
        databases = [_growing(stack, server, name) for name in VERSIONS]
        steps = [_measure_step(options, plan, span, number, emptied, databases) for number in range(options.steps)]
        checks = [
            comparison.storage_check(
                {EMPTIED: [turn for _, turns in steps for turn in turns[EMPTIED]]},
                "the empty database stored in each turn all that it was sent, once",
            ),
            *(_growth_check(database, today) for database in databases),
        ]
        database = facts.database(databases[0].url.reveal())
    return Findings(
        parameters={
            "batch": plan.batch,
            "connections": plan.connections,
            "steps": options.steps,
            "rounds at each": options.rounds,
            "rows at the end": options.rows,
            "events of a turn": plan.requests * plan.batch,
            "days over which made rows are spread": options.days,
        },
        database=database,
        tables=[
            _throughput_table(steps),
            _ratio_table(steps),
            _size_table([rows for rows, _ in steps], databases),
            *(
                comparison.throughput_table(steps[place][1], f"What an event costs, at {steps[place][0]:,} rows")
                for place in (0, -1)
            ),
        ],
        plots=_plots(steps, databases),
        notes=[METHOD, CHECKPOINTS, COSTS],
        checks=checks,
    )


def _emptied(stack: ExitStack, server: DatabaseUrl) -> Program:
    url = stack.enter_context(programs.scratch_database(server))
    jobs.pause(url)
    session = stack.enter_context(postgres.session(url))
    return Program(EMPTIED, stack.enter_context(programs.service(url)), Emptied(session, *OUR_TABLES))


def _growing(stack: ExitStack, server: DatabaseUrl, name: str) -> Growing:
    url = stack.enter_context(programs.scratch_database(server))
    jobs.pause(url)
    session = stack.enter_context(postgres.session(url))
    return Growing(name, url, session, stack.enter_context(programs.service(url)))


def _measure_step(
    options: argparse.Namespace, plan: Plan, span: Span, number: int, emptied: Program, databases: Sequence[Growing]
) -> tuple[int, Turns]:
    """Makes the rows that lack for a step and measures there. Returns how many rows it began with, and its turns."""
    rows = options.rows * number // span.parts
    if number:
        _fill(databases, rows, span.part(number), options.seed + number)
    for database in databases:
        database.session.settle()
        database.sizes.append(_size(database.url))
        rows = max(rows, database.rows)
    # Seeds of their own at every step: the random part of an id comes from the seed and the number, which begins anew.
    seed = options.seed + 1000 * (number + 1)
    targets: list[Target] = [emptied]
    for place, database in enumerate(databases, 1):
        bodies = Bodies(seed + place, plan.batch, uuid_version=VERSIONS[database.name])
        targets.append(Apart(database.program, bodies))
    turns = rounds.run(
        targets, plan, Bodies(seed, plan.batch), rounds=options.rounds, random=Random(seed), title=f"At {rows:,} rows"
    )
    for database in databases:
        database.rows += sum(turn.sent for turn in turns[database.name])
    return rows, turns


def _fill(databases: Sequence[Growing], rows: int, part: tuple[datetime, datetime], seed: int) -> None:
    """Makes the rows that databases lack, in all of them at once."""
    lacking = {database.name: max(rows - database.rows, 0) for database in databases}
    lock = Lock()
    done = 0
    with progress("Filling", sum(lacking.values()), "rows") as shown, ThreadPoolExecutor(len(databases)) as threads:

        def progressed(made: int) -> None:
            nonlocal done
            with lock:
                done += made
                shown.set(done)

        def make(database: Growing) -> None:
            fill.fill(
                database.url,
                lacking[database.name],
                *part,
                seed=seed,
                uuid_version=VERSIONS[database.name],
                progressed=progressed,
            )
            database.rows += lacking[database.name]

        list(threads.map(make, databases))  # raises what one of them raised


def _size(url: DatabaseUrl) -> Size:
    with psycopg.connect(url.reveal()) as connection:
        [row] = connection.execute(SIZES_SQL.read_bytes()).fetchall()
        return Size(*row)


def _growth_check(database: Growing, today: datetime) -> Check:
    """In the ledger an id can't be twice, so as many rows in table and ledger as were made and sent are those."""
    with psycopg.connect(database.url.reveal()) as connection:
        [(rows, ledger, repeated)] = connection.execute(STORED_SQL.read_bytes(), {"begin": today}).fetchall()
    return Check(
        f"{database.name}: every event is stored, once",
        rows == ledger == database.rows and not repeated,
        f"{database.rows:,} made or sent, {rows:,} stored, {ledger:,} in the ledger; {repeated:,} ids twice among those sent",
    )


def _throughput_table(steps: Steps) -> Table:
    """A row a step: medians, and of ratios how far they lie apart."""
    columns = [Column("rows"), Column(EMPTIED, "events/s")]
    for name in VERSIONS:
        columns += [Column(name, "events/s"), Column(f"{name} / {EMPTIED}"), Column("lowest"), Column("highest")]
    table: list[list[Scalar]] = []
    for rows, turns in steps:
        cells: list[Scalar] = [rows, _median_rate(turns[EMPTIED])]
        for name in VERSIONS:
            found = comparison.ratios(turns, Ratio(name, EMPTIED))
            cells += [_median_rate(turns[name]), median(found), min(found), max(found)]
        table.append(cells)
    return Table("Throughput, medians of rounds", columns, table)


def _ratio_table(steps: Steps) -> Table:
    (_, first), (_, last) = steps[0], steps[-1]
    table: list[list[Scalar]] = []
    for name in VERSIONS:
        beside = [median(comparison.ratios(turns, Ratio(name, EMPTIED))) for turns in (last, first)]
        apart = _median_rate(last[name]) / _median_rate(first[name])
        table.append([name, *beside, beside[0] / beside[1], apart])
    columns = [
        Column("database"),
        Column("at the end / empty"),
        Column("at the beginning / empty"),
        Column("the one / the other"),
        Column("end / beginning, as measured far apart"),
    ]
    return Table(f"At {steps[-1][0]:,} rows", columns, table)


def _size_table(rows: Sequence[int], databases: Sequence[Growing]) -> Table:
    columns = [Column("rows")]
    for database in databases:
        columns += [
            Column(f"{database.name}: ledger", "MB"),
            Column("its key", "MB"),
            Column("table", "MB"),
            Column("chunks"),
        ]
    table: list[list[Scalar]] = []
    for place, count in enumerate(rows):
        cells: list[Scalar] = [count]
        for database in databases:
            size = database.sizes[place]
            cells += [*(held / BYTES_A_MB for held in (size.ledger_bytes, size.key_bytes, size.table_bytes)), size.chunks]
        table.append(cells)
    return Table("Sizes, with indexes", columns, table)


def _plots(steps: Steps, databases: Sequence[Growing]) -> list[Plot]:
    rows = [float(count) for count, _ in steps]
    axis = Axis("rows before")
    names = [EMPTIED, *VERSIONS]
    return [
        Plot(
            "Throughput as the tables grow",
            "line",
            axis,
            Axis("throughput", "events/s"),
            [Series(name, rows, [_median_rate(turns[name]) for _, turns in steps]) for name in names],
        ),
        Plot(
            "Throughput against empty tables, in the same rounds",
            "line",
            axis,
            Axis("ratio"),
            [
                Series(name, rows, [median(comparison.ratios(turns, Ratio(name, EMPTIED))) for _, turns in steps])
                for name in VERSIONS
            ],
        ),
        Plot(
            "The ledger",
            "line",
            axis,
            Axis("size", "MB"),
            [
                Series(database.name, rows, [size.ledger_bytes / BYTES_A_MB for size in database.sizes])
                for database in databases
            ],
        ),
    ]


def _median_rate(turns: Sequence[Turn]) -> float:
    return median(turn.events_per_second for turn in turns)
