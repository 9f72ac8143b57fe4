"""The stack that the service was first described with, as a program to compare with: FastAPI, pydantic, SQLAlchemy.

It takes gzip batches of usage events at the service's own path, holds them against the rules of the contract, and inserts
what is new with `INSERT … ON CONFLICT DO NOTHING`. It is meant to be as good as the stack is out of the box: pydantic reads
the JSON itself (4.8 ms a batch of 1000 events; `json.loads` and then pydantic, which is what FastAPI does with a parameter,
takes 8.7 ms), the engine has a pool, uvicorn runs on uvloop and httptools.

SQLAlchemy has two ways to insert many rows. Both are found in programs everywhere, so both can be measured:

* `values`: `insert(table).values(rows)`, a statement of many rows that SQLAlchemy compiles anew for every batch (250 ms for
  1000 rows, nearly all of it in Python).
* `executemany`: `execute(insert(table), rows)`, which its documentation recommends for many rows. With RETURNING, by which
  the new ones are counted, it makes statements of many rows from one that was compiled once ("insertmanyvalues"; 40 ms).

What it does not do of what the service does: a batch with one bad item is refused as a whole, unknown fields are dropped, and
an event that is sent again with another time or other content is not told from others.
"""

import argparse
import os
import socket
import sys
import zlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Annotated, Any, Literal
from uuid import UUID

import asyncpg
import sqlalchemy as sa
import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from ingest.settings import DatabaseUrl
from ingest.store.database import for_asyncpg

SCHEMA = "documents_stack"

INT4_MAX = 2**31 - 1
ITEMS_MAX = 1000
COMPRESSED_BYTES_MAX = 10 * 1024 * 1024
BODY_BYTES_MAX = 64 * 1024 * 1024
AGE_MAX = timedelta(days=180)
CLOCK_SKEW_MAX = timedelta(minutes=5)

POOL_CONNECTIONS = 10
PARAMETERS_MAX = 32767
"""Of one statement: the protocol counts them in 16 bits, and the driver takes them as signed."""

GZIP_WINDOW_BITS = 31

Insert = Literal["values", "executemany"]
INSERTS: tuple[Insert, ...] = ("values", "executemany")

Dimension = Annotated[str, Field(min_length=1, max_length=256)]
Count = Annotated[int, Field(ge=0, le=INT4_MAX)]


class UsageEvent(BaseModel):
    """One LLM call."""

    model_config = ConfigDict(strict=True)

    event_id: UUID
    event_time: AwareDatetime
    user_id: Dimension
    team: Dimension
    service: Dimension
    provider: Dimension
    model: Dimension
    total_tokens: Count = 0
    latency_ms: Count | None = None
    status_code: Annotated[int, Field(ge=100, le=599)] | None = None
    error_type: Annotated[str, Field(max_length=256)] | None = None
    prompt: str | None = None
    extra: dict[str, Any] | None = None


class Answer(BaseModel):
    """What became of a batch."""

    received: int
    accepted: int
    duplicates: int


EVENTS = TypeAdapter(list[UsageEvent])


def usage_events(*, hypertable: bool) -> sa.Table:
    """The table, with the columns and indexes of analytics.usage_events and a key.

    The key of a hypertable must hold the column that it is partitioned by.
    """
    event_time = sa.Column("event_time", sa.DateTime(timezone=True), nullable=False)
    later_first = event_time.desc()
    return sa.Table(
        "usage_events",
        sa.MetaData(schema=SCHEMA),
        sa.Column("event_id", sa.Uuid, nullable=False),
        event_time,
        *(sa.Column(name, sa.Text, nullable=False) for name in ("user_id", "team", "service", "provider", "model")),
        sa.Column("total_tokens", sa.Integer, nullable=False),
        sa.Column("latency_ms", sa.Integer),
        sa.Column("status_code", sa.SmallInteger),
        sa.Column("error_type", sa.Text),
        sa.Column("prompt", sa.Text),
        sa.Column("extra", postgresql.JSONB(none_as_null=True)),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.PrimaryKeyConstraint("event_id", *(["event_time"] if hypertable else [])),
        sa.Index("usage_events_event_time_idx", later_first),
        sa.Index("usage_events_team_event_time_idx", "team", later_first),
        sa.Index("usage_events_user_id_event_time_idx", "user_id", later_first),
        sa.Index("usage_events_service_event_time_idx", "service", later_first),
    )


async def create_table(connection: AsyncConnection) -> sa.Table:
    """Makes the table where there is none: a hypertable if the database has TimescaleDB."""
    found = await connection.execute(sa.text("SELECT 1 FROM pg_extension WHERE extname = 'timescaledb'"))
    hypertable = found.scalar() is not None
    table = usage_events(hypertable=hypertable)
    await connection.execute(sa.schema.CreateSchema(SCHEMA, if_not_exists=True))
    await connection.run_sync(table.metadata.create_all)
    if hypertable:
        await connection.execute(
            sa.text(
                "SELECT create_hypertable(CAST(:table AS text)::regclass, by_range('event_time', INTERVAL '24 hours'),"
                " create_default_indexes => false, if_not_exists => true)"
            ),
            {"table": f"{SCHEMA}.usage_events"},
        )
    return table


