"""Fills ledger and table to a size, without the service: the server makes the rows itself.

To be measured at 20 million rows, a table has to have them first. Sent to the service they would take as long as all that is
measured on them; made by the server they take a fraction of it, and are the same: table, indexes and ledger hold the same
columns, in the same order of time.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import psycopg

from benchmarks.bodies import TEMPLATES
from benchmarks.generate import EPOCH, SPAN, Generator
from ingest.settings import DatabaseUrl
from ingest.store import files

TEMPLATES_SQL = Path(__file__).with_name("fill.templates.sql")
INSERT_SQL = Path(__file__).with_name("fill.insert.sql")

PART_ROWS = 250_000
"""Of a transaction, after which the progress is shown."""

DAY = timedelta(days=1)


def fill(
    url: DatabaseUrl,
    rows: int,
    begin: datetime,
    end: datetime,
    *,
    seed: int,
    uuid_version: int,
    progressed: Callable[[int], None],
) -> None:
    """Stores `rows` events in a migrated database, from `begin` on evenly until before `end` (aware), and vacuums, so that
    autovacuum doesn't find them later.

    progressed: called after each part with how many rows it had. What the events hold beside ids is drawn from the seed.

    Raises psycopg.Error.
    """
    events = Generator(seed, now=EPOCH + SPAN, uuid_version=uuid_version).usage_events(TEMPLATES)
    with psycopg.connect(url.reveal(), autocommit=True) as connection:
        # What would be lost in a crash is made by whoever needs it next.
        connection.execute("SET synchronous_commit = off")
        connection.execute(
            "CREATE TEMPORARY TABLE templates (number integer, LIKE analytics.usage_events INCLUDING DEFAULTS)"
        )
        cursor = psycopg.RawCursor(connection)
        cursor.execute(TEMPLATES_SQL.read_bytes(), [msgspec.json.encode(events).decode()])
        connection.execute("ANALYZE templates")
        _make_partitions(connection, begin, end)
        bounds = [*range(0, rows, PART_ROWS), rows]
        for first, last in pairwise(bounds):
            part_begin, part_end = (begin + (end - begin) * (row / rows) for row in (first, last))
            cursor.execute(INSERT_SQL.read_bytes(), [last - first, part_begin, part_end - part_begin, uuid_version])
            progressed(last - first)
        connection.execute("VACUUM (ANALYZE) analytics.usage_event_ids")
        connection.execute("VACUUM (ANALYZE) analytics.usage_events")


def _make_partitions(connection: "psycopg.Connection[tuple[Any, ...]]", begin: datetime, end: datetime) -> None:
    """On plain PostgreSQL; a hypertable makes its chunks itself."""
    if connection.execute("SELECT edition FROM analytics.installation").fetchone() != ("postgresql",):
        return
    cursor = psycopg.RawCursor(connection)
    moment = begin
    while moment < end:
        cursor.execute(files.sql("load/ensure_partition").encode(), ["usage_events", moment, DAY])
        found = cursor.fetchone()
        assert found is not None
        _, moment = found
