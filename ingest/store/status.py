"""How the policies fare: each job's runs, what the tables and the ledger take, how far the rollups are."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from msgspec import Struct

from ingest.settings import DatabaseUrl
from ingest.store import files, policies
from ingest.store.editions import Edition


class JobStatus(Struct, frozen=True, kw_only=True):
    """A job of a policy, or, without a policy, one that somebody made by hand."""

    policy: str | None
    job: str
    config: dict[str, Any] | None
    schedule_interval: str
    scheduled: bool
    last_run_started_at: datetime | None
    last_result: str | None
    """success, failed, running, or None where it did not run yet"""
    last_error: str | None
    next_start: datetime | None
    runs: int
    failures: int


class TableStatus(Struct, frozen=True, kw_only=True):
    """What a partitioned table takes. Bytes are with indexes and TOAST."""

    table_name: str
    chunks: int
    compressed_chunks: int | None
    """None where the edition can't compress."""
    rows: int
    """An estimate."""
    bytes: int
    bytes_uncompressed: int | None
    """What the compressed chunks took before."""
    bytes_compressed: int | None
    """What they take now."""

    @property
    def ratio(self) -> float | None:
        """How many times smaller the compressed chunks are than they were."""
        if not self.bytes_uncompressed or not self.bytes_compressed:
            return None
        return self.bytes_uncompressed / self.bytes_compressed


class LedgerStatus(Struct, frozen=True):
    """The ids of events that are remembered."""

    rows: int
    """An estimate."""
    bytes: int
    oldest: datetime | None


class PendingStatus(Struct, frozen=True):
    """What of the rollups is to be computed anew."""

    buckets: int
    """Hours and days, the ones that are not over included."""
    oldest: datetime | None


class Status(Struct, frozen=True, kw_only=True):
    """Everything at one moment."""

    edition: Edition
    cannot: Sequence[str]
    """What this edition can't do."""
    not_applied: Sequence[str]
    """Policies of this program that were never applied."""
    jobs: Sequence[JobStatus]
    tables: Sequence[TableStatus]
    ledger: LedgerStatus
    pending: PendingStatus | None
    """None on TimescaleDB Community, which keeps that to itself."""
    bounds: dict[str, datetime]
    """analytics.time_bounds"""


def status(url: DatabaseUrl) -> Status:
    """Reads it all, in a read-only transaction.

    Raises errors.SchemaBehind without our schema, errors.Unavailable if the database does not answer.
    """
    with policies.connected(url) as connection, connection.transaction():
        connection.execute("SET TRANSACTION READ ONLY")
        edition = policies.edition_of(connection)

        def read(name: str) -> list[dict[str, Any]]:
            return connection.execute(files.sql(f"status/{name}").encode()).fetchall()

        jobs = policies.jobs(connection, edition)
        known = {job["policy"] for job in jobs}
        return Status(
            edition=edition,
            cannot=edition.missing,
            not_applied=[file.policy for file in policies.newest_files(edition) if file.policy not in known],
            jobs=[JobStatus(**job) for job in jobs],
            tables=[TableStatus(**table) for table in read(f"tables.{edition}")],
            ledger=LedgerStatus(**read("ledger")[0]),
            pending=None if edition is Edition.TIMESCALEDB else PendingStatus(**read("pending")[0]),
            bounds={row["name"]: row["moment"] for row in read("bounds")},
        )
