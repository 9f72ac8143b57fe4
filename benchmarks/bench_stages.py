"""What each stage of the hot path takes, in µs an event, with the physical limits beside it.

One batch after the other, one connection, nothing else running: wall time, so that waiting for the disk counts. Stages that
the service does in the event loop are timed on the service's own functions; those of the database by the service's own
statements. What an index costs is a COPY into a table with that one alone, less a COPY into a table with none.
"""

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import uvloop

from benchmarks import facts, jobs, programs
from benchmarks.bodies import Bodies
from benchmarks.progress import progress
from benchmarks.results import Axis, Check, Column, Findings, Plot, Series, Table
from ingest import verdict
from ingest.events import USAGE_EVENTS, Window
from ingest.settings import DatabaseUrl
from ingest.store import files, rows
from ingest.store.database import for_asyncpg, prepare
from ingest.store.editions import Edition
from ingest.store.partitions import Partitions
from ingest.web import decode
from ingest.web.inflate import inflater

TABLES = Path(__file__).with_name("stages.tables.sql")
DAY = timedelta(days=1)
COPIED_MIB = 256
SYNCS = 20

Times = dict[str, list[float]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `stages`."""
    programs.add_database_option(parser)
    parser.add_argument("--batch", type=int, default=1000, metavar="N", help="events a batch (default: %(default)s)")
    parser.add_argument("--batches", type=int, metavar="N", help="batches of which the median counts (default: 200)")


def run(options: argparse.Namespace) -> Findings:
    """Times the stages. Raises BenchmarkError or errors.IngestError where it can't be done."""
    batches = options.batches or (5 if options.tiny else 200)
    with programs.database_server(options.db_url) as server, programs.scratch_database(server) as url:
        paused = jobs.pause(url)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            measured = runner.run(_Stages(url, Bodies(options.seed, options.batch), batches).run())
        database = facts.database(url.reveal())
    events = options.batch
    here = {name: 1e6 * statistics.median(times) / events for name, times in measured.here.items()}
    there = {name: 1e6 * statistics.median(times) / events for name, times in measured.there.items()}
    bare = there.pop("COPY, no index")
    indexes = {name.removeprefix("table of "): there.pop(name) - bare for name in [*there] if name.startswith("table of ")}
    used = [*here, *measured.used]
    stages = {**here, **there}
    total = sum(stages[name] for name in used)
    return Findings(
        parameters={"batch": events, "batches": batches},
        database=database,
        tables=[
            Table(
                "New events, the usual way",
                [Column("stage"), Column("time", "µs/event"), Column("share", "%")],
                [*([name, stages[name], 100 * stages[name] / total] for name in used), ["together", total, 100.0]],
            ),
            Table(
                "Within the COPY into the table",
                [Column("part"), Column("time", "µs/event")],
                [["columns, no index", bare], *([f"index {name}", cost] for name, cost in indexes.items())],
            ),
            Table(
                "Any events, through staging",
                [Column("stage"), Column("time", "µs/event")],
                [[name, stages[name]] for name in stages if name not in used],
            ),
            _limits(measured, events),
        ],
        plots=[
            Plot(
                "µs an event",
                "bar",
                Axis("stage"),
                Axis("time", "µs/event"),
                [Series("time", list(used), [stages[name] for name in used])],
            )
        ],
        notes=[
            "Medians. The stages are done one after the other here; under load they overlap, and compete for the caches.",
            *([jobs.NOTE] if paused else []),
        ],
        checks=[Check("every event is stored once", *_stored_once(measured))],
    )


class _Measured(msgspec.Struct):
    here: Times
    there: Times
    used: list[str]
    body_bytes: float
    wal_bytes: float
    sent: int
    stored: int
    ids: int


class _Stages:
    """Sends batches through the stages, each timed by itself."""

    def __init__(self, url: DatabaseUrl, bodies: Bodies, batches: int) -> None:
        self._url = url
        self._bodies = bodies
        self._batches = batches
        self._here: Times = defaultdict(list)
        self._there: Times = defaultdict(list)

    async def run(self) -> _Measured:
        connection = await asyncpg.connect(for_asyncpg(self._url))
        try:
            await connection.execute(TABLES.read_text())
            await prepare(connection, timeout_seconds=60)
            if await connection.fetchval("SELECT edition FROM analytics.installation") == Edition.POSTGRESQL:
                now = datetime.now(UTC)
                await Partitions(USAGE_EVENTS.name, DAY).ensure(connection, [now - DAY, now, now + DAY])
            tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'stages' ORDER BY 1")
            names = [row["tablename"] for row in tables]
            wal: list[int] = []
            body_bytes: list[int] = []
            with progress("Timing stages", self._batches, "batches") as shown:
                for number in range(self._batches):
                    body, batch = self._prepare(2 * number)
                    body_bytes.append(len(body))
                    wal.append(await self._store_new(connection, batch))
                    await self._copy_apart(connection, batch, names)
                    _, batch = self._prepare(2 * number + 1)
                    await self._store_any(connection, batch)
                    shown.set(number + 1)
            stored = await connection.fetchrow(
                "SELECT count(*), count(DISTINCT event_id) FROM analytics.usage_events", timeout=600
            )
        finally:
            await connection.close()
        used = ["BEGIN", "claim: COPY into the ledger", "insert: COPY into the table", "COMMIT"]
        sent = 2 * self._batches * self._bodies.batch_items
        return _Measured(
            self._here, self._there, used, statistics.median(body_bytes), statistics.median(wal), sent, stored[0], stored[1]
        )

    def _prepare(self, number: int) -> tuple[bytes, Any]:
        now = datetime.now(UTC)
        sent = self._bodies.make(number, now).content
        window = Window.around(now, 180, 300)
        items = self._bodies.batch_items

        def inflate() -> bytearray:
            body = bytearray()
            for piece in inflater("gzip").feed(sent):
                body += piece
            return body

        body = self._timed("inflate", inflate)
        decoded = self._timed(
            "decode and check",
            lambda: decode.decode_whole(USAGE_EVENTS, body, decode.Media.JSON, window, items_max=items),
        )
        assert decoded is not None
        batch = self._timed("rows: COPY encoding and fingerprint", lambda: rows.encode(USAGE_EVENTS, decoded.items))
        self._timed("verdict and answer", lambda: msgspec.json.encode(verdict.give(items, (), batch.event_ids, range(items))))
        return sent, batch

    def _timed(self, stage: str, work: Callable[[], Any]) -> Any:
        begun = time.perf_counter()
        result = work()
        self._here[stage].append(time.perf_counter() - begun)
        return result

    @contextmanager
    def _timing(self, stage: str) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        self._there[stage].append(time.perf_counter() - begun)

    async def _store_new(self, connection: asyncpg.Connection, batch: Any) -> int:
        """As the service stores new events. Returns how many bytes of WAL it took."""
        before = await _wal_position(connection)
        transaction = connection.transaction()
        with self._timing("BEGIN"):
            await transaction.start()
        with self._timing("claim: COPY into the ledger"):
            await _copy(connection, "analytics", "usage_event_ids", rows.LEDGER_COLUMNS, rows.to_claim([batch]))
        with self._timing("insert: COPY into the table"):
            await _copy(connection, "analytics", "usage_events", rows.COLUMNS[USAGE_EVENTS], rows.to_insert([batch]))
        with self._timing("COMMIT"):
            await transaction.commit()
        return await _wal_position(connection) - before

    async def _store_any(self, connection: asyncpg.Connection, batch: Any) -> None:
        """As the service stores events of which it knows nothing."""
        columns = rows.STAGING_COLUMNS + rows.COLUMNS[USAGE_EVENTS]
        staged = rows.to_stage(USAGE_EVENTS, [batch], range(len(batch)))
        async with connection.transaction():
            with self._timing("COPY into staging"):
                await _copy(connection, None, f"staged_{USAGE_EVENTS.name}", columns, staged)
            with self._timing("claim with ON CONFLICT and insert what was claimed"):
                await connection.fetch(files.sql(f"load/{USAGE_EVENTS.name}.load"))

    async def _copy_apart(self, connection: asyncpg.Connection, batch: Any, tables: Iterable[str]) -> None:
        for table in tables:
            async with connection.transaction():
                with self._timing("COPY, no index" if table == "none" else table):
                    await _copy(connection, "stages", table, rows.COLUMNS[USAGE_EVENTS], rows.to_insert([batch]))


def _limits(measured: _Measured, events: int) -> Table:
    """What the machine itself allows, each by itself."""
    body_bytes = measured.body_bytes / events
    wal_bytes = measured.wal_bytes / events
    copy_bytes_a_second = _copy_bytes_a_second()
    sync_seconds, write_bytes_a_second = _disk()
    return Table(
        "Physical limits",
        [Column("limit"), Column("value"), Column("of an event", "µs/event")],
        [
            ["body on the wire", f"{body_bytes:.0f} bytes an event", None],
            ["memory bandwidth, one core copying", f"{copy_bytes_a_second / 1e9:.1f} GB/s", 1e6 * 500 / copy_bytes_a_second],
            ["WAL", f"{wal_bytes:.0f} bytes an event", 1e6 * wal_bytes / write_bytes_a_second],
            ["disk, written and synced at once", f"{write_bytes_a_second / 1e6:.0f} MB/s", None],
            ["fsync of 8 KiB", f"{1e3 * sync_seconds:.2f} ms", 1e6 * sync_seconds / events],
        ],
    )


def _copy_bytes_a_second() -> float:
    source = bytearray(os.urandom(1024 * 1024)) * COPIED_MIB
    target = memoryview(bytearray(source))

    def copy() -> None:
        target[:] = source

    best = min(_seconds(copy) for _ in range(3))
    return len(source) / best


def _disk() -> tuple[float, float]:
    """How long an fsync behind 8 KiB takes, and how many bytes a second go to the disk 1 MiB at a time, each synced; in the
    folder for temporary files, which may be on another disk than the database."""
    with tempfile.TemporaryFile() as file:

        def write(size: int) -> Callable[[], None]:
            data = os.urandom(size)

            def once() -> None:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())

            return once

        small = statistics.median(_seconds(write(8192)) for _ in range(SYNCS))
        large = statistics.median(_seconds(write(1024 * 1024)) for _ in range(SYNCS))
    return small, 1024 * 1024 / large


def _seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _stored_once(measured: _Measured) -> tuple[bool, str]:
    detail = f"{measured.sent} sent, {measured.stored} rows with {measured.ids} ids"
    return measured.sent == measured.stored == measured.ids, detail


async def _wal_position(connection: asyncpg.Connection) -> int:
    position: int = await connection.fetchval("SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint")
    return position


async def _copy(
    connection: asyncpg.Connection, schema: str | None, table: str, columns: Iterable[str], file: Iterable[bytes]
) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for piece in file:
            yield piece

    await connection.copy_to_table(table, schema_name=schema, columns=list(columns), source=pieces(), format="binary")
