"""From a batch to its verdict: what is known to be wrong is not sent to the database, the rest is, once."""

from datetime import datetime

from ingest import verdict
from ingest.flow.admission import Admission, Reservation
from ingest.flow.batch import Batch, BatchStore
from ingest.verdict import Verdict


class Intake:
    """Takes batches of both streams."""

    def __init__(self, store: BatchStore, admission: Admission) -> None:
        self._store = store
        self._admission = admission

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

    async def take(self, batch: Batch) -> Verdict:
        """Stores what is valid in the batch and says what became of every item; it returns after the commit.

        Raises errors.Unavailable if nothing could be stored, now.
        """
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
