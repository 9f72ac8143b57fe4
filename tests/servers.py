"""The database servers that the tests run on. Each is a context manager that yields a Server, or raises Unavailable with the
reason why it can't be had here. And the roles that a DBA makes on them."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

import psycopg
import pytest
from psycopg import sql

from ingest.settings import DatabaseUrl
from ingest.store import embedded, files

DEBIAN_VERSIONS = Path("/usr/lib/postgresql")
DOCKER_IMAGE = "timescale/timescaledb:2.28.3-pg17"

# Throwaway data: what a crash of the machine would lose is nobody's.
FAST_AND_LOSE = {"fsync": "off", "full_page_writes": "off"}


class Unavailable(Exception):
    """This server can't be had here; the message says why."""


@dataclass(frozen=True)
class Server:
    """A running server, by the URL of a database on it whose user may create others, and roles."""

    admin: DatabaseUrl

    def url_of(self, database: str) -> DatabaseUrl:
        """The URL of another database on the same server."""
        head, question, query = self.admin.reveal().partition("?")
        return DatabaseUrl(f"{head.rpartition('/')[0]}/{database}{question}{query}")


@dataclass(frozen=True)
class Roles:
    """Owner, writer and reader, by names of this run's own: on a real server the usual ones may be somebody's."""

    owner: str
    writer: str
    reader: str
    password: str

    def prepare(self, database: DatabaseUrl) -> None:
        """What a DBA does in a new database: sql/roles.sql, and passwords."""
        with psycopg.connect(database.reveal(), autocommit=True) as connection:
            for setting, role in [("owner_role", self.owner), ("writer_role", self.writer), ("reader_role", self.reader)]:
                connection.execute("SELECT set_config(%s, %s, false)", (f"analytics.{setting}", role))
            connection.execute(files.sql("roles").encode())
            # Some tests end the writer's sessions; whose user is no superuser needs to be a member for that.
            connection.execute(sql.SQL("GRANT {} TO CURRENT_USER").format(sql.Identifier(self.writer)))
            for role in (self.owner, self.writer, self.reader):
                connection.execute(
                    sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(role), sql.Literal(self.password))
                )

    def drop(self, database: DatabaseUrl) -> None:
        """Ends what `prepare` began; no database may hold anything of theirs any more."""
        with psycopg.connect(database.reveal(), autocommit=True) as connection:
            for role in (self.owner, self.writer, self.reader):
                connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(role)))

    def url(self, database: DatabaseUrl, role: str) -> DatabaseUrl:
        """The URL of the same database for one of these roles."""
        parts = urlsplit(database.reveal())
        address = parts.netloc.rpartition("@")[2]
        return DatabaseUrl(urlunsplit(parts._replace(netloc=f"{quote(role)}:{self.password}@{address}")))


@contextmanager
def embedded_server() -> Iterator[Server]:
    """The PostgreSQL of the extra `embedded`. Always there, because the tests install it."""
    with tempfile.TemporaryDirectory(prefix="ingest-embedded-") as folder, embedded.running(Path(folder)) as server:
        yield Server(server.url)


@contextmanager
def local_timescaledb() -> Iterator[Server]:
    """A throwaway cluster of a PostgreSQL installation on this machine that has TimescaleDB."""
    binaries = installation_with_timescaledb()
    run_as = unprivileged_user()
    with tempfile.TemporaryDirectory(prefix="ingest-local-") as name:
        folder = Path(name)
        if run_as:
            shutil.chown(folder, run_as, run_as)
        port = free_port()
        _run(binaries / "initdb", "-D", folder / "data", "-U", "postgres", "-A", "trust", "-E", "UTF8", user=run_as)
        settings = {
            "shared_preload_libraries": "timescaledb",
            "timescaledb.telemetry_level": "off",
            "listen_addresses": "127.0.0.1",
            "port": str(port),
            "unix_socket_directories": "",
            # Every database with TimescaleDB takes a worker for its scheduler, and its jobs take more.
            "max_worker_processes": "32",
            "timescaledb.max_background_workers": "16",
            **FAST_AND_LOSE,
        }
        conf = folder / "data" / "postgresql.conf"
        conf.write_text(conf.read_text() + "".join(f"{key} = '{value}'\n" for key, value in settings.items()))
        control = (binaries / "pg_ctl", "-D", folder / "data", "-w", "-l", folder / "log")
        _run(*control, "start", user=run_as)
        try:
            yield Server(DatabaseUrl(f"postgresql://postgres@127.0.0.1:{port}/postgres"))
        finally:
            _run(*control, "stop", "-m", "immediate", user=run_as)


