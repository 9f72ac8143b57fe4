"""Late events: batches whose events happened days ago, into chunks that are compressed, against fresh ones.

Some days are filled through the service, and their chunks compressed as the policy would do it. Then three kinds of batches
have their turns, interleaved: fresh ones; late ones of one day each, as a client sends them that was offline; and late ones
whose events are spread over all of these days, which is the worst case. On an edition without compression the days are what
they are, and late events are measured all the same.
"""

import argparse
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import psycopg
from msgspec import Struct

from benchmarks import comparison, facts, jobs, postgres, programs, rounds
from benchmarks.bodies import Bodies
from benchmarks.comparison import COSTS, Ratio
from benchmarks.lasting import Apart, Kept
from benchmarks.posting import Endpoint, post
from benchmarks.progress import progress
from benchmarks.results import Check, Column, Findings, Scalar, Table
from benchmarks.rounds import Meter, Plan
from benchmarks.sender import HEADERS, PATH
from benchmarks.targets import Program
from ingest.settings import DatabaseUrl
from ingest.store import files

TINY = {"batch": 100, "connections": 2, "rounds": 1, "events": 1000, "days": 2, "day_events": 600}
FULL = {"batch": 1000, "connections": 4, "rounds": 7, "events": 100_000, "days": 5, "day_events": 100_000}

FRESH, LATE, SCATTERED = "fresh", "late, a day a batch", "late, all days in each batch"

DAY = timedelta(days=1)
AGE = timedelta(days=10)
"""Of the last day that is filled: older than what the policy of compression leaves alone."""
SECOND = timedelta(seconds=1)

CHUNKS_SQL = Path(__file__).with_name("late.chunks.sql")
DAYS_SQL = Path(__file__).with_name("late.days.sql")

METHOD = (
    "In every round each kind has its turn, in an order drawn anew, on bodies made before the clock starts, after "
    "a warm-up. Then a checkpoint, autovacuum and the writing of files are waited for. Nothing is deleted: fresh events go "
    "on into today's chunk, late ones into those of the old days, which grow as long as the run goes on."
)
NO_COMPRESSION = (
    "This edition ({edition}) has no compression: the late events went into chunks or partitions that are as any other, only "
    "not the newest."
)


class Days(Struct, frozen=True):
    """Whole days in UTC, one after the other."""

    begin: datetime
    count: int

    @property
    def end(self) -> datetime:
        return self.begin + self.count * DAY

    def one(self, number: int, now: datetime) -> tuple[datetime, timedelta]:  # noqa: ARG002 - a lasting.Window
        """One day, the next one for the next number."""
        return self.begin + (number % self.count + 1) * DAY - SECOND, DAY - 2 * SECOND

    def all(self, number: int, now: datetime) -> tuple[datetime, timedelta]:  # noqa: ARG002 - a lasting.Window
        """All of them."""
        return self.end - SECOND, self.count * DAY - 2 * SECOND


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `late`."""
    comparison.add_arguments(parser)
    comparison.add_plan_arguments(parser, batch=FULL["batch"], connections=FULL["connections"])
    parser.add_argument("--days", type=comparison.at_least_one, metavar="N", help="that are compressed (default: 5)")
    parser.add_argument(
        "--day-events", type=comparison.at_least_one, metavar="N", help="of each of them, before (default: 100000)"
    )


def run(options: argparse.Namespace) -> Findings:
    """Measures. Raises BenchmarkError or errors.IngestError where it can't be done."""
    comparison.set_defaults(options, **(TINY if options.tiny else FULL))
    plan = comparison.plan_of(options)
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    days = Days(today - AGE - options.days * DAY, options.days)
    with ExitStack() as stack:
        server = stack.enter_context(programs.database_server(options.db_url))
        url = stack.enter_context(programs.scratch_database(server))
        compresses = jobs.pause(url)
        session = stack.enter_context(postgres.session(url))
        running = stack.enter_context(programs.service(url))
        filled = _fill(running.url, plan, days, options)
        before = _by_day(url, days)
        if compresses:
            _compress(url, days)
        chunks_before = _chunks(url, days) if compresses else []
        session.settle()
        storage = Kept(session, settles=True)
        # Seeds of their own: the same number of another kind would draw the same random part of an id.
        targets = [
            Apart(Program(FRESH, running, storage), Bodies(options.seed + 1, options.batch)),
            Apart(Program(LATE, running, storage), Bodies(options.seed + 2, options.batch), days.one),
            Apart(Program(SCATTERED, running, storage), Bodies(options.seed + 3, options.batch), days.all),
        ]
        turns = rounds.run(
            targets,
            plan,
            Bodies(options.seed, options.batch),
            rounds=options.rounds,
            random=Random(options.seed),
            title="Late events",
        )
        sent = filled + sum(turn.sent for of_target in turns.values() for turn in of_target)
        checks = [_storage_check(session, sent)]
        if compresses:
            checks.append(_compression_check(chunks_before, _chunks(url, days), days))
        database = facts.database(url.reveal())
        after = _by_day(url, days)
    kinds = [Ratio(LATE, FRESH), Ratio(SCATTERED, FRESH)]
    return Findings(
        parameters={
            **comparison.parameters_of(plan, options),
            "old days": days.count,
            "events of an old day, before": options.day_events,
        },
        database=database,
        tables=[
            comparison.throughput_table(turns, comparison.title_of(plan)),
            comparison.ratio_table(turns, kinds),
            _days_table(days, before, after, chunks_before),
        ],
        plots=comparison.throughput_plots(turns),
        notes=[METHOD, COSTS, jobs.NOTE if compresses else NO_COMPRESSION.format(edition=database.edition)],
        checks=checks,
    )


