"""What the database says of itself, for the metrics: what it is, how its policies fare, how large its ledgers are."""

import asyncio
import logging
import time

import asyncpg

from ingest import errors
from ingest.metrics import DatabaseFigures, Ledger, PolicyRun
from ingest.store import files
from ingest.store.database import Database
from ingest.store.editions import Edition

logger = logging.getLogger(__name__)

FIGURES_SECONDS = 10.0
"""How long what was read counts, however often it is asked for."""


class Figures:
    """Reads the figures of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._figures: DatabaseFigures | None = None
        self._read_at = -FIGURES_SECONDS
        self._reading = asyncio.Lock()
        self._problem: str | None = None

    async def read(self) -> DatabaseFigures | None:
        """The figures, as of a few seconds ago; None while the database can't be asked."""
        async with self._reading:
            if time.monotonic() - self._read_at >= FIGURES_SECONDS:
                try:
                    self._figures = await self.ask()
                    self._problem = None
                except (errors.IngestError, asyncpg.PostgresError) as problem:
                    self._figures = None
                    self._tell(problem)
                self._read_at = time.monotonic()
        return self._figures if self._database.problem is None else None

    def _tell(self, problem: Exception) -> None:
        """That the database is away, others tell; and what is wrong, once."""
        if not isinstance(problem, errors.Unavailable) and str(problem) != self._problem:
            logger.warning("The metrics lack what the database says of itself: %s", str(problem).partition("\n")[0])
        self._problem = str(problem)

    async def ask(self) -> DatabaseFigures:
        """The figures, as of now. Raises as Database.ask, and what the driver makes of a right that is missing."""
        facts = self._database.check_ready()
        if facts.edition is Edition.TIMESCALEDB:
            jobs = await self._database.ask("status/jobs.timescaledb")
        else:
            jobs = await self._database.ask("status/jobs.maintained", files.policy_names(facts.edition))
        ledgers = await self._database.ask("status/ledgers")
        return DatabaseFigures(
            facts.edition.value,
            facts.server_version,
            facts.extension_version,
            [
                PolicyRun(
                    job["policy"],
                    job["failures"],
                    job["last_result"] == "failed",
                    job["last_run_started_at"].timestamp() if job["last_run_started_at"] else None,
                )
                for job in jobs
                if job["policy"] is not None
            ],
            [Ledger(ledger["stream"], ledger["rows"], ledger["bytes"]) for ledger in ledgers],
        )