@contextmanager
def from_environment() -> Iterator[Server]:
    """The server that TEST_DB_URL names."""
    url = os.environ.get("TEST_DB_URL")
    if not url:
        raise Unavailable("TEST_DB_URL is not set")
    yield Server(DatabaseUrl(url))


@contextmanager
def docker_timescaledb() -> Iterator[Server]:
    """TimescaleDB from Docker, where an engine answers and the image can be had."""
    if shutil.which("docker") is None or subprocess.run(["docker", "info"], capture_output=True).returncode:
        raise Unavailable("no Docker engine answers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from docker.errors import DockerException
        from testcontainers.postgres import PostgresContainer
    container = PostgresContainer(DOCKER_IMAGE, driver=None)
    try:
        container.start()
    except DockerException as error:
        raise Unavailable(f"{DOCKER_IMAGE} can't be started: {str(error).splitlines()[0]}") from None
    try:
        yield Server(DatabaseUrl(container.get_connection_url()))
    finally:
        container.stop()


SERVERS: dict[str, Callable[[], AbstractContextManager[Server]]] = {
    "embedded": embedded_server,
    "local": local_timescaledb,
    "environment": from_environment,
    "docker": docker_timescaledb,
}


ON_ONE = pytest.mark.parametrize("server", ["embedded"], indirect=True)
"""For tests of what no database makes differ: they run on the one that is always there."""


def free_port() -> int:
    """A TCP port on loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def execute(url: DatabaseUrl, *statements: str) -> None:
    """Runs statements, each in a transaction of its own."""
    with psycopg.connect(url.reveal(), autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def connected(url: DatabaseUrl) -> psycopg.Connection[tuple[object, ...]]:
    """A connection whose transaction begins with the first statement; to be used as a context manager."""
    return psycopg.connect(url.reveal())


def query(url: DatabaseUrl, statement: str, *arguments: object) -> list[tuple[object, ...]]:
    """All rows of a query; arguments stand as %s."""
    with psycopg.connect(url.reveal(), autocommit=True) as connection:
        return connection.execute(statement.encode(), arguments or None).fetchall()


def installation_with_timescaledb() -> Path:
    candidates = [Path(found).resolve().parent for found in [shutil.which("pg_config")] if found]
    if DEBIAN_VERSIONS.is_dir():
        candidates += sorted((folder / "bin" for folder in DEBIAN_VERSIONS.iterdir()), reverse=True)
    for config in (folder / "pg_config" for folder in candidates):
        if not config.exists():
            continue
        answer = subprocess.run([config, "--bindir", "--sharedir"], capture_output=True, text=True, check=True).stdout
        binaries, shared = (Path(line) for line in answer.splitlines())
        if (shared / "extension" / "timescaledb.control").exists() and (binaries / "initdb").exists():
            return binaries
    raise Unavailable("no PostgreSQL installation with TimescaleDB on this machine")


def unprivileged_user() -> str | None:
    """PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("postgres").pw_name
    except KeyError:
        raise Unavailable("PostgreSQL does not run as root, and there is no user `postgres`") from None


def _run(*command: object, user: str | None) -> None:
    words = [str(word) for word in command]
    # Into files and not pipes: the server would inherit them and keep them open.
    with tempfile.TemporaryFile("w+") as output:
        done = subprocess.run(
            words, user=user, group=user, extra_groups=[] if user else None, cwd="/", stdout=output, stderr=output
        )
        if done.returncode:
            output.seek(0)
            raise RuntimeError(f"{' '.join(words)} failed:\n{output.read()}")
