"""`ingest keys create | list | revoke`: who may send."""

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from ingest import errors
from ingest.cli.databases import database_of
from ingest.flow.api_keys import Scope
from ingest.settings import Settings
from ingest.store import api_keys
from ingest.store.api_keys import KeyEntry

TEXT_CHARACTERS_MAX = 256
RATE_MAX = 2**31 - 1
TEAMS_MAX = 1000
EXPIRES_MAX = datetime(9000, 1, 1, tzinfo=UTC)

_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_AGE = re.compile(r"([1-9][0-9]{0,4})d")
_WIDTH_WITHOUT_TERMINAL = 200


def add_commands(commands: Any) -> None:
    """Adds `keys` to the command line."""
    parser = commands.add_parser("keys", help="API keys: make, list and revoke them")
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION")
    create = _add(actions, "create", "make a key, and show it: once, on standard output", _create)
    create.add_argument("--name", type=_text, required=True, help="what it is called; one key in use has a name")
    create.add_argument(
        "--team",
        type=_text,
        action="append",
        dest="teams",
        metavar="T",
        help="it may send this team's events only; several times for several teams (default: all teams')",
    )
    create.add_argument(
        "--scope",
        type=Scope,
        choices=list(Scope),
        default=Scope.INGEST,
        help="ingest: send events and archives; read: only ask the service about itself (default: %(default)s)",
    )
    create.add_argument(
        "--rate-per-minute", type=_rate, metavar="N", help="requests a minute, of all workers together (default: no limit)"
    )
    create.add_argument(
        "--expires",
        type=_moment,
        metavar="WHEN",
        help="when it ends: a date, a time with offset (RFC 3339), or in so many days, as 90d (default: never)",
    )
    _add(actions, "list", "show all keys but their secrets", _list)
    revoke = _add(actions, "revoke", "end a key; every worker knows within 10 seconds", _revoke)
    revoke.add_argument("key", help="its name or its id, the ID of lai_ID_…")


def _add(actions: Any, name: str, words: str, run: Callable[[argparse.Namespace, Settings], int]) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(name, help=words, description=words.capitalize() + ".")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)
    return parser


def _create(options: argparse.Namespace, chosen: Settings) -> int:
    teams = sorted(set(options.teams or ()))
    if len(teams) > TEAMS_MAX:
        raise errors.KeyNotMade(f"A key is for at most {TEAMS_MAX} teams.")
    with database_of(chosen) as (url, _):
        key, entry = api_keys.create(
            url,
            name=options.name,
            scope=options.scope,
            teams=teams or None,
            rate_per_minute=options.rate_per_minute,
            expires_at=options.expires,
        )
        try:
            _show_once(
                msgspec.json.encode({"key": key.text, **msgspec.to_builtins(entry)}).decode() if options.json else key.text
            )
        except OSError as error:
            api_keys.revoke(url, key.key_id)
            raise errors.KeyNotMade(f"The key could not be shown, and is revoked again: {error.strerror}.") from None
    if options.json:
        return 0
    print(f"This is key {entry.key_id}, {entry.name!r}. Keep it: nobody can show it again.", file=sys.stderr)
    return 0


def _show_once(text: str) -> None:
    """Raises OSError if it can't be written."""
    try:
        print(text, flush=True)
    except OSError:
        with suppress(OSError):
            sys.stdout.close()  # else it is tried again at the end
        raise


def _list(options: argparse.Namespace, chosen: Settings) -> int:
    with database_of(chosen) as (url, _):
        entries = api_keys.entries(url)
    if options.json:
        print(msgspec.json.encode(entries).decode())
    elif entries:
        _show(entries, datetime.now(UTC))
    else:
        print("There are no API keys. Make one: `ingest keys create --name …`.")
    return 0


def _revoke(options: argparse.Namespace, chosen: Settings) -> int:
    with database_of(chosen) as (url, _):
        entry = api_keys.revoke(url, options.key)
    if options.json:
        print(msgspec.json.encode(entry).decode())
    else:
        print(f"Key {entry.key_id}, {entry.name!r}, is revoked. Every worker knows within 10 seconds.")
    return 0


def _show(entries: Sequence[KeyEntry], now: datetime) -> None:
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = _WIDTH_WITHOUT_TERMINAL
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("id", "name", "state", "scope", "teams", "a minute", "made", "by", "expires"):
        table.add_column(column, justify="right" if column == "a minute" else "left", overflow="fold")
    for entry in entries:
        table.add_row(
            entry.key_id,
            entry.name,
            _state(entry, now),
            entry.scope,
            "all" if entry.teams is None else ", ".join(entry.teams),
            "-" if entry.rate_per_minute is None else f"{entry.rate_per_minute:,}",
            f"{entry.created_at.astimezone(UTC):%Y-%m-%d}",
            entry.created_by,
            "never" if entry.expires_at is None else f"{entry.expires_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC",
        )
    console.print(table)


def _state(entry: KeyEntry, now: datetime) -> str:
    if entry.revoked_at is not None:
        return f"revoked {entry.revoked_at.astimezone(UTC):%Y-%m-%d %H:%M}"
    return "expired" if entry.expires_at is not None and entry.expires_at <= now else "in use"


def _text(text: str) -> str:
    if not 1 <= len(text) <= TEXT_CHARACTERS_MAX or not text.isprintable():
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed: 1 to {TEXT_CHARACTERS_MAX} printable characters")
    return text


def _rate(text: str) -> int:
    rate = int(text) if text.isdecimal() and len(text) <= len(str(RATE_MAX)) else 0
    if not 1 <= rate <= RATE_MAX:
        raise argparse.ArgumentTypeError(f"{text} is no rate: 1 to {RATE_MAX} requests a minute")
    return rate


def _moment(text: str) -> datetime:
    """When a key ends: aware, and ahead. A date is its beginning in UTC."""
    now = datetime.now(UTC)
    if age := _AGE.fullmatch(text):
        return now + timedelta(days=int(age[1]))
    try:
        moment = datetime.fromisoformat(text)
        if _DATE.fullmatch(text):
            moment = moment.replace(tzinfo=UTC)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no time: 2027-01-31, 2027-01-31T18:00:00+01:00, or 90d") from None
    if moment.tzinfo is None:
        raise argparse.ArgumentTypeError(f"{text!r} has no offset from UTC: write Z or +01:00 behind it")
    if moment <= now:
        raise argparse.ArgumentTypeError(f"{text} is past")
    if moment >= EXPIRES_MAX:
        raise argparse.ArgumentTypeError(
            f"{text} is later than a key may end, {EXPIRES_MAX:%Y-%m-%d}; without --expires it never does"
        )
    return moment