class _Chunk(Struct, frozen=True):
    name: str
    begin: datetime
    is_compressed: bool


def _fill(service_url: str, plan: Plan, days: Days, options: argparse.Namespace) -> int:
    """Sends what the old days have before. Returns how many events that are."""
    bodies = Bodies(options.seed + 4, plan.batch)
    requests: int = -(-options.day_events // plan.batch)
    with progress("Filling", days.count * requests * plan.batch, "events") as shown:
        for day in range(days.count):
            numbers = range(day * requests, (day + 1) * requests)
            until, spread = days.one(day, days.end)
            contents = [bodies.make(number, until, spread).content for number in numbers]
            post(Endpoint(service_url, PATH, HEADERS), [], contents, plan.connections, Meter(), requests * plan.batch)
            shown.set((day + 1) * requests * plan.batch)
    return days.count * requests * plan.batch


def _compress(url: DatabaseUrl, days: Days) -> None:
    """Does what the jobs of rollups and compression do when they come by."""
    with psycopg.connect(url.reveal(), autocommit=True) as connection:
        # Only behind what is refreshed TimescaleDB notes which hours change, which is work that late events make.
        connection.execute(files.sql("state/refresh_all_rollups").encode())
        for chunk in _chunks(url, days):
            connection.execute("CALL convert_to_columnstore(%s::regclass)", (chunk.name,))


def _chunks(url: DatabaseUrl, days: Days) -> list[_Chunk]:
    with psycopg.connect(url.reveal()) as connection:
        found = connection.execute(CHUNKS_SQL.read_bytes(), {"begin": days.begin, "end": days.end})
        return [_Chunk(*row) for row in found]


def _by_day(url: DatabaseUrl, days: Days) -> dict[datetime, int]:
    """How many events there are of each day."""
    with psycopg.connect(url.reveal()) as connection:
        found = connection.execute(DAYS_SQL.read_bytes(), {"begin": days.begin, "end": days.end})
        return dict(found.fetchall())


def _storage_check(session: postgres.Session, sent: int) -> Check:
    rows, ids = session.stored("analytics.usage_events")
    ledger, _ = session.stored("analytics.usage_event_ids")
    return Check(
        "every event is stored, once",
        rows == ids == ledger == sent,
        f"{sent:,} sent, {rows:,} stored with {ids:,} ids, {ledger:,} in the ledger",
    )


def _compression_check(before: Sequence[_Chunk], after: Sequence[_Chunk], days: Days) -> Check:
    """Late events that met no compressed chunk would say nothing about compression."""
    compressed = [sum(chunk.is_compressed for chunk in chunks) for chunks in (before, after)]
    return Check(
        "each old day was one compressed chunk, before and after",
        [chunk.begin for chunk in before] == [days.begin + day * DAY for day in range(days.count)]
        and compressed == [days.count, days.count],
        f"{compressed[0]} of {len(before)} chunks were compressed before, {compressed[1]} of {len(after)} after",
    )


def _days_table(days: Days, before: dict[datetime, int], after: dict[datetime, int], chunks: Sequence[_Chunk]) -> Table:
    compressed = {chunk.begin: chunk.is_compressed for chunk in chunks}
    rows: list[list[Scalar]] = []
    for day in (days.begin + number * DAY for number in range(days.count)):
        then, now = before.get(day, 0), after.get(day, 0)
        rows.append([f"{day:%Y-%m-%d}", then, compressed.get(day, False), now - then])
    columns = [Column("day"), Column("events before"), Column("compressed"), Column("late events")]
    return Table("The old days", columns, rows)
