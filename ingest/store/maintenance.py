"""What a scheduler does, where the database has none: runs the jobs of `analytics.maintenance_jobs` when they are due.

However many processes do this, one at a time leads: it holds an advisory lock while it runs what is due. TimescaleDB
Community schedules its jobs itself, and there is nothing to do here.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from msgspec import Struct

from ingest import errors
from ingest.settings import DatabaseUrl
from ingest.store import editions, failures, files, sessions
from ingest.store.database import for_asyncpg
from ingest.store.editions import Edition

logger = logging.getLogger(__name__)

LOOK_SECONDS = 10.0
CONNECT_SECONDS = 10.0
CLOSE_SECONDS = 5.0


class NothingToMaintain(Exception):
    """There is nothing for this process to do; the message says why."""


class JobRun(Struct, frozen=True):
    """A job that was run."""

    policy: str
    seconds: float
    error: str | None


class Maintenance:
    """Maintains one database.

    beside: whether a service runs in this process, which itself says that the database is away.
    """

    def __init__(self, url: DatabaseUrl, *, beside: bool = False) -> None:
        self._url = url
        self._level_of_problems = logging.DEBUG if beside else logging.WARNING
        self._problem: str | None = None

    async def run(self) -> None:
        """Runs what is due, again and again, until it is cancelled. What goes wrong is logged and tried again.

        Returns if there is nothing to maintain here. Raises errors.PolicyRefused if this user may not maintain.
        """
        while True:
            try:
                for run in await self.run_due():
                    _log(run)
                self._problem = None
            except NothingToMaintain as reason:
                logger.info("No maintenance by this process: %s", reason)
                return
            except errors.PolicyRefused:
                raise
            except errors.IngestError as problem:
                if str(problem) != self._problem:
                    logger.log(self._level_of_problems, "Maintenance waits: %s", problem)
                self._problem = str(problem)
            except Exception:
                logger.exception("Maintenance failed")
            await asyncio.sleep(LOOK_SECONDS)

    async def run_all(self) -> list[JobRun]:
        """Runs every job once, due or not; waits first for another process that leads.

        Raises NothingToMaintain, errors.PolicyRefused if this user may not or another process is at it for long, and
        errors.Unavailable and errors.SetupError as `editions.inspect`.
        """
        async with self._connection() as connection:
            try:
                await connection.execute(files.sql("maintain/lock"))
            except asyncpg.LockNotAvailableError:
                raise errors.PolicyRefused("Another process has been maintaining this database for a minute.") from None
            return await _run_jobs(connection, everything=True)

    async def run_due(self) -> list[JobRun]:
        """Runs the jobs that are due now; none if another process leads. Raises as `run_all`."""
        async with self._connection() as connection:
            if not await connection.fetchval(files.sql("maintain/try_lock")):
                return []
            return await _run_jobs(connection, everything=False)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[asyncpg.Connection]:
        """A connection of its own, whose end frees the lock."""
        with failures.translated():
            connection = await asyncpg.connect(for_asyncpg(self._url), timeout=CONNECT_SECONDS)
        sessions.keep_alive(connection)  # a job may take its time, and has no timeout
        try:
            with failures.translated():
                facts = await editions.inspect(connection)
                if facts.edition is Edition.TIMESCALEDB:
                    raise NothingToMaintain("TimescaleDB Community runs the policies itself.")
                if not await connection.fetchval(files.sql("maintain/rights")):
                    raise errors.PolicyRefused(
                        "This user does not own the tables, and may not maintain them. Run `ingest maintain` as their owner."
                    )
                await connection.execute(files.sql("maintain/session"))
                yield connection
        finally:
            # Not at once: a job that runs must be told to stop, or it goes on without us.
            try:
                await connection.close(timeout=CLOSE_SECONDS)
            except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                connection.terminate()


async def _run_jobs(connection: asyncpg.Connection, *, everything: bool) -> list[JobRun]:
    runs = []
    for job in await connection.fetch(files.sql("maintain/due_jobs"), everything):
        started = time.monotonic()
        await connection.execute(files.sql("maintain/start_job"), job["policy"])
        error = await _attempt(connection, job)
        await connection.execute(files.sql("maintain/finish_job"), job["policy"], error)
        runs.append(JobRun(job["policy"], time.monotonic() - started, error))
    return runs


async def _attempt(connection: asyncpg.Connection, job: Mapping[str, Any]) -> str | None:
    """Runs a job. Returns what is to be said against it, by the server or by us, or None."""
    arguments = (job["config"],) if "$1" in job["command"] else ()
    try:
        for row in await connection.fetch(job["command"], *arguments):
            statement = row[0] if row else None
            if isinstance(statement, str):
                await connection.execute(statement)
            elif statement is not None:
                return f"Its first column is to be a statement, or NULL, and is {statement!r}."
    except asyncpg.PostgresError as error:
        if connection.is_closed() or error.sqlstate.startswith("57P"):
            raise
        return f"{error.sqlstate}: {str(error).partition(chr(10))[0]}"
    except asyncpg.InterfaceError as error:  # the command has parameters that we don't give
        if connection.is_closed():
            raise
        return str(error).partition("\n")[0]
    return None


def _log(run: JobRun) -> None:
    if run.error is not None:
        logger.error("Maintenance %s failed after %.1f s: %s", run.policy, run.seconds, run.error)
    else:
        logger.debug("Maintenance %s took %.1f s", run.policy, run.seconds)
