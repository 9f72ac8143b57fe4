"""The service between the floor and the stack it was first described with, interleaved in one run.

The floor is what the database takes of the same rows when nobody has any work but the database: binary COPY, encoded before,
into a table with the same columns and indexes and a key (benchmarks/floor.py). The documents' stack is FastAPI, pydantic and
SQLAlchemy, which has two ways to insert many rows; both are measured (benchmarks/documents_stack.py).
"""

import argparse
from contextlib import ExitStack
from random import Random

from benchmarks import comparison, facts, jobs, postgres, programs, rounds
from benchmarks.bodies import Bodies
from benchmarks.comparison import COSTS, METHOD, OURS, STACKS, Ratio
from benchmarks.floor import Floor
from benchmarks.results import Findings
from benchmarks.rounds import Plan, Target

TINY = {"batch": 100, "connections": 2, "rounds": 1, "events": 2000}
FULL = {"batch": 1000, "connections": 4, "rounds": 7, "events": 200_000}

# So that a turn of theirs takes no longer than those of the others.
VALUES_SHARE = 0.05
EXECUTEMANY_SHARE = 0.3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `compare`."""
    comparison.add_arguments(parser)
    comparison.add_plan_arguments(parser, batch=FULL["batch"], connections=FULL["connections"])
    parser.add_argument("--uuid-version", type=int, choices=(4, 7), default=7, help="of the event ids (default: %(default)s)")


def run(options: argparse.Namespace) -> Findings:
    """Compares. Raises BenchmarkError or errors.IngestError where it can't be done."""
    comparison.set_defaults(options, **(TINY if options.tiny else FULL))
    plan = Plan(
        options.batch,
        options.connections,
        requests=-(-options.events // options.batch),
        uuid_version=options.uuid_version,
    )
    bodies = Bodies(options.seed, options.batch, uuid_version=options.uuid_version)
    with ExitStack() as stack:
        server = stack.enter_context(programs.database_server(options.db_url))
        url = stack.enter_context(programs.scratch_database(server))
        paused = jobs.pause(url)
        session = stack.enter_context(postgres.session(url))
        targets: list[Target] = [
            Floor(url, session),
            stack.enter_context(comparison.stack(url, session, "values", VALUES_SHARE)),
            stack.enter_context(comparison.stack(url, session, "executemany", EXECUTEMANY_SHARE)),
            stack.enter_context(comparison.ours(url, session)),
        ]
        turns = rounds.run(targets, plan, bodies, rounds=options.rounds, random=Random(options.seed), title="Comparing")
        database = facts.database(url.reveal())
    return Findings(
        parameters={
            **comparison.parameters_of(plan, options),
            **comparison.stack_parameters(plan, VALUES_SHARE, EXECUTEMANY_SHARE),
            "version of UUIDs": plan.uuid_version,
        },
        database=database,
        tables=[
            comparison.throughput_table(turns, comparison.title_of(plan)),
            comparison.ratio_table(
                turns,
                [
                    Ratio(OURS, "floor"),
                    *(Ratio(OURS, name) for name in STACKS.values()),
                    *(Ratio(name, "floor") for name in STACKS.values()),
                ],
            ),
        ],
        plots=comparison.throughput_plots(turns),
        notes=[METHOD, COSTS, *([jobs.NOTE] if paused else [])],
        checks=[comparison.storage_check(turns)],
    )
