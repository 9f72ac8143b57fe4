"""What follows of the server alone, whatever stands in the database: the judgement of the row of `sql/doctor/server.sql`."""

from collections.abc import Iterator
from datetime import datetime
from enum import StrEnum
from typing import Any

from msgspec import Struct

from ingest.settings import Settings

SERVER_VERSION_MIN = 140000
EXTENSION_VERSION_MIN = (2, 18, 1)
CLOCK_DIFFERENCE_SECONDS_MAX = 2.0


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


def server_checks(server: dict[str, Any], chosen: Settings, *, workers: int, now: datetime) -> Iterator[Check]:
    """Every check of the row.

    workers: processes that are to serve. now: this machine's time.
    """
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
    # The whole of it: one statement may take as many as it needs, while the others need few.
    slots = server["lock_slots"]
    if server["relations"] > slots // 2:
        yield Check(
            Verdict.WARNING,
            "locks",
            f"A query over all {server['relations']} tables, chunks and indexes takes that many of the server's {slots} "
            "locks: raise max_locks_per_transaction.",
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
    if not server["preloads"]:
        return Check(
            Verdict.PROBLEM,
            "timescaledb",
            f"This database has TimescaleDB {version}, and the server does not preload it: add timescaledb to "
            "shared_preload_libraries in postgresql.conf, and restart the server.",
        )
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
