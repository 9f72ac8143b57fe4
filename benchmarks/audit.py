"""Whether what was acknowledged is stored, once.

Over HTTP: every acknowledged body is made again and sent again. A service that has stored it answers that all its events are
duplicates: the ids are in its ledger, with the same content. That needs no access to the database, but takes the service's
word for what is in the table.

In SQL: all ids that were sent are compared with the table itself.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path

import psycopg
from msgspec import Struct

from benchmarks.errors import BenchmarkError
from benchmarks.http_client import ClientError, Connection
from benchmarks.progress import progress
from benchmarks.results import Check
from benchmarks.sender import HEADERS, PATH, RETRIES_MAX, Receipt, error_kind, retry_after_seconds
from benchmarks.workload import Workload
from ingest.settings import DatabaseUrl

SQL_FILE = Path(__file__).with_name("audit.sql")
PROBLEMS_SHOWN = 3

SENT_AGAIN = "sent again, every acknowledged event is a duplicate"
IN_TABLE = "in the table is every acknowledged event, and none twice"


class Stored(Struct, frozen=True):
    """What the table has of the events that were sent."""

    missing: int
    """Acknowledged, and not there."""
    repeated: int
    """There more than once."""
    unacknowledged: int
    """There though their answer was an error, or was lost."""


async def over_http(
    connections: Sequence[Connection],
    workload: Workload,
    acknowledged: Iterable[Receipt],
    *,
    headers: Mapping[str, str] | None = None,
    retry_seconds: float = 1.0,
) -> Check:
    """Sends every acknowledged body again, which must change nothing.

    retry_seconds: how long is waited after a first try that had no answer; twice as long after each further one.
    """
    receipts = list(acknowledged)
    left = iter(receipts)
    labels = {**HEADERS, **(headers or {})}
    problems: list[str] = []
    with progress("Audit over HTTP", len(receipts), "requests") as shown:
        done = 0

        async def work(connection: Connection) -> None:
            nonlocal done
            for receipt in left:
                if problem := await _resend(connection, workload, receipt, labels, retry_seconds):
                    problems.append(f"request {receipt.number}: {problem}")
                done += 1
                shown.set(done, f"{len(problems):,} problems")

        async with asyncio.TaskGroup() as group:
            for connection in connections:
                group.create_task(work(connection))
    events = sum(receipt.stored for receipt in receipts)
    return Check(
        SENT_AGAIN,
        not problems,
        "; ".join([f"{len(problems):,} of {len(receipts):,} requests are not as acknowledged", *problems[:PROBLEMS_SHOWN]])
        if problems
        else f"{events:,} events in {len(receipts):,} requests",
    )


async def _resend(
    connection: Connection, workload: Workload, receipt: Receipt, headers: Mapping[str, str], retry_seconds: float
) -> str | None:
    """What is not as it was acknowledged; None if all is."""
    content = workload.body(receipt.number, receipt.now).content
    for attempt in range(RETRIES_MAX + 1):
        try:
            answer = await connection.post(PATH, content, headers)
        except ClientError as error:
            problem, wait_seconds = f"no answer: {error.kind}", retry_seconds * 2**attempt
        else:
            if answer.ok:
                accepted, duplicates = (
                    int(answer.headers.get(f"x-ingest-{name}", -1)) for name in ("accepted", "duplicates")
                )
                if (accepted, duplicates) == (0, receipt.stored):
                    return None
                return f"{accepted} accepted and {duplicates} duplicates, where {receipt.stored} were stored"
            problem, wait = f"answered {error_kind(answer)}", retry_after_seconds(answer)
            if wait is None:
                return problem
            wait_seconds = wait
        await asyncio.sleep(wait_seconds)
    return problem


def in_sql(
    url: DatabaseUrl, workload: Workload, acknowledged: Sequence[Receipt], unacknowledged: Sequence[Receipt]
) -> tuple[Check, Stored]:
    """Compares the ids that were sent with the table. The user needs to read analytics.usage_events.

    An acknowledged request of which not all events were stored is left out: its answer lists only the first that were not.

    Raises BenchmarkError if the database can't be asked.
    """
    whole = [receipt for receipt in acknowledged if receipt.stored == receipt.items]
    stored = Stored(0, 0, 0)
    if whole or unacknowledged:
        try:
            stored = _compare(url, workload, whole, unacknowledged)
        except psycopg.Error as error:
            raise BenchmarkError(f"The audit can't ask the database: {str(error).splitlines()[0]}") from error
    events = sum(receipt.items for receipt in whole)
    return (
        Check(
            IN_TABLE,
            not stored.missing and not stored.repeated,
            f"of {events:,} acknowledged events {stored.missing:,} are missing; {stored.repeated:,} are there more than once",
        ),
        stored,
    )


def _compare(
    url: DatabaseUrl, workload: Workload, acknowledged: Sequence[Receipt], unacknowledged: Sequence[Receipt]
) -> Stored:
    sent = [*((receipt, True) for receipt in acknowledged), *((receipt, False) for receipt in unacknowledged)]
    first, last = (pick(receipt.now for receipt, _ in sent) for pick in (min, max))
    with psycopg.connect(url.reveal()) as connection, progress("Audit in SQL", len(sent), "requests") as shown:
        cursor = connection.cursor()
        cursor.execute("CREATE TEMPORARY TABLE sent (event_id uuid NOT NULL, acknowledged boolean NOT NULL) ON COMMIT DROP")
        with cursor.copy("COPY sent FROM STDIN") as copy:
            for done, (receipt, is_acknowledged) in enumerate(sent, 1):
                mark = "t" if is_acknowledged else "f"
                ids = workload.event_ids(receipt.number, receipt.now)
                copy.write("".join([f"{event_id}\t{mark}\n" for event_id in ids]))
                shown.set(done)
        cursor.execute("ANALYZE sent")
        cursor.execute(SQL_FILE.read_bytes(), {"first": first - workload.time_spread, "last": last + timedelta(seconds=1)})
        row = cursor.fetchone()
        assert row is not None
        return Stored(*row)
