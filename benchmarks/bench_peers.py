"""The service beside InfluxDB and ClickHouse, interleaved in one run, where these are installed.

Debian has them as `influxdb` (1.6) and `clickhouse-server` (18.16). Both get the same events over HTTP, gzipped, in the form
that is the least work for them (line protocol, RowBinary), into a table as their manuals would have it; benchmarks/peers.py
says how they are set. They promise less: neither knows an event that it has already, and ClickHouse answers before its data
is on disk.
"""

import argparse
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from random import Random

from benchmarks import comparison, facts, jobs, peers, postgres, programs, rounds
from benchmarks.bodies import Bodies
from benchmarks.comparison import COSTS, METHOD, OURS, Ratio
from benchmarks.peers import Peer, PeerUnavailable
from benchmarks.progress import say
from benchmarks.results import Findings
from benchmarks.rounds import Plan, Target
from benchmarks.targets import Database

TINY = {"rounds": 1, "events": 1000}
FULL = {"rounds": 7, "events": 200_000}

TINY_SIZES = ((100, 2), (10, 4))
SIZES = ((1000, 4), (10, 32))
"""Events a request, and connections."""
SMALL_SHARE = 0.2
"""Of the events, for the second size: with small batches a turn takes so much longer."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `peers`."""
    comparison.add_arguments(parser)
    parser.add_argument(
        "--clickhouse-dir",
        type=Path,
        metavar="DIR",
        help="where ClickHouse has its files (default: the temporary directory). On ext4 it is slow for minutes after many "
        "files were deleted",
    )


def run(options: argparse.Namespace) -> Findings:
    """Compares. Raises BenchmarkError or errors.IngestError where it can't be done."""
    comparison.set_defaults(options, **(TINY if options.tiny else FULL))
    sizes = TINY_SIZES if options.tiny else SIZES
    findings = Findings(parameters={"rounds": options.rounds}, notes=[METHOD, COSTS])
    with ExitStack() as stack:
        server = stack.enter_context(programs.database_server(options.db_url))
        url = stack.enter_context(programs.scratch_database(server))
        if jobs.pause(url):
            findings.notes.append(jobs.NOTE)
        session = stack.enter_context(postgres.session(url))
        targets: list[Target] = [stack.enter_context(comparison.ours(url, session))]
        starts: list[Callable[[], AbstractContextManager[Peer]]] = [
            peers.influxdb,
            lambda: peers.clickhouse(options.clickhouse_dir),
        ]
        for start in starts:
            try:
                peer = stack.enter_context(start())
            except PeerUnavailable as absent:
                say(f"{absent}; going on without.")
                findings.notes.append(f"Absent: {absent}.")
                continue
            targets.append(Database(peer))
            findings.notes.append(f"{peer.name} is version {peer.version}.")
        for place, (batch, connections) in enumerate(sizes):
            events = round(options.events * (SMALL_SHARE if place else 1))
            plan = Plan(batch, connections, requests=-(-events // batch))
            _compare(options, findings, targets, plan, seed=options.seed + place)
        findings.database = facts.database(url.reveal())
    return findings


def _compare(options: argparse.Namespace, findings: Findings, targets: list[Target], plan: Plan, *, seed: int) -> None:
    title = comparison.title_of(plan)
    turns = rounds.run(targets, plan, Bodies(seed, plan.batch), rounds=options.rounds, random=Random(seed), title=title)
    findings.parameters = {**findings.parameters, f"events of a turn, {title}": plan.requests * plan.batch}
    findings.tables.append(comparison.throughput_table(turns, title))
    others = [Ratio(OURS, target.name) for target in targets if target.name != OURS]
    if others:
        findings.tables.append(comparison.ratio_table(turns, others, f"Ratios of throughput, {title}"))
    findings.plots += comparison.throughput_plots(turns, title)
    findings.checks.append(comparison.storage_check(turns, f"every target stored all that it was sent, once ({title})"))
