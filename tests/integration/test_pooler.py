"""PgBouncer between the service and PostgreSQL: said at the start where it can't work, and no trouble where it can."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import asyncpg
import psycopg
import pytest

from ingest import errors
from ingest.events import USAGE_EVENTS
from ingest.settings import DatabaseUrl, Settings
from ingest.store import checkup
from ingest.store.checkup_server import Verdict
from ingest.store.database import Database, for_asyncpg, prepare
from ingest.store.writer import BatchWriter
from tests import servers
from tests.samples import event
from tests.storing import store


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A folder that another user may read, as pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="ingest-pgbouncer-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


# PgBouncer does not run as root.
UNPRIVILEGED = "nobody" if os.geteuid() == 0 else None


@contextmanager
def pgbouncer(database: DatabaseUrl, pool_mode: str, folder: Path, *settings: str) -> Iterator[DatabaseUrl]:
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("pgbouncer is not installed")
    port = servers.free_port()
    config = folder / "pgbouncer.ini"
    with psycopg.connect(database.reveal()) as direct:
        target = direct.info
        if target.host.startswith("/"):
            pytest.skip("the server listens on a socket in a folder that PgBouncer's user can't enter")
        config.write_text(
            f"""[databases]
pooled = host={target.host} port={target.port} dbname={target.dbname} user={target.user} password={target.password}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = {pool_mode}
"""
            + "\n".join(settings)
        )
        url = DatabaseUrl(f"postgresql://{target.user}@127.0.0.1:{port}/pooled")
    process = subprocess.Popen([program, "-q", config], user=UNPRIVILEGED, cwd="/")
    try:
        deadline = time.monotonic() + 10
        while True:
            try:
                psycopg.connect(url.reveal()).close()
                break
            except psycopg.OperationalError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield url
    finally:
        process.terminate()
        process.wait()


async def test_transaction_mode_is_refused_at_the_start(writer_url: DatabaseUrl, shared_folder: Path) -> None:
    with pgbouncer(writer_url, "transaction", shared_folder) as url:
        database = Database(url, connections_max=4, timeout_seconds=10, queue_timeout_seconds=5)
        with pytest.raises(errors.PoolerUnsupported, match="session mode"):
            await database.open()


@pytest.mark.parametrize(("pool_mode", "verdict"), [("transaction", Verdict.PROBLEM), ("session", Verdict.OK)])
def test_the_doctor_knows_the_mode(writer_url: DatabaseUrl, shared_folder: Path, pool_mode: str, verdict: Verdict) -> None:
    with pgbouncer(writer_url, pool_mode, shared_folder, "ignore_startup_parameters = options") as url:
        found = {check.name: check.verdict for check in checkup.database_checks(url, Settings(), workers=1)}
    assert found["pooler"] is verdict
    assert found["schema"] is Verdict.OK


def test_the_doctor_says_what_a_pooler_does_not_let_pass(writer_url: DatabaseUrl, shared_folder: Path) -> None:
    with pgbouncer(writer_url, "session", shared_folder) as url:
        [check] = checkup.database_checks(url, Settings(), workers=1)
    assert (check.name, check.verdict) == ("database", Verdict.PROBLEM)
    assert "ignore_startup_parameters" in check.words


async def test_session_mode_works(writer_url: DatabaseUrl, shared_folder: Path) -> None:
    with pgbouncer(writer_url, "session", shared_folder) as url:
        database = Database(url, connections_max=4, timeout_seconds=10, queue_timeout_seconds=5)
        await database.open()
        try:
            writer = BatchWriter(database, chunk_interval=timedelta(hours=24))
            assert (await store(writer, USAGE_EVENTS, [event()])).outcomes == {}
        finally:
            await database.close()


async def test_sessions_of_a_pooler_are_known_as_such(writer_url: DatabaseUrl, shared_folder: Path) -> None:
    with pgbouncer(writer_url, "session", shared_folder) as pooled_url:
        for url, is_pooled in ((writer_url, False), (pooled_url, True)):
            connection = await asyncpg.connect(for_asyncpg(url))
            try:
                session = await prepare(connection, timeout_seconds=10)
            finally:
                await connection.close()
            assert session.is_pooled is is_pooled
