"""The command line: `ingest serve | migrate | policies | maintain | keys | send | doctor`."""

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence

from ingest import __version__, errors, settings
from ingest.cli import doctor, keys, log, policies, send
from ingest.cli.databases import EMBEDDED_WAIT_SECONDS, database_of
from ingest.cli.serve import serve
from ingest.settings import Settings
from ingest.store import migrate
from ingest.store.maintenance import Maintenance, NothingToMaintain

EXIT_SETUP = 1
EXIT_JOB_FAILED = 3
"""`ingest maintain --once` did its work, and a job did not do its own."""

WORKERS_MAX = 64


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit status. Errors that a person can mend are one line on standard error."""
    options = _parser().parse_args(arguments)
    log.to_standard_error()
    # SIGTERM leaves as Ctrl-C does: what was opened is to be closed, an embedded database stopped.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if "run_alone" in options:  # whatever the settings are
            alone: int = options.run_alone(options)
            return alone
        chosen = settings.load()
        log.to_standard_error(chosen)
        status: int = options.run(options, chosen)
    except errors.IngestError as error:
        print(f"ingest: {error}", file=sys.stderr)
        return EXIT_SETUP
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ingest",
        description="Takes LLM usage events in bulk and puts them into PostgreSQL with TimescaleDB.",
        epilog="Settings come from the environment and from .env; the README has the table.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    run = commands.add_parser(
        "serve", help="run the service; without DB_URL on an embedded PostgreSQL", description=serve.__doc__
    )
    run.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    run.add_argument("--port", type=_port, default=8000, help="port to listen on, 0 for a free one (default: 8000)")
    run.add_argument(
        "--workers",
        type=_workers,
        default=1,
        metavar="N",
        help="processes that serve (default: 1). One decodes on one core; with cores to spare, which the database does not "
        "need, more take more. DB_POOL_SIZE and the limits of what is in work count for each of them",
    )
    run.set_defaults(run=serve)
    bring = commands.add_parser("migrate", help="bring the database's schema up to date", description=_migrate.__doc__)
    bring.set_defaults(run=_migrate)
    policies.add_commands(commands)
    keys.add_commands(commands)
    send.add_commands(commands)
    doctor.add_commands(commands, _workers)
    maintain = commands.add_parser(
        "maintain", help="do what the policies say, where the database has no scheduler", description=_maintain.__doc__
    )
    maintain.add_argument("--once", action="store_true", help="run every job once, now, and exit; for cron")
    maintain.set_defaults(run=_maintain)
    return parser


def _port(text: str) -> int:
    port = int(text) if text.isdecimal() else -1
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"{text} is no port: 0 to 65535")
    return port


def _workers(text: str) -> int:
    workers = int(text) if text.isdecimal() else 0
    if not 1 <= workers <= WORKERS_MAX:
        raise argparse.ArgumentTypeError(f"{text} is no number of workers: 1 to {WORKERS_MAX}")
    return workers


def _migrate(_options: argparse.Namespace, chosen: Settings) -> int:
    """Applies the migrations that the database lacks. Safe to run again, and from many starters at once."""
    with database_of(chosen) as (url, _):
        applied = migrate.migrate(
            url,
            chunk_interval_hours=chosen.chunk_interval_hours,
            wait_seconds=EMBEDDED_WAIT_SECONDS if chosen.db_url is None else 0,
        )
    print(f"{len(applied)} migrations applied." if applied else "The schema is up to date.")
    return 0


def _maintain(options: argparse.Namespace, chosen: Settings) -> int:
    """Runs the jobs of the policies when they are due, on PostgreSQL and on TimescaleDB's Apache edition: partitions ahead,
    rollups, retention, the ledger. `ingest serve` does it too, unless MAINTENANCE=off; of many, one at a time works."""
    with database_of(chosen) as (url, _):
        maintenance = Maintenance(url)
        if not options.once:
            asyncio.run(maintenance.run())
            return 0
        try:
            runs = asyncio.run(maintenance.run_all())
        except NothingToMaintain as reason:
            print(f"Nothing to do: {reason}")
            return 0
    for run in runs:
        print(f"{run.policy:30} {run.seconds:8.1f} s  {run.error or 'done'}")
    if not runs:
        print("There are no jobs. Run `ingest policies apply`.")
    return EXIT_JOB_FAILED if any(run.error for run in runs) else 0
