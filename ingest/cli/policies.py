"""`ingest policies plan | apply | status`, as text for people and as JSON for programs."""

import argparse
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from ingest.cli.databases import database_of
from ingest.settings import DatabaseUrl, Settings
from ingest.store import policies, status
from ingest.store.policies import Plan, PlannedPolicy
from ingest.store.status import JobStatus, Status

_MARKS = {"create": "+", "change": "~", "none": " "}
_WIDTH_WITHOUT_TERMINAL = 200
_WIDTH_FOR_ALL_COLUMNS = 130


def add_commands(commands: Any) -> None:
    """Adds `policies` to the command line."""
    parser = commands.add_parser("policies", help="compression, retention, rollups: see, apply and watch them")
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION")
    _add(actions, "plan", "show what is set and what would be; touches nothing", _plan)
    apply = _add(actions, "apply", "bring the database's policies to the settings and files of this program", _apply)
    apply.add_argument(
        "--allow-data-loss", action="store_true", help="shorten the retention, which deletes rows that are kept now"
    )
    _add(actions, "status", "show each policy's runs and what tables, rollups and ledger take", _status)


def _add(actions: Any, name: str, words: str, run: Callable[[argparse.Namespace, Settings], int]) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(name, help=words, description=words.capitalize() + ".")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)
    return parser


def _plan(options: argparse.Namespace, chosen: Settings) -> int:
    with database_of(chosen) as (url, _):
        found = policies.plan(url, chosen.policy_settings)
    if options.json:
        print(_json(found))
        return 0
    _show_plan(found)
    if found.pending:
        option = " --allow-data-loss" if any(policy.deletes_rows for policy in found.pending) else ""
        print(f"\n{len(found.pending)} of {len(found.policies)} policies to apply: `ingest policies apply{option}`.")
    else:
        print("\nNothing to do: the database has what the settings and the files say.")
    return 0


def _apply(options: argparse.Namespace, chosen: Settings) -> int:
    with database_of(chosen) as (url, _):
        done = _apply_to(url, chosen, options)
    if options.json:
        print(_json(done))
    elif done.pending:
        for policy in done.pending:
            print(f"{_MARKS[policy.action]} {policy.file}")
        print(f"\n{len(done.pending)} policies applied.")
    else:
        print("Nothing to do: the database has what the settings and the files say.")
    return 0


def _apply_to(url: DatabaseUrl, chosen: Settings, options: argparse.Namespace) -> Plan:
    return policies.apply(
        url,
        chosen.policy_settings,
        allow_data_loss=options.allow_data_loss,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )


def _status(options: argparse.Namespace, chosen: Settings) -> int:
    with database_of(chosen) as (url, _):
        found = status.status(url)
    if options.json:
        print(_json(found))
    else:
        _show_status(found, datetime.now(UTC))
    return 0


def _json(found: Plan | Status) -> str:
    content: dict[str, Any] = msgspec.to_builtins(found)
    if isinstance(found, Status):
        content["tables"] = [
            {**table, "ratio": source.ratio} for table, source in zip(content["tables"], found.tables, strict=True)
        ]
    return msgspec.json.encode(content).decode()


def _show_plan(found: Plan) -> None:
    print(f"Edition: {found.edition}")
    for policy in found.policies:
        _show_policy(policy)
    for job in found.others:
        print(f"  {job}  made by hand, left alone")


def _show_policy(policy: PlannedPolicy) -> None:
    state = "" if policy.changes or policy.action != "none" else "  as it is to be"
    print(f"{_MARKS[policy.action]} {policy.file}{state}")
    for change in policy.changes:
        actual = "" if change.actual is None else f"{change.actual} "
        desired = "" if change.desired is None else f"-> {change.desired} "
        print(f"      {change.what}: {actual}{desired} ({change.why})")
    if policy.deletes_rows:
        print("      deletes rows that are kept now: needs --allow-data-loss")


def _show_status(found: Status, now: datetime) -> None:
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = _WIDTH_WITHOUT_TERMINAL
    console.print(f"Edition: {found.edition}" + (f", which can't do: {', '.join(found.cannot)}" if found.cannot else ""))
    if found.not_applied:
        console.print(f"Not applied: {', '.join(found.not_applied)}. Run `ingest policies apply`.")

    _print_table(
        console,
        ("policy", "settings", "every", "last run", "result", "next run", "runs", "failures"),
        [
            (
                job.policy or f"by hand: {job.job}",
                _settings(job.config),
                job.schedule_interval,
                _ago(job.last_run_started_at, now),
                job.last_result or "not yet",
                _ahead(job, now),
                f"{job.runs:,}",
                f"{job.failures:,}",
            )
            for job in found.jobs
        ],
    )
    for job in found.jobs:
        if job.last_error:
            console.print(f"{job.policy or job.job} failed: {job.last_error}")

    _print_table(
        console,
        ("table", "chunks", "compressed", "rows (about)", "bytes", "compressed from", "to", "ratio"),
        [
            (
                table.table_name,
                f"{table.chunks:,}",
                "-" if table.compressed_chunks is None else f"{table.compressed_chunks:,}",
                f"{table.rows:,}",
                _bytes(table.bytes),
                _bytes(table.bytes_uncompressed),
                _bytes(table.bytes_compressed),
                "-" if table.ratio is None else f"{table.ratio:.1f}",
            )
            for table in found.tables
        ],
    )
    oldest = f", the oldest of {found.ledger.oldest:%Y-%m-%d %H:%M}" if found.ledger.oldest else ""
    console.print(f"\nLedger: about {found.ledger.rows:,} ids, {_bytes(found.ledger.bytes)}{oldest}")
    if found.pending is not None and found.pending.oldest is not None:
        oldest_bucket = f"{found.pending.oldest:%Y-%m-%d %H:%M}"
        console.print(f"Rollups: {found.pending.buckets:,} hours and days changed, the oldest of {oldest_bucket} UTC")
    for name, moment in found.bounds.items():
        words = {
            "raw_rows_from": "Raw rows were dropped before",
            "ids_from": "Ids are forgotten before",
            "all_refreshed_at": "All rollups were refreshed, as far back as there are rows, at",
        }.get(name, f"{name} is computed up to")
        console.print(f"{words} {moment:%Y-%m-%d %H:%M} UTC")


def _print_table(console: Console, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    hidden = _WIDE_COLUMNS if console.width < _WIDTH_FOR_ALL_COLUMNS else set()
    shown = [place for place, column in enumerate(columns) if column not in hidden]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for place in shown:
        left = place == 0 or columns[place] in _TEXT_COLUMNS
        table.add_column(columns[place], justify="left" if left else "right", overflow="fold", no_wrap=place == 0)
    for row in rows:
        table.add_row(*(row[place] for place in shown))
    console.print()
    console.print(table)


_TEXT_COLUMNS = {"settings", "result"}
_WIDE_COLUMNS = {"settings", "every", "runs", "compressed from", "to"}
"""What a narrow terminal is not asked to show; `--json` has it all."""


def _settings(config: Mapping[str, Any] | None) -> str:
    return ", ".join(f"{name} {value}" for name, value in sorted((config or {}).items()))


def _ago(moment: datetime | None, now: datetime) -> str:
    return "-" if moment is None else f"{_span((now - moment).total_seconds())} ago"


def _ahead(job: JobStatus, now: datetime) -> str:
    if not job.scheduled:
        return "paused"
    if job.next_start is None:
        return "-"
    seconds = (job.next_start - now).total_seconds()
    return "due" if seconds <= 0 else f"in {_span(seconds)}"


def _span(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _bytes(count: int | None) -> str:
    if count is None:
        return "-"
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"
