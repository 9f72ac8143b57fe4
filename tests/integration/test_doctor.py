"""`ingest doctor` on real databases, and that errors of the database say what to do."""

import asyncio
import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psycopg
import pytest

from ingest import errors
from ingest.cli import doctor
from ingest.flow.api_keys import Scope
from ingest.settings import DatabaseUrl, Settings
from ingest.store import api_keys, checkup, checkup_server, failures, policies
from ingest.store.checkup_server import Check, Verdict
from ingest.store.editions import Edition
from ingest.store.maintenance import Maintenance
from tests import servers
from tests.servers import Server
from tests.service import started

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
    "preloads": True,
    "lock_slots": 6400,
    "relations": 900,
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
    return list(checkup_server.server_checks(row, Settings(), workers=1, now=datetime(2026, 1, 1, tzinfo=UTC)))


def test_nothing_is_said_against_a_healthy_server() -> None:
    assert {check.verdict for check in checks()} == {Verdict.OK}


@pytest.mark.parametrize(
    ("differences", "verdict", "name"),
    [
        ({"version_number": 130010, "version": "13.10"}, Verdict.PROBLEM, "server"),
        ({"extension_version": "2.18.0"}, Verdict.PROBLEM, "timescaledb"),
        ({"preloads": False}, Verdict.PROBLEM, "timescaledb"),
        ({"relations": 3201}, Verdict.WARNING, "locks"),
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


NOW = datetime(2026, 1, 1, tzinfo=UTC)
RAN = {
    "policy": "usage_events.retention",
    "scheduled": True,
    "last_run_started_at": NOW - timedelta(hours=1),
    "last_result": "success",
    "last_error": None,
    "next_start": NOW,
    "runs": 7,
}


@pytest.mark.parametrize(
    ("differences", "verdict", "words"),
    [
        ({}, Verdict.OK, "All 1 ran; longest ago usage_events.retention, at 2025-12-31 23:00 UTC."),
        ({"last_result": "running"}, Verdict.OK, "All 1 ran"),
        ({"next_start": NOW - timedelta(minutes=59)}, Verdict.OK, "All 1 ran"),
        ({"next_start": NOW - timedelta(minutes=61)}, Verdict.WARNING, "not run by anybody: usage_events.retention"),
        ({"runs": 0, "last_result": None, "last_run_started_at": None}, Verdict.WARNING, "not run by anybody"),
        ({"scheduled": False, "next_start": None}, Verdict.WARNING, "usage_events.retention is paused"),
        ({"last_result": "failed", "last_error": "out of it\nat line 3"}, Verdict.PROBLEM, "failed: out of it. See"),
    ],
)
def test_jobs_are_judged(differences: dict[str, object], verdict: Verdict, words: str) -> None:
    [check] = checkup.job_checks([{**RAN, **differences}], Edition.POSTGRESQL, now=NOW)
    assert (check.name, check.verdict) == ("policies", verdict)
    assert words in check.words


@pytest.mark.parametrize(
    ("edition", "runner"), [(Edition.TIMESCALEDB, "the scheduler"), (Edition.TIMESCALEDB_APACHE, "ingest maintain")]
)
def test_jobs_that_nobody_runs_are_one_line_with_who_should(edition: Edition, runner: str) -> None:
    jobs = [{**RAN, "policy": name, "runs": 0} for name in ("one", "two")]
    [check] = checkup.job_checks(jobs, edition, now=NOW)
    assert "one, two" in check.words
    assert runner in check.words


def run(command: str, folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ingest", *command.split()],
        env=environ,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )


@contextmanager
def answering(status: int, body: bytes) -> Iterator[str]:
    """A program that answers every GET with this; yields its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


@pytest.mark.parametrize(
    ("status", "body", "verdict", "words"),
    [
        (200, b'{"status": "ready"}', Verdict.OK, "Ready at"),
        (503, b'{"status": "not ready", "reason": "x"}', Verdict.PROBLEM, "Not ready at"),
        (200, b"<html>", Verdict.WARNING, "Another program answers"),
        (404, b"", Verdict.WARNING, "Another program answers"),
    ],
)
def test_what_answers_at_the_address_is_judged(status: int, body: bytes, verdict: Verdict, words: str) -> None:
    with answering(status, body) as url:
        check = doctor.service_check(url)
    assert (check.name, check.verdict) == ("service", verdict)
    assert words in check.words


def test_what_speaks_no_http_at_the_address_is_said() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def talk() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"220 mail.example.com ESMTP\r\n")

        threading.Thread(target=talk, daemon=True).start()
        check = doctor.service_check(f"http://127.0.0.1:{listener.getsockname()[1]}")
    assert (check.verdict, "correct --url" in check.words) == (Verdict.WARNING, True)


@servers.ON_ONE
def test_an_embedded_server_is_looked_into_where_it_runs(server: Server, tmp_path: Path) -> None:
    def found(folder: Path) -> dict[str, str]:
        done = run("doctor --json --url http://127.0.0.1:1", tmp_path, INGEST_DATA_DIR=str(folder))
        return {check["name"]: check["verdict"] for check in json.loads(done.stdout)}

    with psycopg.connect(server.admin.reveal()) as connection:
        running = found(Path(connection.info.host).parent)
    assert (running["embedded"], running["database"], running["schema"]) == ("ok", "ok", "problem")  # it has none there
    assert "user" not in running
    assert found(tmp_path / "nowhere") == {
        "program": "ok",
        "settings": "ok",
        "open files": "ok",
        "embedded": "ok",
        "database": "note",
        "service": "note",
    }


@servers.ON_ONE
def test_a_healthy_installation_has_no_problem_and_exits_with_0(
    owner_url: DatabaseUrl, writer_url: DatabaseUrl, tmp_path: Path
) -> None:
    policies.apply(owner_url, Settings().policy_settings)
    assert all(done.error is None for done in asyncio.run(Maintenance(owner_url).run_all()))
    with started({"DB_URL": writer_url.reveal()}) as service:
        command = f"doctor --json --url {service.client.base_url}"
        done = run(command, tmp_path, DB_URL=owner_url.reveal(), AUTH_REQUIRED="false")
        as_writer = run(command, tmp_path, DB_URL=writer_url.reveal(), AUTH_REQUIRED="false")
    found = {check["name"]: check for check in json.loads(done.stdout)}
    assert {check["verdict"] for check in found.values()} == {"ok"}, found
    assert {"settings", "database", "pooler", "schema", "policies", "keys", "service"} <= found.keys()
    assert (done.returncode, as_writer.returncode, done.stderr) == (0, 0, "")


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


def test_an_answer_that_nobody_expects_is_a_problem_and_no_traceback(
    database_url: DatabaseUrl, owner_url: DatabaseUrl
) -> None:
    servers.execute(database_url, "ALTER TABLE analytics.installation RENAME COLUMN edition TO publication")
    *_, last = checkup.database_checks(owner_url, Settings(), workers=1)
    assert last.verdict is Verdict.PROBLEM
    assert "edition" in last.words


@pytest.mark.parametrize(
    ("chosen", "verdict"),
    [(None, Verdict.NOTE), (True, Verdict.PROBLEM), (False, Verdict.OK)],
)
def test_keys_are_missed_where_they_are_needed(owner_url: DatabaseUrl, chosen: bool | None, verdict: Verdict) -> None:
    def found() -> Check:
        every = checkup.database_checks(owner_url, Settings(auth_required=chosen), workers=1)
        return next(check for check in every if check.name == "keys")

    assert found().verdict is verdict
    api_keys.create(owner_url, name="one", scope=Scope.INGEST, teams=None, rate_per_minute=None, expires_at=None)
    assert found().verdict is Verdict.OK


def test_a_library_that_is_not_preloaded_is_waited_for_and_said() -> None:
    with pytest.raises(errors.DatabaseAway, match="shared_preload_libraries"), failures.translated():
        raise psycopg.errors.InternalError_('extension "timescaledb" must be preloaded')


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
