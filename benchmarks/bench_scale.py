"""Throughput with 1, 2 and 4 workers of the service, interleaved in one run.

A worker is a process that inflates, decodes and encodes on one core; the database wants cores too, and the generator. So what
more workers bring depends on what the machine has to spare: on two cores, with the database on them, there is nothing.
"""

import argparse
import os
from contextlib import ExitStack
from random import Random

from benchmarks import comparison, facts, jobs, postgres, programs, rounds
from benchmarks.bodies import Bodies
from benchmarks.comparison import COSTS, METHOD, OUR_TABLES, Ratio
from benchmarks.results import Findings
from benchmarks.targets import Program, Tables

TINY = {"batch": 100, "connections": 4, "rounds": 1, "events": 2000}
FULL = {"batch": 1000, "connections": 8, "rounds": 7, "events": 150_000}
WORKERS = (1, 2, 4)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `scale`."""
    comparison.add_arguments(parser)
    comparison.add_plan_arguments(parser, batch=FULL["batch"], connections=FULL["connections"])


def run(options: argparse.Namespace) -> Findings:
    """Compares. Raises BenchmarkError or errors.IngestError where it can't be done."""
    comparison.set_defaults(options, **(TINY if options.tiny else FULL))
    plan = comparison.plan_of(options)
    bodies = Bodies(options.seed, options.batch)
    with ExitStack() as stack:
        server = stack.enter_context(programs.database_server(options.db_url))
        url = stack.enter_context(programs.scratch_database(server))
        paused = jobs.pause(url)
        session = stack.enter_context(postgres.session(url))
        targets = [
            Program(_name(count), stack.enter_context(programs.service(url, workers=count)), Tables(session, *OUR_TABLES))
            for count in WORKERS
        ]
        turns = rounds.run(targets, plan, bodies, rounds=options.rounds, random=Random(options.seed), title="Scaling")
        database = facts.database(url.reveal())
    return Findings(
        parameters=comparison.parameters_of(plan, options),
        database=database,
        tables=[
            comparison.throughput_table(turns, comparison.title_of(plan)),
            comparison.ratio_table(turns, [Ratio(_name(count), _name(1)) for count in WORKERS[1:]]),
        ],
        plots=comparison.throughput_plots(turns),
        notes=[
            f"This machine has {os.cpu_count()} cores for the workers, the database and the generator.",
            METHOD,
            COSTS,
            *([jobs.NOTE] if paused else []),
        ],
        checks=[comparison.storage_check(turns)],
    )


def _name(workers: int) -> str:
    return "1 worker" if workers == 1 else f"{workers} workers"
