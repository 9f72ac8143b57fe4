"""What the service is compared with does what it is said to do, on real databases."""

import gzip
import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

import asyncpg
import httpx
import msgspec
import pytest
from zlib_ng import zlib_ng

from benchmarks import documents_stack, floor, peers, postgres, programs
from benchmarks.bodies import Bodies
from benchmarks.errors import BenchmarkError
from benchmarks.floor import Floor
from benchmarks.generate import EPOCH, MICROSECOND
from benchmarks.http_client import Answer, Connection
from benchmarks.peers import Peer, PeerUnavailable
from benchmarks.postgres import Costs, Session
from benchmarks.posting import Endpoint, post
from benchmarks.rounds import Meter, Plan, Round
from benchmarks.sender import HEADERS, PATH
from benchmarks.targets import Database, Nowhere, Program, Tables
from ingest.settings import DatabaseUrl
from tests import servers
from tests.samples import wire_event

PLAN = Plan(batch=20, connections=2, requests=5)

SHAPE = """
    SELECT column_name, data_type, is_nullable, column_default
    FROM information_schema.columns
    WHERE table_schema = %s AND table_name = 'usage_events'
    ORDER BY ordinal_position
"""
INDEXES = """
    SELECT split_part(indexdef, ' USING ', 2), indexdef LIKE 'CREATE UNIQUE %%'
    FROM pg_indexes
    WHERE schemaname = %s AND tablename = 'usage_events'
    ORDER BY 2, 1
"""


@pytest.fixture
def session(database_url) -> Iterator[Session]:
    with postgres.session(database_url) as opened:
        yield opened


@pytest.fixture
def this() -> Round:
    return Round(PLAN, Bodies(17, PLAN.batch), 0, datetime.now(UTC))


def has_hypertable(url: DatabaseUrl, schema: str) -> bool:
    if not servers.query(url, "SELECT 1 FROM pg_extension WHERE extname = 'timescaledb'"):
        return False
    query = "SELECT 1 FROM timescaledb_information.hypertables WHERE hypertable_schema = %s"
    assert servers.query(url, query, schema)
    return True


# --- the floor ------------------------------------------------------------------------------------------------------------


def test_the_floor_has_the_columns_and_indexes_of_the_service_and_a_key(database_url, session):
    Floor(database_url, session)
    assert servers.query(database_url, SHAPE, "floor") == servers.query(database_url, SHAPE, "analytics")
    ours = servers.query(database_url, INDEXES, "analytics")
    assert len(ours) == 4
    assert servers.query(database_url, INDEXES, "floor") == [*ours, ("btree (event_id, event_time)", True)]
    has_hypertable(database_url, "floor")


async def test_what_the_floor_copies_is_what_the_events_hold(database_url, session):
    Floor(database_url, session)
    text = Bodies(17, 200).json(0, datetime.now(UTC))
    connection = await asyncpg.connect(database_url.reveal())
    try:
        file = await floor.encode(connection, text)
        assert file.startswith(b"PGCOPY\n\xff\r\n\0")
        await floor.copy([connection], [file])
    finally:
        await connection.close()
    stored = servers.query(database_url, f"SELECT {', '.join(floor.COLUMNS)} FROM floor.usage_events ORDER BY event_id")
    sent = sorted(msgspec.json.decode(text), key=lambda event: event["event_id"])
    assert len(stored) == len(sent) == 200
    for row, event in zip(stored, sent, strict=True):
        expected = dict.fromkeys(floor.COLUMNS) | event
        expected["event_time"] = datetime.fromisoformat(event["event_time"])
        assert {
            name: str(value) if name == "event_id" else value for name, value in zip(floor.COLUMNS, row, strict=True)
        } == (expected)


def test_a_turn_of_the_floor(database_url, session, this):
    turn = Floor(database_url, session).run(this)
    assert turn.is_complete
    assert turn.sent == (PLAN.warmup + PLAN.requests) * PLAN.batch == 180
    assert turn.events == 100
    assert turn.wal_bytes is not None
    assert turn.wal_bytes > 100 * 100
    assert session.stored("floor.usage_events") == (0, 0)


# --- the documents' stack -------------------------------------------------------------------------------------------------


async def ask(url: str, content: bytes, **headers: str) -> Answer:
    connection = Connection(url)
    try:
        return await connection.post(PATH, content, {"Content-Type": "application/json", **headers})
    finally:
        connection.close()


