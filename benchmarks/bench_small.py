"""Small batches: the service, the documents' stack, and the service with a writer that does nothing.

Ten events a request over 32 connections: HTTP and the round trips to the database cost more than the rows. What the service
does with a writer that does nothing is what everything before the database takes.
"""

import argparse
from contextlib import ExitStack
from random import Random

from benchmarks import comparison, facts, jobs, postgres, programs, rounds
from benchmarks.bodies import Bodies
from benchmarks.comparison import COSTS, METHOD, OURS, STACKS, Ratio
from benchmarks.results import Findings
from benchmarks.rounds import Plan
from benchmarks.targets import Nowhere, Program

TINY = {"batch": 10, "connections": 4, "rounds": 1, "events": 1000}
FULL = {"batch": 10, "connections": 32, "rounds": 7, "events": 60_000}

# So that a turn of theirs takes no longer than those of the others.
VALUES_SHARE = 0.1
EXECUTEMANY_SHARE = 0.2

IDLE = "ours, the writer idle"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `small`."""
    comparison.add_arguments(parser)
    parser.add_argument("--batch", type=comparison.at_least_one, metavar="N", help="events a request (default: 10)")
    parser.add_argument("--connections", type=comparison.at_least_one, metavar="N", help="(default: 32)")


def run(options: argparse.Namespace) -> Findings:
    """Compares. Raises BenchmarkError or errors.IngestError where it can't be done."""
    comparison.set_defaults(options, **(TINY if options.tiny else FULL))
    plan = Plan(options.batch, options.connections, requests=-(-options.events // options.batch))
    with ExitStack() as stack:
        server = stack.enter_context(programs.database_server(options.db_url))
        url = stack.enter_context(programs.scratch_database(server))
        paused = jobs.pause(url)
        session = stack.enter_context(postgres.session(url))
        idle = stack.enter_context(programs.service(url, module="benchmarks.idle_service"))
        targets = [
            stack.enter_context(comparison.stack(url, session, "values", VALUES_SHARE)),
            stack.enter_context(comparison.stack(url, session, "executemany", EXECUTEMANY_SHARE)),
            stack.enter_context(comparison.ours(url, session)),
            Program(IDLE, idle, Nowhere()),
        ]
        turns = rounds.run(
            targets,
            plan,
            Bodies(options.seed, options.batch),
            rounds=options.rounds,
            random=Random(options.seed),
            title="Small batches",
        )
        database = facts.database(url.reveal())
    return Findings(
        parameters={
            "batch": plan.batch,
            "connections": plan.connections,
            "rounds": options.rounds,
            "events of a turn": plan.requests * plan.batch,
            "of them for the documents' stack, values()": plan.requests_of(VALUES_SHARE) * plan.batch,
            "of them for the documents' stack, executemany": plan.requests_of(EXECUTEMANY_SHARE) * plan.batch,
        },
        database=database,
        tables=[
            comparison.throughput_table(turns, f"{plan.batch} events a request, {plan.connections} connections"),
            comparison.ratio_table(turns, [*(Ratio(OURS, name) for name in STACKS.values()), Ratio(OURS, IDLE)]),
        ],
        plots=comparison.throughput_plots(turns),
        notes=[METHOD, COSTS, *([jobs.NOTE] if paused else [])],
        checks=[comparison.storage_check(turns)],
    )
