"""Whose usage events are stored: archives have no team of their own, and a key may be bound to teams."""

from collections.abc import Mapping, Sequence

from ingest.store import files
from ingest.store.database import Database


class EventTeams:
    """Looks the teams up (ingest.flow.intake.EventTeams)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def teams_of(self, event_ids: Sequence[bytes]) -> Mapping[bytes, str]:
        """The teams of those of the usage events that are stored; ids are 16 bytes each. Raises errors.Unavailable."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(files.sql("load/teams_of_events"), [event_id.hex() for event_id in event_ids])
        return {row["event_id"].bytes: row["team"] for row in rows}