@pytest.mark.parametrize("insert", documents_stack.INSERTS)
async def test_the_documents_stack(database_url, insert):
    body = Bodies(17, 300).make(0, datetime.now(UTC)).content
    with programs.service(database_url, module="benchmarks.documents_stack", environment={"STACK_INSERT": insert}) as running:
        connection = Connection(running.url)
        assert json.loads((await connection.get("/healthz")).content) == {"status": "healthy", "database": True}
        connection.close()
        answers = [json.loads((await ask(running.url, body, **{"Content-Encoding": "gzip"})).content) for _ in range(2)]
        assert answers == [
            {"received": 300, "accepted": 300, "duplicates": 0},
            {"received": 300, "accepted": 0, "duplicates": 300},
        ]
        assert json.loads((await ask(running.url, b"[]")).content)["received"] == 0
        many = msgspec.json.encode([wire_event()] * 1001)
        assert (await ask(running.url, many)).status == 413
        refused = [
            wire_event(total_tokens=-1),
            wire_event(status_code="200"),
            wire_event(team=""),
            wire_event(event_time="2025-01-01T00:00:00"),
            wire_event(event_time="2005-01-01T00:00:00Z"),
            wire_event(model=...),
        ]
        for event in refused:
            assert (await ask(running.url, msgspec.json.encode([wire_event(), event]))).status == 422
        for content in (b"", b"no gzip", gzip.compress(b"[]")[:-4]):
            assert (await ask(running.url, content, **{"Content-Encoding": "gzip"})).status == 400
    assert servers.query(
        database_url, "SELECT count(*), sum(total_tokens), count(extra), count(prompt) FROM documents_stack.usage_events"
    ) == [
        (
            300,
            sum(event["total_tokens"] for event in msgspec.json.decode(gzip.decompress(body))),
            sum("extra" in event for event in msgspec.json.decode(gzip.decompress(body))),
            sum("prompt" in event for event in msgspec.json.decode(gzip.decompress(body))),
        )
    ]


def test_the_documents_stack_has_the_columns_and_indexes_of_the_service_and_a_key(database_url):
    with programs.service(database_url, module="benchmarks.documents_stack"):
        assert servers.query(database_url, SHAPE, "documents_stack") == servers.query(database_url, SHAPE, "analytics")
        hypertable = has_hypertable(database_url, "documents_stack")
        key = "btree (event_id, event_time)" if hypertable else "btree (event_id)"
        ours = servers.query(database_url, INDEXES, "analytics")
        assert servers.query(database_url, INDEXES, "documents_stack") == [*ours, (key, True)]


# --- turns over HTTP ------------------------------------------------------------------------------------------------------


def test_a_turn_of_the_service(database_url, session, this):
    with programs.service(database_url) as running:
        turn = Program("ours", running, Tables(session, "analytics.usage_events", "analytics.usage_event_ids")).run(this)
    assert turn.is_complete
    assert (turn.sent, turn.events, turn.ids) == (180, 100, 180)
    assert turn.program_cpu_seconds is not None
    assert turn.wal_bytes is not None
    assert turn.wal_bytes > 100 * 100
    assert session.stored("analytics.usage_events") == (0, 0)
    assert servers.query(database_url, "SELECT count(*) FROM analytics.usage_event_ids") == [(0,)]


def test_a_turn_of_a_share(database_url, session, this):
    with programs.service(database_url) as running:
        storage = Tables(session, "analytics.usage_events", "analytics.usage_event_ids")
        turn = Program("ours", running, storage, share=0.4).run(this)
    assert turn.is_complete
    assert (turn.sent, turn.events) == (120, 40)


def test_a_writer_that_does_nothing(database_url, this):
    with programs.service(database_url, module="benchmarks.idle_service") as running:
        turn = Program("idle", running, Nowhere()).run(this)
    assert turn.is_complete
    assert (turn.sent, turn.stored) == (180, None)
    assert servers.query(database_url, "SELECT count(*) FROM analytics.usage_events") == [(0,)]


def test_a_request_that_is_not_taken_ends_it(database_url):
    with programs.service(database_url) as running, pytest.raises(BenchmarkError, match=r"not taken: 400 .*unreadable_body"):
        post(Endpoint(running.url, PATH, HEADERS), [zlib_ng.compress(b"[", 1, 31)], [], 1, Meter(), 1)


# --- PostgreSQL -----------------------------------------------------------------------------------------------------------


