"""Sessions whose connection is gone here: those that wait for us are ended, those that don't are left alone. And connections
that are not used any more are closed."""

import asyncio
import logging
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import asyncpg
import pytest
from msgspec.structs import replace

from ingest import errors
from ingest.settings import DatabaseUrl
from ingest.store import sessions
from ingest.store.database import Database, for_asyncpg, prepare
from ingest.store.sessions import LostSessions
from tests import servers

SECONDS_MAX = 10
STILL_SECONDS = 0.7
"""A pooler's session that was given up has done nothing for longer than half a second before."""


@asynccontextmanager
async def connected(url: DatabaseUrl) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(for_asyncpg(url))
    try:
        yield connection
    finally:
        connection.terminate()


def await_true(url: DatabaseUrl, statement: str, *arguments: object) -> None:
    deadline = time.monotonic() + SECONDS_MAX
    while not servers.query(url, statement, *arguments)[0][0]:
        assert time.monotonic() < deadline, servers.query(url, "SELECT pid, state, wait_event, query FROM pg_stat_activity")
        time.sleep(0.02)


async def nothing() -> AsyncIterator[bytes]:
    """The data of a COPY, which are lost on the way."""
    await asyncio.sleep(60)
    yield b""


async def test_a_copy_whose_data_does_not_come_is_ended_by_its_own_user(
    writer_url: DatabaseUrl, database_url: DatabaseUrl, caplog: pytest.LogCaptureFixture
) -> None:
    lost = LostSessions()
    async with connected(writer_url) as waiting, connected(writer_url) as asking:
        session = await prepare(waiting, timeout_seconds=1)
        copying = asyncio.create_task(waiting.copy_to_table("staged_usage_events", source=nothing(), timeout=60))
        await asyncio.to_thread(
            await_true,
            database_url,
            "SELECT wait_event = 'ClientRead' AND query LIKE 'COPY%%' FROM pg_stat_activity WHERE pid = %s",
            session.pid,
        )
        await asyncio.sleep(1.5)  # its statement_timeout does not end it
        lost.add(session)

        with caplog.at_level(logging.WARNING):
            await lost.end(asking)

        await asyncio.to_thread(
            await_true, database_url, "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = %s", session.pid
        )
        assert not lost
        assert "Ended 1 sessions" in caplog.text
        copying.cancel()
        await asyncio.wait([copying])


@pytest.mark.parametrize("is_pooled", [False, True])
async def test_what_was_claimed_in_a_transaction_is_free_again(
    writer_url: DatabaseUrl, database_url: DatabaseUrl, is_pooled: bool
) -> None:
    lost = LostSessions()
    async with connected(writer_url) as waiting, connected(writer_url) as asking:
        session = await prepare(waiting, timeout_seconds=60)
        await waiting.execute("BEGIN; LOCK TABLE staged_usage_events")
        if is_pooled:
            await asyncio.sleep(STILL_SECONDS)
        lost.add(replace(session, is_pooled=is_pooled))

        await lost.end(asking)

        await asyncio.to_thread(
            await_true, database_url, "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = %s", session.pid
        )
        assert not lost


async def test_a_session_that_works_when_it_is_lost_is_ended_when_it_waits_for_us(
    writer_url: DatabaseUrl, database_url: DatabaseUrl
) -> None:
    lost = LostSessions()
    async with connected(writer_url) as working, connected(writer_url) as asking:
        session = await prepare(working, timeout_seconds=60)
        await working.execute("BEGIN")
        sleeping = asyncio.create_task(working.execute("SELECT pg_sleep(1)"))
        is_at = "SELECT count(*) = 1 FROM pg_stat_activity WHERE pid = %s AND query LIKE '%%sleep%%' AND state = %s"
        await asyncio.to_thread(await_true, database_url, is_at, session.pid, "active")
        lost.add(session)

        await lost.end(asking)

        assert lost
        await asyncio.to_thread(await_true, database_url, is_at, session.pid, "idle in transaction")
        await lost.end(asking)
        await asyncio.to_thread(
            await_true, database_url, "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = %s", session.pid
        )
        assert not lost
        await asyncio.wait([sleeping])


async def test_a_session_that_a_pooler_gave_to_somebody_else_is_left_alone(writer_url: DatabaseUrl) -> None:
    lost = LostSessions()
    async with connected(writer_url) as pooled, connected(writer_url) as asking:
        session = await prepare(pooled, timeout_seconds=60)
        lost.add(replace(session, is_pooled=True))
        await pooled.execute("BEGIN")
        await asyncio.sleep(STILL_SECONDS)

        await lost.end(asking)

        assert lost  # it is at work
        await pooled.execute("COMMIT")
        await lost.end(asking)
        assert not lost
        assert await pooled.fetchval("SELECT 1") == 1


async def test_another_process_with_the_number_of_one_that_is_gone_is_left_alone(writer_url: DatabaseUrl) -> None:
    lost = LostSessions()
    async with connected(writer_url) as other, connected(writer_url) as asking:
        session = await prepare(other, timeout_seconds=60)
        await other.execute("BEGIN")
        await asyncio.sleep(STILL_SECONDS)
        lost.add(replace(session, backend_start=session.backend_start.replace(year=2001)))

        await lost.end(asking)

        assert not lost
        assert await other.fetchval("SELECT 1") == 1


async def test_both_ends_notice_when_the_other_is_gone(writer_url: DatabaseUrl) -> None:
    async with connected(writer_url) as connection:
        await prepare(connection, timeout_seconds=60)
        names = ["tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count", "tcp_user_timeout"]
        shown = [await connection.fetchval("SELECT current_setting($1)", name) for name in names]
        link = connection._transport.get_extra_info("socket")
        if link.family == socket.AF_UNIX:
            assert shown == ["0", "0", "0", "0"]
            return
        assert shown == ["10", "5", "3", "25000"]
        assert link.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert [link.getsockopt(socket.IPPROTO_TCP, getattr(socket, option)) for option in sessions.KEEPALIVE] == [10, 5, 3]


async def test_connections_that_idle_are_closed_while_one_is_still_in_use(
    database: Database, database_url: DatabaseUrl, ours: Callable[[], int]
) -> None:
    async with database.connection() as in_use:
        async with AsyncExitStack() as stack:
            for _ in range(3):
                await stack.enter_async_context(database.connection())
        before = ours()
        with pytest.raises(errors.DatabaseAway):
            async with database.connection():
                raise ConnectionResetError  # whoever loses one, has the others renewed

        deadline = time.monotonic() + SECONDS_MAX
        while ours() > before - 3:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        assert await in_use.fetchval("SELECT 1") == 1


@pytest.fixture
def ours(database_url: DatabaseUrl) -> Callable[[], int]:
    """Counts the sessions of the service's user."""
    statement = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND backend_type = 'client backend' AND usename <> current_user"
    )
    return lambda: int(str(servers.query(database_url, statement)[0][0]))
