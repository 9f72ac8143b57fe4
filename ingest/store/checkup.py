"""What `ingest doctor` looks at in the database: every check, not only the first that fails. It changes nothing."""

import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from ingest import errors
from ingest.settings import DatabaseUrl, Settings
from ingest.store import files, libpq, policies
from ingest.store.checkup_server import Check, Verdict, server_checks
from ingest.store.editions import Edition

STATEMENT_TIMEOUT_SECONDS = 10
OVERDUE = timedelta(hours=1)
"""A job that should have run so long ago has nobody who runs it."""


def database_checks(url: DatabaseUrl, chosen: Settings, *, workers: int) -> Iterator[Check]:
    """Asks the database everything, in a read-only transaction, and writes a little in one that it rolls back. A problem that
    stops the rest is the last check.

    workers: processes that serve, each with DB_POOL_SIZE connections.
    """
    try:
        with policies.connected(url, "Run `ingest migrate` as the owner.") as connection:
            began = time.perf_counter()
            mine = _process_id(connection)
            seconds = time.perf_counter() - began
            pooler = _pooler(url, connection, mine)
            with connection.transaction():
                connection.execute("SET TRANSACTION READ ONLY")
                connection.execute(f"SET LOCAL statement_timeout = '{STATEMENT_TIMEOUT_SECONDS}s'".encode())
                server = connection.execute(files.sql("doctor/server").encode()).fetchone()
                assert server is not None
                yield Check(
                    Verdict.OK, "database", f"{url} answers in {seconds * 1000:.0f} ms, as user {server['user_name']}."
                )
                yield pooler
                yield from server_checks(server, chosen, workers=workers, now=datetime.now(UTC))
                if server["extension_version"] is None or server["preloads"]:
                    yield from _schema_checks(connection, server, chosen)
            if not (server["is_standby"] or server["is_read_only"]):
                yield _disk(connection)
    except errors.IngestError as error:
        yield Check(Verdict.PROBLEM, "database", str(error))
    except psycopg.Error as error:
        words = libpq.one_line(error) if error.diag.message_primary else f"{type(error).__name__}."
        yield Check(Verdict.PROBLEM, "database", f"It answers what nobody expects: {words} The rest is not looked at.")


def _process_id(connection: policies.Connection) -> int:
    row = connection.execute("SELECT pg_backend_pid() AS pid").fetchone()
    assert row is not None
    return int(row["pid"])


def _pooler(url: DatabaseUrl, connection: policies.Connection, mine: int) -> Check:
    """A pooler in transaction mode gives the server process that `connection` just had to the next who asks, and while that
    one is in a transaction another process to `connection`."""
    with policies.connected(url) as other, other.transaction():
        shared = _process_id(other) == mine or _process_id(connection) != mine
    if shared:
        return Check(
            Verdict.PROBLEM,
            "pooler",
            "Before PostgreSQL stands a connection pooler in transaction mode, which drops the staging tables: connect to "
            "PostgreSQL itself, or set the pooler to session mode.",
        )
    return Check(Verdict.OK, "pooler", "None, or one that leaves us our sessions.")


def _disk(connection: policies.Connection) -> Check:
    try:
        with connection.transaction(force_rollback=True):
            connection.execute(files.sql("doctor/write").encode())
    except psycopg.errors.DiskFull as error:
        return Check(
            Verdict.PROBLEM, "disk", f"{libpq.one_line(error)} Nothing can be stored: free disk space at the database server."
        )
    except psycopg.errors.InsufficientPrivilege:
        return Check(Verdict.NOTE, "disk", "This user may make no temporary table, so it was not tried whether it has room.")
    return Check(Verdict.OK, "disk", "The server has room for at least 1 MiB.")


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
    yield from _policy_checks(connection, server, Edition(row["recorded"]), chosen)
    if server["may_read_keys"]:
        yield _keys(connection, chosen)


def _keys(connection: policies.Connection, chosen: Settings) -> Check:
    if chosen.auth_required is False:
        return Check(Verdict.OK, "keys", "None is needed, says AUTH_REQUIRED: whoever reaches the service may send.")
    row = connection.execute(files.sql("keys/any").encode()).fetchone()
    if row is not None and row["exists"]:
        return Check(Verdict.OK, "keys", "There is an API key that may send.")
    if chosen.auth_required:
        return Check(Verdict.PROBLEM, "keys", "AUTH_REQUIRED is true, and no key may send: `ingest keys create --name …`.")
    return Check(
        Verdict.NOTE, "keys", "No key may send. Who serves beyond this machine needs one: `ingest keys create --name …`."
    )


def _policy_checks(
    connection: policies.Connection, server: dict[str, Any], edition: Edition, chosen: Settings
) -> Iterator[Check]:
    try:
        with connection.transaction():
            pending = policies.plan_of(connection, chosen.policy_settings).pending
            jobs = [job for job in policies.jobs(connection, edition) if job["policy"] is not None]
    except psycopg.errors.InsufficientPrivilege:
        yield Check(Verdict.NOTE, "policies", f"{server['user_name']} may not see them: run this as the owner or the reader.")
        return
    if pending:
        yield Check(
            Verdict.WARNING,
            "policies",
            f"Not as the settings say: {', '.join(policy.policy for policy in pending)}. Look at `ingest policies plan`, "
            "and run `ingest policies apply`.",
        )
    yield from job_checks(jobs, edition, now=server["server_now"])


def job_checks(jobs: Sequence[Mapping[str, Any]], edition: Edition, *, now: datetime) -> Iterator[Check]:
    """Every check of the rows of `status/jobs.*.sql`. now: the server's time."""
    runner = "the scheduler of TimescaleDB" if edition is Edition.TIMESCALEDB else "`ingest maintain` or the owner's service"
    waiting = []
    for job in jobs:
        if job["last_result"] == "failed":
            reason = (job["last_error"] or "for a reason that is not known").partition("\n")[0]
            yield Check(Verdict.PROBLEM, "policies", f"{job['policy']} failed: {reason}. See `ingest policies status`.")
        elif not job["scheduled"]:
            yield Check(Verdict.WARNING, "policies", f"{job['policy']} is paused: schedule it again if that was not meant.")
        elif not job["runs"] or (job["next_start"] and job["next_start"] < now - OVERDUE):
            waiting.append(job["policy"])
    if waiting:
        yield Check(Verdict.WARNING, "policies", f"Due and not run by anybody: {', '.join(waiting)}. Have {runner} run.")
    elif jobs and all(job["last_result"] != "failed" and job["scheduled"] for job in jobs):
        last = min(jobs, key=lambda job: job["last_run_started_at"])
        yield Check(
            Verdict.OK,
            "policies",
            f"All {len(jobs)} ran; longest ago {last['policy']}, at {last['last_run_started_at']:%Y-%m-%d %H:%M} UTC.",
        )
