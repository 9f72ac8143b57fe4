"""From a batch to its verdict: what is known to be wrong is not sent to the database, the rest is, once."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol
from uuid import UUID

import msgspec

from ingest import verdict
from ingest.events import MESSAGE_ARCHIVES
from ingest.flow.admission import Admission, Reservation
from ingest.flow.batch import Batch, BatchStore
from ingest.verdict import FORBIDDEN_TEAM, Outcome, Rejection, Verdict


class EventTeams(Protocol):
    """Knows whose the stored usage events are."""

    async def teams_of(self, event_ids: Sequence[bytes]) -> Mapping[bytes, str]:
        """The teams of those that are stored; ids are 16 bytes each. Raises errors.Unavailable."""
        ...


class Intake:
    """Takes batches of both streams."""

    def __init__(self, store: BatchStore, admission: Admission, event_teams: EventTeams) -> None:
        self._store = store
        self._admission = admission
        self._event_teams = event_teams

    def check_open(self) -> None:
        """Raises errors.Unavailable, at once, while nothing can be taken."""
        self._admission.check_open()
        self._store.check_ready()

    def events_from(self) -> datetime | None:
        """From when on events are taken, whatever their age; None where only their age counts."""
        return self._store.events_from()

    def admit(self) -> Reservation:
        """Room for one request, to be entered before its body is read. Raises errors.Unavailable while there is none."""
        self._store.check_ready()
        return self._admission.reserve()

    async def take(self, batch: Batch, teams: frozenset[str] | None = None) -> Verdict:
        """Stores what is valid in the batch and says what became of every item; it returns after the commit.

        teams: whose usage events the archives may belong to; None: everybody's. (Usage events are sorted out by who decodes.)

        Raises errors.Unavailable if nothing could be stored, now.
        """
        if teams is not None and batch.stream is MESSAGE_ARCHIVES and batch.rows:
            batch = await self._of_teams(batch, teams)
        if batch.strict and batch.rejections:
            return verdict.give(batch.received, batch.rejections, committed=False)
        if not batch.rows:
            return verdict.give(batch.received, batch.rejections)
        stored = await self._store.store(batch.stream, batch.rows, strict=batch.strict)
        return verdict.give(
            batch.received,
            batch.rejections,
            batch.rows.event_ids,
            batch.indices,
            stored.outcomes,
            sanitized=batch.sanitized,
            committed=stored.committed,
        )

    async def _of_teams(self, batch: Batch, teams: frozenset[str]) -> Batch:
        """The batch without the archives whose usage events are not known to be of these teams.

        One whose event is not stored is rejected here: it might be by now, and another team's.
        """
        known = await self._event_teams.teams_of(batch.rows.event_ids)
        kept: list[int] = []
        rejections = list(batch.rejections)
        for position, event_id in enumerate(batch.rows.event_ids):
            team = known.get(event_id)
            if team in teams:
                kept.append(position)
                continue
            code = Outcome.UNKNOWN_EVENT.value if team is None else FORBIDDEN_TEAM
            rejections.append(
                Rejection(
                    index=batch.indices[position],
                    event_id=str(UUID(bytes=event_id)),
                    code=code,
                    field="event_id",
                    message=verdict.MESSAGES[Outcome.UNKNOWN_EVENT] if team is None else "The usage event is another team's.",
                )
            )
        if len(kept) == len(batch.rows):
            return batch
        return msgspec.structs.replace(
            batch,
            rows=batch.rows.at(kept),
            indices=[batch.indices[position] for position in kept],
            rejections=rejections,
        )
