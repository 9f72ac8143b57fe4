"""`ingest doctor` on real databases, and that errors of the database say what to do."""

import json
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from ingest import errors
from ingest.settings import DatabaseUrl, Settings
from ingest.store import checkup, failures, policies
from ingest.store.checkup import Check, Verdict
from tests import servers
from tests.servers import Server

HEALTHY = {
    "version_number": 170000,
    "version": "17.0",
    "server_now": datetime(2026, 1, 1, tzinfo=UTC),
    "user_name": "writer",
    "is_standby": False,
    "is_read_only": False,
    "extension_version": "2.28.3",
    "library_version": "2.28.3",
    "license": "timescale",
    "fsync": True,
    "full_page_writes": True,
    "connections_max": 97,
    "worker_processes_max": 32,
    "background_workers_max": 16,
    "is_superuser": False,
    "is_owner": False,
    "may_write": True,
}


def checks(**differences: object) -> list[Check]:
    row = {**HEALTHY, **differences}
    return list(checkup.server_checks(row, Settings(), workers=1, now=datetime(2026, 1, 1, tzinfo=UTC)))


def test_nothing_is_said_against_a_healthy_server() -> None:
    assert {check.verdict for check in checks()} == {Verdict.OK}


@pytest.mark.parametrize(
    ("differences", "verdict", "name"),
    [
        ({"version_number": 130010, "version": "13.10"}, Verdict.PROBLEM, "server"),
        ({"extension_version": "2.18.0"}, Verdict.PROBLEM, "timescaledb"),
        ({"library_version": None}, Verdict.PROBLEM, "timescaledb"),
        ({"is_standby": True}, Verdict.PROBLEM, "writable"),
        ({"is_read_only": True}, Verdict.PROBLEM, "writable"),
        ({"fsync": False}, Verdict.PROBLEM, "durability"),
        ({"full_page_writes": False}, Verdict.PROBLEM, "durability"),
        ({"is_superuser": True}, Verdict.WARNING, "user"),
        ({"may_write": False}, Verdict.WARNING, "user"),
        ({"connections_max": 11}, Verdict.WARNING, "connections"),
        ({"worker_processes_max": 8}, Verdict.WARNING, "background workers"),
        ({"server_now": datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=3)}, Verdict.WARNING, "clock"),
    ],
)
def test_what_is_wrong_with_a_server_is_said_in_its_line_alone(
    differences: dict[str, object], verdict: Verdict, name: str
) -> None:
    assert [(check.verdict, check.name) for check in checks(**differences) if check.verdict != Verdict.OK] == [
        (verdict, name)
    ]


def run(command: str, folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ingest", *command.split()],
        env=environ,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_schema_and_the_policies_are_judged(database_url: DatabaseUrl, owner_url: DatabaseUrl) -> None:
    def verdicts(name: str) -> set[Verdict]:
        found = checkup.database_checks(owner_url, Settings(), workers=1)
        return {check.verdict for check in found if check.name == name}

    assert verdicts("schema") == {Verdict.OK}
    assert verdicts("edition") == {Verdict.OK}
    assert verdicts("policies") == {Verdict.WARNING}  # none is applied
    policies.apply(owner_url, Settings().policy_settings)
    assert Verdict.PROBLEM not in verdicts("policies")
    servers.execute(database_url, "DELETE FROM analytics._yoyo_migration WHERE migration_id LIKE '0016%'")
    assert verdicts("schema") == {Verdict.PROBLEM}


def test_writer_and_reader_get_all_checks(writer_url: DatabaseUrl, reader_url: DatabaseUrl) -> None:
    for url in (writer_url, reader_url):
        found = {check.name: check for check in checkup.database_checks(url, Settings(), workers=1)}
        assert found["schema"].verdict is Verdict.OK
        assert "policies" in found


def test_invalid_settings_are_a_line_and_show_no_password(tmp_path: Path) -> None:
    done = run("doctor --json --url http://127.0.0.1:1", tmp_path, DB_URL="mysql://u:hunter2@h/x")
    found = {check["name"]: check["verdict"] for check in json.loads(done.stdout)}
    assert (done.returncode, found) == (1, {"program": "ok", "settings": "problem", "service": "note"})
    assert "hunter2" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        ('FATAL:  too many connections for role "writer"', "max_connections"),
        ('FATAL:  permission denied for database "analytics"', "roles.sql as a superuser"),
        ('FATAL:  database "analytics" does not exist', "Correct the database"),
        ('FATAL:  no pg_hba.conf entry for host "h", user "u", database "d"', "pg_hba.conf"),
        ("connection failed: Connection refused", "Start PostgreSQL"),
        ("connection timeout expired", "firewall"),
        ("something new", "ingest doctor"),
    ],
)
def test_words_without_a_sqlstate_lead_to_advice(words: str, advice: str) -> None:
    with pytest.raises(errors.IngestError, match=re.escape(words)) as raised, failures.translated():
        raise psycopg.OperationalError(words)
    assert advice in str(raised.value).replace(words, "")


@servers.ON_ONE
@pytest.mark.parametrize(
    ("database", "user", "advice"),
    [("nowhere", "postgres", "Correct the database"), ("postgres", "nobody_here", "Correct the user")],
)
def test_an_error_is_one_line_with_what_to_do(server: Server, tmp_path: Path, database: str, user: str, advice: str) -> None:
    url = server.url_of(database).reveal().replace("postgres@", f"{user}@", 1)
    for command in ("migrate", "policies plan", "keys list", "serve --port 0"):
        done = run(command, tmp_path, DB_URL=url)
        assert done.returncode == 1
        [line] = done.stderr.splitlines()
        assert line.startswith("ingest: The database refuses us: ")
        assert advice in line
