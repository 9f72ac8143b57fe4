"""The schema, brought up to date by yoyo: safe to run twice, from many starters at once, and after a kill in the middle.

yoyo alone is none of these: its lock is a row that a killed run leaves behind, and it marks a migration as applied in another
transaction than the migration's own. So an advisory lock is held around it, under which breaking the row is safe, and the
migrations are written to run twice.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import yoyo
from yoyo.backends import DatabaseBackend

from ingest import errors
from ingest.settings import DatabaseUrl
from ingest.store import failures, files, libpq

logger = logging.getLogger(__name__)

LOCK_WAIT_SECONDS = 300
AWAKE_POLL_SECONDS = 0.2


def migrate(
    url: DatabaseUrl,
    *,
    chunk_interval_hours: int,
    wait_seconds: float = 0,
) -> list[str]:
    """Applies what the schema lacks and returns the names of the migrations applied.

    `wait_seconds`: how long to wait for a database that does not answer yet.

    Raises errors.SchemaTooNew if the schema has a migration that this program doesn't know, errors.DatabaseRefused if the
    database refuses one, errors.DatabaseAway if it does not answer.
    """
    try:
        with failures.translated():
            _await_server(url, wait_seconds)
            with _locked(url) as connection, _backend(url, chunk_interval_hours) as backend:
                applied = _apply(backend)
                _set_chunk_interval(url, chunk_interval_hours)
                connection.execute(files.sql("grants").encode())
    except psycopg.Error as error:
        raise errors.DatabaseRefused(f"The database refuses a migration: {libpq.one_line(error)}") from error
    except (failures.RowsRefused, failures.Transient) as error:
        raise errors.DatabaseRefused(f"The database refuses a migration: {error}.") from error
    return applied


def _apply(backend: DatabaseBackend) -> list[str]:
    backend.break_lock()  # whoever left it is dead: the living hold the advisory lock
    migrations = yoyo.read_migrations(str(files.migrations()))
    known = {migration.hash for migration in migrations}
    if set(backend.get_applied_migration_hashes()) - known:
        raise errors.SchemaTooNew(
            "The database's schema is newer than this program: it has migrations that are not known here. "
            "Run the newer release."
        )
    applied = []
    with backend.lock():
        for migration in backend.to_apply(migrations):
            logger.info("Applying migration %s", migration.id)
            try:
                backend.apply_one(migration)
            except psycopg.errors.RaiseException as error:
                raise errors.DatabaseRefused(libpq.one_line(error)) from error
            except psycopg.errors.InsufficientPrivilege as error:
                raise errors.DatabaseRefused(
                    f"Migration {migration.id} needs a right that this user lacks: {libpq.one_line(error)}"
                ) from error
            applied.append(migration.id)
    return applied


@contextmanager
def _locked(url: DatabaseUrl) -> Iterator[psycopg.Connection]:
    """A connection that holds the migrations' advisory lock; waits for it for at most LOCK_WAIT_SECONDS."""
    with psycopg.connect(
        libpq.connection_string(url, options=f"{libpq.NO_TIMEOUTS} -c lock_timeout={LOCK_WAIT_SECONDS}s"), autocommit=True
    ) as connection:
        connection.execute(files.sql("state/lock_migrations").encode())
        connection.execute(files.sql("state/prepare_schema").encode())
        yield connection


@contextmanager
def _backend(url: DatabaseUrl, chunk_interval_hours: int) -> Iterator[DatabaseBackend]:
    """yoyo's own connection. Its tables stand in our schema: `public` may be closed to us."""
    parameters = {
        "schema": "analytics, public",
        "options": f"{libpq.NO_TIMEOUTS} -c analytics.chunk_time_interval_hours={chunk_interval_hours}",
    }
    if database_name := libpq.database_name(url):
        parameters["dbname"] = database_name  # yoyo does not decode the one in the path
    backend = yoyo.get_backend(
        libpq.connection_string(url, **parameters).replace("postgresql://", "postgresql+psycopg://", 1)
    )
    try:
        yield backend
    finally:
        backend.connection.close()


def _set_chunk_interval(url: DatabaseUrl, hours: int) -> None:
    options = f"{libpq.NO_TIMEOUTS} -c search_path=analytics,public"
    with psycopg.connect(
        libpq.connection_string(url, options=options), autocommit=True, cursor_factory=psycopg.RawCursor
    ) as connection:
        row = connection.execute(files.sql("state/edition").encode()).fetchone()
        if row is None or row[0] == "postgresql":
            return
        if connection.execute(files.sql("state/set_chunk_interval").encode(), (hours,)).fetchall():
            logger.info("New chunks hold %d hours each.", hours)


def _await_server(url: DatabaseUrl, wait_seconds: float) -> None:
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            with failures.translated(), psycopg.connect(libpq.connection_string(url)):
                return
        except errors.DatabaseAway:
            if time.monotonic() >= deadline:
                raise
            time.sleep(AWAKE_POLL_SECONDS)
