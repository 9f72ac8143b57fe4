"""What a benchmark runs beside itself: databases to be thrown away, the service and other servers as processes, and what
these use of CPU and memory."""

import argparse
import atexit
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg
from msgspec import Struct
from psycopg import sql

from benchmarks.errors import BenchmarkError
from ingest.settings import DatabaseUrl
from ingest.store import embedded

START_SECONDS_MAX = 60
STOP_SECONDS_MAX = 30

LOG_LINES_SHOWN = 20


class ProgramFailed(BenchmarkError):
    """A program did not start, or not do its work. The message ends with what it said last."""


class Running(Struct, frozen=True):
    """A program that listens."""

    url: str
    """http://127.0.0.1:PORT"""
    process: psutil.Process
    log: Path
    """What it says; gone when it is stopped."""

    @property
    def pids(self) -> list[int]:
        """Of the program and of those that it has started, its workers."""
        return [self.process.pid, *(child.pid for child in self.process.children(recursive=True))]


def database_url(text: str) -> DatabaseUrl:
    """For argparse, which would otherwise print the value, password and all."""
    try:
        return DatabaseUrl(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_database_option(parser: argparse.ArgumentParser) -> None:
    """Adds --db-url, for `database_server`."""
    parser.add_argument(
        "--db-url",
        type=database_url,
        metavar="URL",
        help="a superuser's URL of a server, on which databases are made and dropped again (default: the embedded "
        "PostgreSQL, in a temporary directory)",
    )


@contextmanager
def database_server(given: DatabaseUrl | None) -> Iterator[DatabaseUrl]:
    """The URL that was given, or one of an embedded PostgreSQL that lives as long as the context.

    The embedded server runs as in production: with fsync.

    Raises errors.EmbeddedUnavailable.
    """
    if given is not None:
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="ingest-bench-") as folder:
        # When the interpreter ends, the wheel locks its server once more, which makes folder and lock file again. Handlers
        # run in reverse order: this one, registered before the wheel's, runs after it.
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        with embedded.running(Path(folder)) as server:
            yield server.url


@contextmanager
def empty_database(server: DatabaseUrl) -> Iterator[DatabaseUrl]:
    """A new database on the server, dropped at the end whoever is connected to it."""
    name = f"bench_{secrets.token_hex(6)}"
    with psycopg.connect(server.reveal(), autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    try:
        yield _url_of(server, name)
    finally:
        with psycopg.connect(server.reveal(), autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


@contextmanager
def scratch_database(server: DatabaseUrl, environment: Mapping[str, str] | None = None) -> Iterator[DatabaseUrl]:
    """As `empty_database`, with the schema and the policies as the program makes them, under these settings.

    Raises ProgramFailed if it doesn't.
    """
    with empty_database(server) as url:
        settings = {**(environment or {}), "DB_URL": url.reveal()}
        run([sys.executable, "-m", "ingest", "migrate"], settings)
        run([sys.executable, "-m", "ingest", "policies", "apply"], settings)
        yield url


@contextmanager
def service(
    url: DatabaseUrl, *, environment: Mapping[str, str] | None = None, workers: int = 1, module: str = "ingest"
) -> Iterator[Running]:
    """`python -m ingest serve` on this database and a free port, without maintenance unless `environment` asks for it.

    module: another program with the same command line, `serve --port 0`, that reads DB_URL and says `Listening   http://…`.

    Raises ProgramFailed if it does not come to listen.
    """
    command = [sys.executable, "-m", module, "serve", "--port", "0"]
    if workers > 1:
        command += ["--workers", str(workers)]
    with listening(command, {"MAINTENANCE": "off", **(environment or {}), "DB_URL": url.reveal()}) as running:
        yield running


@contextmanager
def listening(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[Running]:
    """A program that says `Listening   http://…` when it does. It is stopped with SIGTERM at the end.

    Raises ProgramFailed if it ends or START_SECONDS_MAX pass before that.
    """
    with tempfile.TemporaryDirectory(prefix="ingest-bench-") as folder:
        log = Path(folder) / "log"
        with log.open("w") as output:
            process = psutil.Popen(
                command, env=_environment(environment), cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        try:
            yield Running(_await_address(process, log), process, log)
        finally:
            _stop(process)


def run(command: Sequence[str], environment: Mapping[str, str]) -> str:
    """Runs a program to its end and returns its output. Raises ProgramFailed if it fails."""
    with tempfile.TemporaryDirectory(prefix="ingest-bench-") as folder:
        done = subprocess.run(
            command,
            env=_environment(environment),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    if done.returncode:
        raise ProgramFailed(f"{_name(command)} failed:\n{_end_of(done.stdout)}")
    return done.stdout


def cpu_seconds(pids: Iterable[int]) -> float:
    """What these processes have used so far, in user and system mode together. Those that are gone count nothing."""
    seconds = 0.0
    for process in _alive(pids):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        seconds += times.user + times.system
    return seconds


def resident_bytes(pids: Iterable[int]) -> int:
    """The memory that these processes hold now. Pages that two of them share count twice."""
    held = 0
    for process in _alive(pids):
        try:
            held += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return held


def _alive(pids: Iterable[int]) -> Iterator[psutil.Process]:
    for pid in pids:
        try:
            yield psutil.Process(pid)
        except psutil.NoSuchProcess:
            continue


def _url_of(server: DatabaseUrl, database: str) -> DatabaseUrl:
    head, question, query = server.reveal().partition("?")
    return DatabaseUrl(f"{head.rpartition('/')[0]}/{database}{question}{query}")


def _environment(settings: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without settings of the service, and with these. A program runs in a folder of its own,
    where there is no .env; the checkout is on its path, because benchmarks are not installed."""
    checkout = str(Path(__file__).resolve().parent.parent)
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "XDG_RUNTIME_DIR") if name in os.environ}
    return {**inherited, "PYTHONPATH": checkout, "PYTHONUNBUFFERED": "1", **settings}


def _await_address(process: psutil.Popen, log: Path) -> str:
    deadline = time.monotonic() + START_SECONDS_MAX
    while process.poll() is None and time.monotonic() < deadline:
        for line in log.read_text().splitlines():
            if line.startswith("Listening "):
                return line.split()[1]
        time.sleep(0.05)
    ended = "did not start" if process.poll() is None else f"ended with status {process.returncode}"
    raise ProgramFailed(f"{_name(process.args)} {ended}:\n{_end_of(log.read_text())}")


def _stop(process: psutil.Popen) -> None:
    if process.poll() is not None:
        return
    started = process.children(recursive=True)
    process.terminate()
    try:
        process.wait(STOP_SECONDS_MAX)
    except psutil.TimeoutExpired:
        for left in (process, *started):
            if left.is_running():
                left.kill()
        process.wait()


def _name(command: Sequence[str]) -> str:
    return " ".join(["python", *command[1:]] if command[0] == sys.executable else command)


def _end_of(output: str) -> str:
    return "\n".join(output.splitlines()[-LOG_LINES_SHOWN:])
