"""Which database this is, whether its schema is the one we need, and what its edition can't do."""

from datetime import datetime
from enum import StrEnum

import asyncpg
from msgspec import Struct

from ingest import errors
from ingest.store import files


class Edition(StrEnum):
    """The three databases that behave as one."""

    TIMESCALEDB = "timescaledb"
    TIMESCALEDB_APACHE = "timescaledb-apache"
    POSTGRESQL = "postgresql"

    @property
    def missing(self) -> tuple[str, ...]:
        """What the edition can't do, in words."""
        if self is Edition.TIMESCALEDB:
            return ()
        if self is Edition.TIMESCALEDB_APACHE:
            return ("compression", "continuous aggregates", "background policies")
        return ("hypertables", "compression", "continuous aggregates", "background policies")


class Facts(Struct, frozen=True):
    """What was found out about a database whose schema is ready for us."""

    edition: Edition
    server_version: str
    extension_version: str | None
    """TimescaleDB's; None without it."""
    events_from: datetime | None = None
    """What happened before it was dropped or forgotten already, at least in part; None where nothing was."""


async def inspect(connection: asyncpg.Connection) -> Facts:
    """Finds out what the database is.

    Raises errors.SchemaBehind, errors.SchemaTooNew or errors.EditionChanged where we can't work with it.
    """
    state = await connection.fetchrow(files.sql("state/installation"))
    if state["may_read"] is False:
        # In the middle of the first migration it is so, too: the grants come last.
        raise errors.SchemaBehind(
            f"The database's schema is not open to the user {state['user_name']}. Run `ingest migrate` as its owner, which "
            "opens it to the writer of sql/roles.sql."
        )
    known = set(files.migration_names())
    applied = (
        {row["migration_id"] for row in await connection.fetch(files.sql("state/applied_migrations"))}
        if state["migrations"]
        else set()
    )
    if unknown := applied - known:
        raise errors.SchemaTooNew(
            f"The database's schema is newer than this program: it has migration {max(unknown)}, the newest known here "
            f"is {max(known)}. Run the newer release."
        )
    if missing := known - applied:
        raise errors.SchemaBehind(
            f"The database's schema is behind: {len(missing)} of {len(known)} migrations are missing. Run `ingest migrate`."
        )
    edition = await connection.fetchrow(files.sql("state/edition"))
    if edition is None or edition["recorded"] != edition["detected"]:
        recorded = edition["recorded"] if edition else "nothing"
        detected = edition["detected"] if edition else "unknown"
        raise errors.EditionChanged(
            f"The database was set up as {recorded} and answers as {detected} now. Bring the former edition back, or "
            "move the data into a new database."
        )
    return Facts(
        Edition(edition["recorded"]),
        state["server_version"],
        state["extension_version"],
        await connection.fetchval(files.sql("state/time_bounds")),
    )
