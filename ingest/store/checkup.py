"""What `ingest doctor` looks at in the database: every check, not only the first that fails. It changes nothing."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import psycopg
from msgspec import Struct

from ingest import errors
from ingest.settings import DatabaseUrl, Settings
from ingest.store import files, policies
from ingest.store.editions import Edition

SERVER_VERSION_MIN = 140000
EXTENSION_VERSION_MIN = (2, 18, 1)
CLOCK_DIFFERENCE_SECONDS_MAX = 2.0
STATEMENT_TIMEOUT_SECONDS = 10


class Verdict(StrEnum):
    """How a check came out."""

    OK = "ok"
    NOTE = "note"
    WARNING = "warning"
    PROBLEM = "problem"


class Check(Struct, frozen=True):
    """A check. `words`: what was seen, and unless all is well why it matters and what to do."""

    verdict: Verdict
    name: str
    words: str


def database_checks(url: DatabaseUrl, chosen: Settings, *, workers: int) -> Iterator[Check]:
    """Asks the database everything, in one read-only transaction. A problem that stops the rest is the last check.

    workers: processes that serve, each with DB_POOL_SIZE connections.
    """
    try:
        with policies.connected(url, "Run `ingest migrate` as the owner.") as connection, connection.transaction():
            connection.execute("SET TRANSACTION READ ONLY")
            connection.execute(f"SET LOCAL statement_timeout = '{STATEMENT_TIMEOUT_SECONDS}s'".encode())
            began = time.perf_counter()
            server = connection.execute(files.sql("doctor/server").encode()).fetchone()
            seconds = time.perf_counter() - began
            assert server is not None
            yield Check(Verdict.OK, "database", f"{url} answers in {seconds * 1000:.0f} ms, as user {server['user_name']}.")
            yield from server_checks(server, chosen, workers=workers, now=datetime.now(UTC))
            yield from _schema_checks(connection, server, chosen)
    except errors.IngestError as error:
        yield Check(Verdict.PROBLEM, "database", str(error))


def server_checks(server: dict[str, Any], chosen: Settings, *, workers: int, now: datetime) -> Iterator[Check]:
    """What follows from the row of `doctor/server` alone."""
    if server["version_number"] < SERVER_VERSION_MIN:
        yield Check(
            Verdict.PROBLEM, "server", f"PostgreSQL {server['version']} is too old: upgrade the server to 14 or newer."
        )
    else:
        yield Check(Verdict.OK, "server", f"PostgreSQL {server['version']}.")
    yield _extension(server)
    if server["is_standby"] or server["is_read_only"]:
        why = "is a standby" if server["is_standby"] else "has default_transaction_read_only on"
        yield Check(
            Verdict.PROBLEM,
            "writable",
            f"The server {why}: nothing can be stored. Name the primary in DB_URL, or switch it off.",
        )
    else:
        yield Check(Verdict.OK, "writable", "The server takes writes.")
    off = [name for name in ("fsync", "full_page_writes") if not server[name]]
    if off:
        yield Check(
            Verdict.PROBLEM,
            "durability",
            f"{' and '.join(off)} off: acknowledged events may be lost in a crash. Switch on in postgresql.conf.",
        )
    else:
        # The writer switches synchronous_commit on for itself (load/session.sql).
        yield Check(Verdict.OK, "durability", "fsync and full_page_writes are on; the service commits synchronously.")
    if server["is_superuser"]:
        yield Check(
            Verdict.WARNING, "user", f"{server['user_name']} is a superuser. Run sql/roles.sql, and serve as ingest_writer."
        )
    else:
        duty = "owner" if server["is_owner"] else "writer" if server["may_write"] else None
        if duty:
            yield Check(Verdict.OK, "user", f"{server['user_name']} has the rights of the {duty}.")
        else:
            yield Check(
                Verdict.WARNING,
                "user",
                f"{server['user_name']} may store nothing. To serve, name the writer of sql/roles.sql in DB_URL.",
            )
    # Each process has its pool, the watch's connection and the maintenance's.
    wanted = workers * (chosen.db_pool_connections + 2)
    if wanted > server["connections_max"]:
        yield Check(
            Verdict.WARNING,
            "connections",
            f"The service may open {wanted}, the server allows {server['connections_max']}: raise max_connections, or lower "
            "DB_POOL_SIZE or the workers.",
        )
    else:
        yield Check(Verdict.OK, "connections", f"The service may open {wanted} of {server['connections_max']}.")
    if server["background_workers_max"] is not None and server["worker_processes_max"] < server["background_workers_max"]:
        yield Check(
            Verdict.WARNING,
            "background workers",
            f"max_worker_processes is {server['worker_processes_max']}, timescaledb.max_background_workers "
            f"{server['background_workers_max']}: jobs may fail to start. Raise the first above the second.",
        )
    difference = abs((server["server_now"] - now).total_seconds())
    if difference > CLOCK_DIFFERENCE_SECONDS_MAX:
        yield Check(
            Verdict.WARNING,
            "clock",
            f"This machine and the server differ by {difference:.0f} s, and event_time is judged here: use NTP on both.",
        )
    else:
        yield Check(Verdict.OK, "clock", "This machine and the server agree on the time.")


def _extension(server: dict[str, Any]) -> Check:
    version, library = server["extension_version"], server["library_version"]
    if version is None:
        return Check(Verdict.OK, "timescaledb", "Not in this database: plain PostgreSQL.")
    if library is None:
        return Check(
            Verdict.PROBLEM,
            "timescaledb",
            f"This database has TimescaleDB {version}, the server no longer: install that version on the server again.",
        )
    if tuple(int(part) for part in version.split("-")[0].split(".")) < EXTENSION_VERSION_MIN:
        return Check(
            Verdict.PROBLEM,
            "timescaledb",
            f"TimescaleDB {version} loses rows: ALTER EXTENSION timescaledb UPDATE; 2.18.1 is needed.",
        )
    return Check(Verdict.OK, "timescaledb", f"TimescaleDB {version}, license {server['license']}.")


def _schema_checks(connection: policies.Connection, server: dict[str, Any], chosen: Settings) -> Iterator[Check]:
    if server["has_migrations"] and not server["may_read"]:
        yield Check(
            Verdict.PROBLEM,
            "schema",
            f"{server['user_name']} may not read it. Run `ingest migrate` as the owner, who opens it.",
        )
        return
    known = set(files.migration_names())
    applied: set[str] = set()
    if server["has_migrations"]:
        rows = connection.execute(files.sql("state/applied_migrations").encode()).fetchall()
        applied = {row["migration_id"] for row in rows}
    if applied - known:
        yield Check(
            Verdict.PROBLEM, "schema", f"It is newer than this program ({max(applied - known)}): run the newer release."
        )
        return
    if known - applied:
        yield Check(
            Verdict.PROBLEM, "schema", f"{len(known - applied)} of {len(known)} migrations are missing. Run `ingest migrate`."
        )
        return
    yield Check(Verdict.OK, "schema", f"All {len(known)} migrations are applied.")
    row = connection.execute(files.sql("state/edition").encode()).fetchone()
    assert row is not None
    if row["recorded"] != row["detected"]:
        yield Check(
            Verdict.PROBLEM,
            "edition",
            f"The database was set up as {row['recorded']} and answers as {row['detected']}: bring the former back.",
        )
        return
    yield Check(Verdict.OK, "edition", row["recorded"])
    yield from _policy_checks(connection, server, Edition(row["recorded"]))
    if chosen.auth_required and server["may_read_keys"]:
        if connection.execute(files.sql("keys/any").encode()).fetchone()["exists"]:  # type: ignore[index]
            yield Check(Verdict.OK, "keys", "There is an API key that may send.")
        else:
            yield Check(Verdict.PROBLEM, "keys", "AUTH_REQUIRED is true, and no key may send: `ingest keys create --name …`.")


def _policy_checks(connection: policies.Connection, server: dict[str, Any], edition: Edition) -> Iterator[Check]:
    if not server["may_read_jobs"]:
        yield Check(Verdict.NOTE, "policies", f"{server['user_name']} may not see them: run this as the owner or the reader.")
        return
    try:
        with connection.transaction():
            jobs = policies.jobs(connection, edition)
    except psycopg.errors.InsufficientPrivilege:
        yield Check(Verdict.NOTE, "policies", f"{server['user_name']} may not see them: run this as the owner or the reader.")
        return
    there = {job["policy"] for job in jobs}
    missing = [file.policy for file in policies.newest_files(edition) if file.policy not in there]
    if missing:
        yield Check(Verdict.WARNING, "policies", f"Not applied: {', '.join(missing)}. Run `ingest policies apply`.")
    for job in jobs:
        if job["policy"] is None:
            continue
        if job["last_result"] == "failed":
            yield Check(
                Verdict.PROBLEM, "policies", f"{job['policy']} failed: {job['last_error']}. See `ingest policies status`."
            )
        elif not job["scheduled"]:
            yield Check(Verdict.WARNING, "policies", f"{job['policy']} is paused: schedule it again if that was not meant.")
        elif not job["runs"]:
            how = (
                "wait for its first run"
                if edition is Edition.TIMESCALEDB
                else "have `ingest maintain` or the owner's service run"
            )
            yield Check(Verdict.WARNING, "policies", f"{job['policy']} never ran: {how}.")
        else:
            yield Check(
                Verdict.OK, "policies", f"{job['policy']} last ran at {job['last_run_started_at']:%Y-%m-%d %H:%M} UTC."
            )
