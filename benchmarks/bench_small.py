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
    comparison.add_plan_arguments(parser, batch=FULL["batch"], connections=FULL["connections"])


def run(options: argparse.Namespace) -> Findings:
    """Compares. Raises BenchmarkError or errors.IngestError where it can't be done."""
    comparison.set_defaults(options, **(TINY if options.tiny else FULL))
    plan = comparison.plan_of(options)
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
            **comparison.parameters_of(plan, options),
            **comparison.stack_parameters(plan, VALUES_SHARE, EXECUTEMANY_SHARE),
        },
        database=database,
        tables=[
            comparison.throughput_table(turns, comparison.title_of(plan)),
            comparison.ratio_table(turns, [*(Ratio(OURS, name) for name in STACKS.values()), Ratio(OURS, IDLE)]),
        ],
        plots=comparison.throughput_plots(turns),
        notes=[METHOD, COSTS, *([jobs.NOTE] if paused else [])],
        checks=[comparison.storage_check(turns)],
    )
