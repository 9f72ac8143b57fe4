"""What a comparison needs of PostgreSQL beside the clock: empty tables, quiet, a count of rows, and what the work cost."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psutil
import psycopg
from msgspec import Struct
from psycopg import sql

from benchmarks import programs
from benchmarks.progress import say
from ingest.settings import DatabaseUrl

QUIET_SECONDS_MAX = 60


class Costs(Struct, frozen=True):
    """What a database has used so far; None where that can't be seen."""

    cpu_seconds: float | None = None
    wal_bytes: int | None = None


class Session:
    """A superuser's session in a database of a benchmark's own."""

    def __init__(self, connection: "psycopg.Connection[tuple[int, ...]]") -> None:
        self._connection = connection

    def empty(self, tables: Sequence[str]) -> None:
        """Empties tables, which are named as in SQL, and those that refer to them."""
        names = sql.SQL(", ").join(sql.Identifier(*table.split(".")) for table in tables)
        self._connection.execute(sql.SQL("TRUNCATE {} CASCADE").format(names))

    def stored(self, table: str) -> tuple[int, int]:
        """How many events the table has, and how many ids these have."""
        query = sql.SQL("SELECT count(*), count(DISTINCT event_id) FROM {}").format(sql.Identifier(*table.split(".")))
        [(rows, ids)] = self._connection.execute(query).fetchall()
        return rows, ids

    def settle(self) -> None:
        """Lets the server do now what it would do later, at the cost of whoever is measured then: a checkpoint, the vacuum
        that is under way, the writing of files."""
        self._connection.execute("CHECKPOINT")
        deadline = time.monotonic() + QUIET_SECONDS_MAX
        while self._is_vacuuming():
            if time.monotonic() > deadline:
                say(f"Autovacuum still works after {QUIET_SECONDS_MAX} s; going on.")
                break
            time.sleep(0.2)
        os.sync()

    def costs(self) -> Costs:
        """CPU of all sessions in this database but this one, and how much WAL the server has written for whomever."""
        pids = self._backends()
        [(position,)] = self._connection.execute("SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint").fetchall()
        return Costs(programs.cpu_seconds(pids) if pids else None, position)

    def _is_vacuuming(self) -> bool:
        query = "SELECT 1 FROM pg_stat_activity WHERE backend_type = 'autovacuum worker'"
        return self._connection.execute(query).fetchone() is not None

    def _backends(self) -> list[int]:
        """The processes of those sessions; none if the server is on another machine."""
        query = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        pids = [pid for (pid,) in self._connection.execute(query).fetchall()]
        return [pid for pid in pids if _title(pid).startswith("postgres") and self._connection.info.dbname in _title(pid)]


@contextmanager
def session(url: DatabaseUrl) -> Iterator[Session]:
    """Opens a session. Raises psycopg.Error if the database doesn't answer."""
    with psycopg.connect(url.reveal(), autocommit=True) as connection:
        yield Session(connection)


def _title(pid: int) -> str:
    """How a process calls itself: PostgreSQL's sessions name their database."""
    try:
        return " ".join(psutil.Process(pid).cmdline())
    except psutil.Error:
        return ""