class Store:
    """Inserts events in one of the ways."""

    def __init__(self, engine: AsyncEngine, table: sa.Table, insert: Insert) -> None:
        self._engine = engine
        self._statement = postgresql.insert(table).on_conflict_do_nothing()
        self._returning = self._statement.returning(table.c.event_id)
        self._insert = self._with_values if insert == "values" else self._with_executemany

    async def insert(self, events: Sequence[UsageEvent]) -> int:
        """Inserts the events that are new, in one transaction, and returns how many these are."""
        if not events:
            return 0
        rows = [event.model_dump() for event in events]
        async with self._engine.begin() as connection:
            return await self._insert(connection, rows)

    async def check(self) -> None:
        """Raises DBAPIError or OSError if the database doesn't answer."""
        async with self._engine.connect() as connection:
            await connection.execute(sa.text("SELECT 1"))

    async def _with_values(self, connection: AsyncConnection, rows: list[dict[str, Any]]) -> int:
        rows_max = PARAMETERS_MAX // len(rows[0])
        inserted = 0
        for start in range(0, len(rows), rows_max):
            result = await connection.execute(self._statement.values(rows[start : start + rows_max]))
            inserted += result.rowcount
        return inserted

    async def _with_executemany(self, connection: AsyncConnection, rows: list[dict[str, Any]]) -> int:
        result = await connection.execute(self._returning, rows)  # SQLAlchemy keeps to the limit of parameters itself
        return len(result.all())


def application(url: DatabaseUrl, insert: Insert) -> FastAPI:
    """The ASGI program, on the database with this URL."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # asyncpg reads the URL itself: SQLAlchemy would not take one of a Unix socket.
        engine = create_async_engine(
            "postgresql+asyncpg://", async_creator=partial(asyncpg.connect, for_asyncpg(url)), pool_size=POOL_CONNECTIONS
        )
        async with engine.begin() as connection:
            table = await create_table(connection)
        app.state.store = Store(engine, table, insert)
        yield
        await engine.dispose()

    app = FastAPI(title="The documents' stack", lifespan=lifespan)
    app.add_api_route("/api/v1/ingest/requests:bulk", bulk, methods=["POST"])
    app.add_api_route("/healthz", healthz, methods=["GET"], response_model=None)
    return app


async def bulk(request: Request) -> Answer:
    """Takes a batch of usage events: a JSON array, gzip or not."""
    body = await request.body()
    if request.headers.get("content-encoding") == "gzip":
        body = inflate(body)
    try:
        events = EVENTS.validate_json(body)
    except ValidationError as error:
        raise HTTPException(422, error.errors(include_url=False, include_context=False, include_input=False)) from None
    if len(events) > ITEMS_MAX:
        raise HTTPException(413, f"More than {ITEMS_MAX} events")
    now = datetime.now(UTC)
    oldest, newest = now - AGE_MAX, now + CLOCK_SKEW_MAX
    if not all(oldest <= event.event_time <= newest for event in events):
        raise HTTPException(422, "An event is too old, or in the future")
    store: Store = request.app.state.store
    inserted = await store.insert(events)
    return Answer(received=len(events), accepted=inserted, duplicates=len(events) - inserted)


async def healthz(request: Request) -> JSONResponse:
    """Whether the database answers."""
    store: Store = request.app.state.store
    try:
        await store.check()
    except (DBAPIError, OSError):
        return JSONResponse({"status": "unhealthy", "database": False}, status_code=503)
    return JSONResponse({"status": "healthy", "database": True})


def inflate(body: bytes) -> bytes:
    """The content of a gzip body. Raises HTTPException if it is none, or too large."""
    if len(body) > COMPRESSED_BYTES_MAX:
        raise HTTPException(413, "The compressed body is too large")
    inflating = zlib.decompressobj(GZIP_WINDOW_BITS)
    try:
        content = inflating.decompress(body, BODY_BYTES_MAX)
    except zlib.error:
        raise HTTPException(400, "Not gzip") from None
    if inflating.unconsumed_tail:
        raise HTTPException(413, "The body is too large")
    if not inflating.eof:
        raise HTTPException(400, "The gzip body is cut off")
    return content


class Server(uvicorn.Server):
    """Says where it listens when it does."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and sockets:
            print(f"Listening   http://127.0.0.1:{sockets[0].getsockname()[1]}", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """`serve --port N`: serves until a signal. DB_URL names the database, STACK_INSERT the way to insert."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.documents_stack", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("command", choices=["serve"])
    parser.add_argument("--port", type=int, default=8001, help="(default: %(default)s; 0: one that is free)")
    parser.add_argument("--db-url", type=DatabaseUrl, default=os.environ.get("DB_URL"), help="(default: DB_URL)")
    parser.add_argument("--insert", choices=INSERTS, default=os.environ.get("STACK_INSERT", "values"))
    options = parser.parse_args(arguments)
    if options.db_url is None:
        parser.error("there is no DB_URL")
    listener = socket.create_server(("127.0.0.1", options.port))
    server = Server(
        uvicorn.Config(application(options.db_url, options.insert), access_log=False, log_level="warning", lifespan="on")
    )
    server.run(sockets=[listener])
    return 0 if server.started else 1


if __name__ == "__main__":
    sys.exit(main())
