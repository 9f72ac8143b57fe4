"""Migrations: twice, from many starters, after a kill in the middle, and on a database that is not ours to touch."""

import asyncio
import os
import subprocess
import time
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest

from ingest import errors
from ingest.settings import DatabaseUrl
from ingest.store import files, migrate
from ingest.store.database import Database
from tests import servers
from tests.service import command, environment

STARTERS = 8

CATALOG = """
    SELECT c.relname, c.relkind::text, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull
    FROM pg_class c LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND c.relkind IN ('r', 'p')
    WHERE c.relnamespace = 'analytics'::regnamespace ORDER BY 1, 3
"""


def applied(url: DatabaseUrl) -> list[str]:
    return [str(name) for (name,) in servers.query(url, "SELECT migration_id FROM analytics._yoyo_migration ORDER BY 1")]


async def opened(url: DatabaseUrl) -> Database:
    database = Database(url, connections_max=2, timeout_seconds=10, queue_timeout_seconds=5)
    await database.open()
    return database


def test_running_twice_changes_nothing(empty_database: DatabaseUrl) -> None:
    assert migrate.migrate(empty_database, chunk_interval_hours=24) == files.migration_names()
    catalog = servers.query(empty_database, CATALOG)

    assert migrate.migrate(empty_database, chunk_interval_hours=24) == []

    assert servers.query(empty_database, CATALOG) == catalog


async def test_any_name_of_a_database_will_do(server: servers.Server) -> None:
    name = f"ingest test {os.getpid()} % é"
    servers.execute(server.admin, f'CREATE DATABASE "{name}"')
    try:
        url = server.url_of(quote(name))
        await asyncio.to_thread(migrate.migrate, url, chunk_interval_hours=24)
        assert applied(url) == files.migration_names()
        database = await opened(url)
        await database.close()
        assert database.problem is None
    finally:
        servers.execute(server.admin, f'DROP DATABASE "{name}" WITH (FORCE)')


def test_every_migration_can_run_again_as_plain_sql(database_url: DatabaseUrl, owner_url: DatabaseUrl) -> None:
    """yoyo may run one twice: it marks a migration as applied in another transaction than the migration's own."""
    catalog = servers.query(database_url, CATALOG)

    for name in files.migration_names():
        servers.execute(
            owner_url,
            (files.migrations() / f"{name}.sql").read_text(),
        )

    assert servers.query(database_url, CATALOG) == catalog


def test_eight_starters_at_once_do_the_work_once(empty_database: DatabaseUrl, tmp_path: Path) -> None:
    settings = environment({"DB_URL": empty_database.reveal()})

    running = [
        subprocess.Popen(
            command("migrate"), env=settings, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(STARTERS)
    ]
    outputs = [process.communicate(timeout=120) for process in running]

    assert [process.returncode for process in running] == [0] * STARTERS, outputs
    said = sorted(output.strip().splitlines()[-1] for output, _ in outputs)
    assert said == [f"{len(files.migration_names())} migrations applied.", *["The schema is up to date."] * (STARTERS - 1)]
    assert applied(empty_database) == files.migration_names()


def test_a_run_killed_in_the_middle_is_finished_by_the_next(empty_database: DatabaseUrl, tmp_path: Path) -> None:
    migrate.migrate(empty_database, chunk_interval_hours=24)
    newest = files.migration_names()[-1]
    servers.execute(empty_database, f"DELETE FROM analytics._yoyo_migration WHERE migration_id = '{newest}'")
    with psycopg.connect(empty_database.reveal()) as in_the_way:
        # yoyo has to wait for this lock half through: the migration is applied, and not marked as applied.
        in_the_way.execute("LOCK TABLE analytics._yoyo_migration IN SHARE MODE")
        process = subprocess.Popen(command("migrate"), env=environment({"DB_URL": empty_database.reveal()}), cwd=tmp_path)
        _await(
            empty_database,
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()",
        )
        process.kill()
        process.wait()
    assert servers.query(empty_database, "SELECT count(*) FROM analytics.yoyo_lock") == [(1,)], "the killed run's lock row"

    assert migrate.migrate(empty_database, chunk_interval_hours=24) == [newest]

    assert applied(empty_database) == files.migration_names()


async def test_a_newer_schema_is_refused(
    database_url: DatabaseUrl, owner_url: DatabaseUrl, writer_url: DatabaseUrl, tmp_path: Path
) -> None:
    servers.execute(
        database_url,
        "INSERT INTO analytics._yoyo_migration (migration_hash, migration_id, applied_at_utc)"
        " VALUES ('x', '9999.from-the-future', now())",
    )

    with pytest.raises(errors.SchemaTooNew, match=r"9999\.from-the-future.*Run the newer release"):
        await opened(writer_url)
    with pytest.raises(errors.SchemaTooNew):
        migrate.migrate(owner_url, chunk_interval_hours=24)

    for what, url in ((("serve", "--port", "0"), writer_url), (("migrate",), owner_url)):
        done = subprocess.run(
            command(*what), env=environment({"DB_URL": url.reveal()}), cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1].startswith("ingest: The database's schema is newer than this program")


async def test_another_edition_than_recorded_is_refused(database_url: DatabaseUrl, writer_url: DatabaseUrl) -> None:
    [(edition,)] = servers.query(database_url, "SELECT edition FROM analytics.installation")
    other = "postgresql" if edition != "postgresql" else "timescaledb"
    servers.execute(database_url, f"UPDATE analytics.installation SET edition = '{other}'")

    with pytest.raises(errors.EditionChanged, match=f"set up as {other} and answers as {edition}"):
        await opened(writer_url)


async def test_a_schema_that_is_behind_is_waited_for(empty_database: DatabaseUrl) -> None:
    database = await opened(empty_database)
    try:
        with pytest.raises(errors.NotReady) as refused:
            database.check_ready()
        assert isinstance(refused.value.__cause__, errors.SchemaBehind)

        migrate.migrate(empty_database, chunk_interval_hours=24)

        async with asyncio.timeout(10):
            while database.problem is not None:
                await asyncio.sleep(0.05)
        assert database.check_ready().server_version
    finally:
        await database.close()


def test_the_chunk_interval_follows_the_setting(database_url: DatabaseUrl, owner_url: DatabaseUrl) -> None:
    if servers.query(database_url, "SELECT edition FROM analytics.installation") == [("postgresql",)]:
        pytest.skip("native partitions take the interval when they are made")

    migrate.migrate(owner_url, chunk_interval_hours=6)

    intervals = servers.query(
        database_url,
        "SELECT DISTINCT time_interval::text FROM timescaledb_information.dimensions WHERE hypertable_schema = 'analytics'",
    )
    assert intervals == [("06:00:00",)]


def test_a_user_who_may_not_create_is_told_so(server: servers.Server, empty_database: DatabaseUrl) -> None:
    name = empty_database.reveal().partition("?")[0].rpartition("/")[2]
    role = f"{name}_nobody"
    servers.execute(empty_database, f"CREATE ROLE {role} LOGIN")
    try:
        head, _, tail = empty_database.reveal().partition("://")
        url = DatabaseUrl(f"{head}://{role}@{tail.partition('@')[2]}")
        with pytest.raises(errors.DatabaseRefused, match="permission denied"):
            migrate.migrate(url, chunk_interval_hours=24)
    finally:
        servers.execute(empty_database, f"DROP ROLE {role}")


def _await(url: DatabaseUrl, count_query: str) -> None:
    deadline = time.monotonic() + 30
    while servers.query(url, count_query) == [(0,)]:
        assert time.monotonic() < deadline, f"never true: {count_query}"
        time.sleep(0.05)
