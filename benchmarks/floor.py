"""The floor: what the database takes of the same rows when nobody has any work but the database.

Rows are encoded beforehand, by the server itself, in the binary form of COPY. Then a few connections send them, one COPY and
one transaction a batch, straight into a table with the columns and indexes of analytics.usage_events and a key
(event_id, event_time). There is no HTTP and no JSON, nothing is checked, and an event that is there already would fail its
batch.

It runs in a process of its own, as a service would, and tells what it measured as JSON (benchmarks.rounds.Turn).
"""

import argparse
import asyncio
import gc
import os
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import asyncpg
import msgspec
import psycopg
import uvloop

from benchmarks import postgres, programs
from benchmarks.bodies import Bodies
from benchmarks.rounds import Meter, Round, Turn
from ingest.settings import DatabaseUrl
from ingest.store.database import for_asyncpg

SCHEMA = "floor"
TABLE = "usage_events"
COLUMNS = (
    "event_id", "event_time", "user_id", "team", "service", "provider", "model", "total_tokens", "latency_ms", "status_code",
    "error_type", "prompt", "extra",
)  # fmt: skip
"""What floor.encode.sql returns."""

CREATE = Path(__file__).with_name("floor.create.sql")
ENCODE = Path(__file__).with_name("floor.encode.sql")


class Floor:
    """The floor in a database that has the schema of the service (benchmarks.rounds.Target).

    Makes its table, which must not be there.
    """

    name = "floor"

    def __init__(self, url: DatabaseUrl, session: postgres.Session) -> None:
        self._url = url
        self._session = session
        with psycopg.connect(url.reveal(), autocommit=True) as connection:
            connection.execute(CREATE.read_bytes())

    def run(self, this: Round) -> Turn:
        command = [
            *(sys.executable, "-m", "benchmarks.floor"),
            *("--seed", str(this.bodies.seed), "--uuid-version", str(this.plan.uuid_version)),
            *("--batch", str(this.plan.batch), "--connections", str(this.plan.connections)),
            *("--first", str(this.first), "--warmup", str(this.plan.warmup), "--requests", str(this.plan.requests)),
            *("--now", this.now.isoformat()),
        ]
        turn = msgspec.json.decode(programs.run(command, {"DB_URL": self._url.reveal()}), type=Turn)
        stored, ids = self._session.stored(f"{SCHEMA}.{TABLE}")
        self._session.empty([f"{SCHEMA}.{TABLE}"])
        self._session.settle()
        return msgspec.structs.replace(turn, sent=len(this.numbers(1.0)) * this.plan.batch, stored=stored, ids=ids)


async def encode(connection: asyncpg.Connection, text: bytes) -> bytes:
    """A COPY file with the events of a JSON array."""
    file = BytesIO()
    await connection.copy_from_query(ENCODE.read_text(), text.decode(), output=file, format="binary")
    return file.getvalue()


async def copy(connections: Iterable[asyncpg.Connection], files: Iterable[bytes]) -> None:
    """Sends every file over the first connection that is free."""
    left = iter(files)

    async def work(connection: asyncpg.Connection) -> None:
        for file in left:
            # asyncpg takes bytes for the name of a file. A view of them it sends as it is, in one message.
            await connection.copy_to_table(
                TABLE, schema_name=SCHEMA, columns=COLUMNS, source=memoryview(file), format="binary"
            )

    async with asyncio.TaskGroup() as group:
        for connection in connections:
            group.create_task(work(connection))


async def _measure(url: DatabaseUrl, options: argparse.Namespace, meter: Meter) -> Turn:
    bodies = Bodies(options.seed, options.batch, uuid_version=options.uuid_version)
    connections = [await asyncpg.connect(for_asyncpg(url)) for _ in range(options.connections)]
    files = [
        await encode(connections[0], bodies.json(number, options.now))
        for number in range(options.first, options.first + options.warmup + options.requests)
    ]
    await copy(connections, files[: options.warmup])
    gc.freeze()
    with meter.measuring(options.requests * options.batch):
        await copy(connections, files[options.warmup :])
    for connection in connections:
        await connection.close()
    return meter.turn


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures one turn, on the database that DB_URL names."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.floor", description=(__doc__ or "").partition("\n")[0])
    for name in ("seed", "uuid-version", "batch", "connections", "first", "warmup", "requests"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--now", type=lambda text: datetime.fromisoformat(text).astimezone(UTC), required=True)
    options = parser.parse_args(arguments)
    url = DatabaseUrl(os.environ["DB_URL"])
    with postgres.session(url) as session, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        turn = runner.run(_measure(url, options, Meter(database=session.costs)))
    sys.stdout.buffer.write(msgspec.json.encode(turn))
    return 0


if __name__ == "__main__":
    sys.exit(main())