def test_what_a_session_costs_can_be_seen(database_url, session):
    before: Costs = session.costs()
    with servers.connected(database_url) as other:
        other.execute("CREATE TABLE t AS SELECT k, md5(k::text) FROM generate_series(1, 100000) AS k")
        after = session.costs()
    assert before.wal_bytes is not None
    assert after.wal_bytes is not None
    assert after.wal_bytes - before.wal_bytes > 100_000 * 32
    assert after.cpu_seconds is None or after.cpu_seconds > 0.01


# --- peers ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[peers.influxdb, peers.clickhouse], ids=["influxdb", "clickhouse"])
def peer(request) -> Iterator[Peer]:
    with ExitStack() as stack:
        try:
            running = stack.enter_context(request.param())
        except PeerUnavailable as reason:
            pytest.skip(str(reason))
        yield running


TRICKY: list[dict[str, Any]] = [
    {"prompt": 'two\nlines, "quotes", a\\b, \\', "extra": {"a": ['"', "\\"], "b": {"c": 1.5}}},
    {"prompt": "Zürich 🚀", "team": "a b,c=d", "model": "ü", "user_id": 'u"1', "error_type": "x y"},
    {"total_tokens": 2**31 - 1, "latency_ms": 0, "status_code": 599},
]


async def test_a_peer_holds_what_the_events_hold(peer):
    peer.empty()
    sent = sorted(
        (wire_event(event_time=f"2025-11-24T12:00:0{k}.12345{k}Z", **fields) for k, fields in enumerate(TRICKY)),
        key=lambda event: str(event["event_time"]),
    )
    body = zlib_ng.compress(peer.encode(msgspec.json.encode(sent), 7), 1, 31)
    connection = Connection(peer.url)
    try:
        answer = await connection.post(peer.path, body, peer.headers)
    finally:
        connection.close()
    assert answer.status == peer.ok_status, answer.content
    assert peer.stored() == 3
    stored = in_influxdb(peer) if peer.name == "InfluxDB" else in_clickhouse(peer)
    for row, event in zip(stored, sent, strict=True):
        extra = row.pop("extra")
        assert (None if extra is None else json.loads(extra)) == event.pop("extra", None)
        assert row == dict.fromkeys(row) | event


def in_influxdb(peer: Peer) -> list[dict[str, Any]]:
    """The events as they were sent, in order of time."""
    answer = httpx.get(f"{peer.url}/query", params={"q": "SELECT * FROM usage_events", "db": peers.DATABASE, "epoch": "ns"})
    [series] = answer.json()["results"][0]["series"]
    rows = [dict(zip(series["columns"], values, strict=True)) for values in series["values"]]
    for row in rows:
        time_ns = row.pop("time")
        assert time_ns % 1000 == 7
        row["event_time"] = wire_time(time_ns // 1000)
    return rows


def in_clickhouse(peer: Peer) -> list[dict[str, Any]]:
    """The events as they were sent, in order of time."""
    query = "SELECT *, toUnixTimestamp(event_time) AS second FROM benchmark.usage_events ORDER BY event_time FORMAT JSON"
    rows: list[dict[str, Any]] = httpx.post(peer.url, content=query).json()["data"]
    for row in rows:
        del row["created_at"]
        row["event_time"] = wire_time(row.pop("second") * 1_000_000 + row.pop("event_microsecond"))
    return rows


def wire_time(microseconds: int) -> str:
    return (EPOCH + microseconds * MICROSECOND).isoformat().replace("+00:00", "Z")


def test_a_turn_of_a_peer(peer, this):
    turn = Database(peer).run(this)
    assert turn.is_complete
    assert (turn.sent, turn.stored, turn.events) == (180, 180, 100)
    assert turn.program_cpu_seconds is not None
    assert peer.stored() == 0


def test_a_peer_that_is_not_installed_says_so(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda program, path: None)
    with pytest.raises(PeerUnavailable, match="influxd is not installed"), peers.influxdb():
        pass


def test_a_peer_that_does_not_start_says_why(monkeypatch, tmp_path):
    broken = tmp_path / "influxd"
    broken.write_text("#!/bin/sh\necho no luck >&2; exit 3\n")
    broken.chmod(0o700)
    monkeypatch.setattr(shutil, "which", lambda program, path: str(broken))
    with pytest.raises(PeerUnavailable, match="influxd does not start: no luck"), peers.influxdb():
        pass
