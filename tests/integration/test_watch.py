"""The watch over the database: who asks in vain wakes it, and it looks once a second while something is wrong."""

import asyncio
from contextlib import AsyncExitStack
from typing import NoReturn
from unittest.mock import AsyncMock

import asyncpg
import pytest

from ingest import errors
from ingest.settings import DatabaseUrl
from ingest.store import editions
from ingest.store.database import WATCH_SECONDS, Database
from tests import servers
from tests.servers import Roles

NOTICED_SECONDS_MAX = 5
WATCHED_SECONDS = 2.5


async def test_a_database_that_refuses_us_is_asked_once_a_second(
    database: Database, database_url: DatabaseUrl, roles: Roles, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0

    async def refuse(_: object) -> editions.Facts:
        nonlocal looks
        looks += 1
        raise errors.DatabaseRefused("The database refuses us.")

    monkeypatch.setattr(editions, "inspect", refuse)
    writer = f'"{roles.writer}"'
    servers.execute(database_url, f"ALTER ROLE {writer} NOLOGIN")
    try:
        terminate = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{roles.writer}'"
        servers.execute(database_url, terminate)

        assert not await database.ping()

        async with asyncio.timeout(NOTICED_SECONDS_MAX):
            while database.problem is None:
                await asyncio.sleep(0.01)
    finally:
        servers.execute(database_url, f"ALTER ROLE {writer} LOGIN")
    await asyncio.sleep(WATCHED_SECONDS)
    assert 1 <= looks <= WATCHED_SECONDS / WATCH_SECONDS + 1


async def take_all(database: Database) -> NoReturn:
    """Takes connections until there is none."""
    async with AsyncExitStack() as stack:
        while True:
            await stack.enter_async_context(database.connection())


async def test_a_database_that_can_not_be_connected_to_is_not_taken_for_a_busy_one(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(_: object) -> None:
        await asyncio.sleep(60)

    monkeypatch.setattr(database, "_queue_timeout_seconds", 0.2)
    monkeypatch.setattr(asyncpg.Pool, "_get_new_connection", hang)
    monkeypatch.setattr(database, "_look", looked := AsyncMock())
    with pytest.raises(errors.DatabaseAway, match="No connection"):
        await take_all(database)  # those that there are already can be had

    async with asyncio.timeout(NOTICED_SECONDS_MAX):
        while not looked.await_count:
            await asyncio.sleep(0.01)


async def test_who_finds_all_connections_in_use_is_told_so(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_queue_timeout_seconds", 0.2)
    with pytest.raises(errors.QueueFull, match="DB_POOL_SIZE"):
        await take_all(database)
    assert database.problem is None
