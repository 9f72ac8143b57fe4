"""Starting, waiting, stopping: the service as an operator meets it."""

import itertools
import json
import re
import shutil
import signal
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import psycopg
import pytest

from ingest.settings import DatabaseUrl
from ingest.store import embedded, migrate
from tests import rawhttp, servers
from tests.samples import wire_event
from tests.service import REQUESTS, RunningService, command, environment, started


def test_health_live_and_ready_on_a_working_service(shared_service: RunningService) -> None:
    health = shared_service.client.get("/healthz")
    assert health.status_code == 200
    assert health.json().keys() == {"status", "database", "timestamp"}
    assert (health.json()["status"], health.json()["database"]) == ("healthy", True)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", health.json()["timestamp"])
    assert shared_service.client.get("/livez").status_code == 200
    assert shared_service.client.get("/readyz").status_code == 200


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_service_cleanly(service: RunningService, number: signal.Signals) -> None:
    service.verdict([wire_event()])

    assert service.stop(number) == 0
    assert "Traceback" not in service.log.read_text()


def test_what_is_not_stored_when_the_time_to_stop_is_over_is_to_be_sent_again(
    writer_url: DatabaseUrl, database_url: DatabaseUrl
) -> None:
    with (
        started({"DB_URL": writer_url.reveal(), "SHUTDOWN_SECONDS": "1"}) as service,
        servers.connected(database_url) as dba,
        ThreadPoolExecutor() as pool,
    ):
        dba.execute("LOCK TABLE analytics.usage_events IN SHARE MODE")
        asked = pool.submit(service.post, [wire_event()])
        time.sleep(1)

        assert service.stop() == 0

        answer = asked.result()
        dba.rollback()
        assert (answer.status_code, answer.json()["code"]) == (503, "draining")
        assert "Traceback" not in service.log.read_text()


@servers.ON_ONE
def test_what_was_taken_is_finished_and_what_has_only_begun_is_refused(
    writer_url: DatabaseUrl, database_url: DatabaseUrl
) -> None:
    whole = rawhttp.post(b"Content-Length: 2", body=b"[]")
    with (
        started({"DB_URL": writer_url.reveal()}) as service,
        servers.connected(database_url) as dba,
        ThreadPoolExecutor() as pool,
        rawhttp.connection(service) as half_a_body,
        rawhttp.connection(service) as half_a_head,
        rawhttp.connection(service) as idle,
    ):
        dba.execute("LOCK TABLE analytics.usage_events IN SHARE MODE")
        asked = pool.submit(service.post, [wire_event()])
        half_a_body.sendall(whole[:-1])
        half_a_head.sendall(whole[:30])
        time.sleep(0.5)

        service.process.terminate()

        assert [answer.problem["code"] for answer in rawhttp.read_all(half_a_head)[0]] == ["draining"]
        assert rawhttp.read_all(idle) == ([], True)
        half_a_body.sendall(whole[-1:])
        assert [answer.status for answer in rawhttp.read_all(half_a_body)[0]] == [200]
        assert not asked.done()
        dba.rollback()
        assert asked.result().status_code == 200
        assert service.process.wait(10) == 0


def test_a_schema_that_is_behind_is_not_ready_until_it_is_migrated(empty_database: DatabaseUrl, roles: servers.Roles) -> None:
    roles.prepare(empty_database)
    with started({"DB_URL": roles.url(empty_database, roles.writer).reveal()}) as service:
        ready = service.client.get("/readyz")
        refused = service.post([wire_event()])

        assert (ready.status_code, ready.json()["reason"]) == (503, "not_ready")
        assert refused.status_code == 503
        assert 1 <= int(refused.headers["Retry-After"]) <= 3
        assert service.client.get("/livez").status_code == 200
        assert service.client.get("/healthz").status_code == 200
        assert "Run `ingest migrate`" in service.log.read_text()

        migrate.migrate(roles.url(empty_database, roles.owner), chunk_interval_hours=24)

        _await_ready(service)
        assert service.verdict([wire_event()])["accepted"] == 1


def test_a_database_that_comes_late_or_goes_away_needs_no_human(tmp_path: Path) -> None:
    # Where the socket of the embedded server will be, is known only when it runs.
    with embedded.running(tmp_path) as server:
        migrate.migrate(server.url, chunk_interval_hours=24, wait_seconds=60)
        url = server.url
    with started({"DB_URL": url.reveal()}) as service:
        assert service.client.get("/livez").status_code == 200
        assert (service.client.get("/readyz").status_code, service.client.get("/healthz").status_code) == (503, 503)
        assert service.client.get("/healthz").json()["status"] == "unhealthy"
        assert service.post([wire_event()]).status_code == 503
        for _ in range(2):
            with embedded.running(tmp_path):
                _await_ready(service)
                assert service.verdict([wire_event()])["accepted"] == 1
            gone = service.post([wire_event()])
            assert (gone.status_code, gone.headers["Content-Type"]) == (503, "application/problem+json")
            assert str(tmp_path) not in gone.text
            assert service.client.get("/readyz").status_code == 503
            assert service.client.get("/healthz").status_code == 503


def test_without_db_url_a_postgresql_of_its_own_runs_and_keeps_its_data(tmp_path: Path) -> None:
    event = wire_event()
    settings = {"INGEST_DATA_DIR": str(tmp_path / "data")}
    with started(settings) as service:
        said = service.log.read_text()
        assert f"PostgreSQL  embedded, data in {tmp_path / 'data'}" in said
        assert "curl" in said
        assert service.client.get("/").json()["database"]["edition"] == "postgresql"
        assert service.verdict([event])["accepted"] == 1

        assert service.stop(signal.SIGINT) == 0
        assert not _postgres_in(tmp_path)

    with started(settings) as service:
        assert service.verdict([event])["duplicates"] == 1
        service.process.kill()  # leaves the database behind, running
        service.process.wait()

    with started(settings) as service:
        assert service.verdict([event])["duplicates"] == 1
        assert service.stop() == 0
        assert not _postgres_in(tmp_path)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_embedded_postgresql_is_started_again_when_it_is_killed(tmp_path: Path) -> None:
    event = wire_event()
    with started({"INGEST_DATA_DIR": str(tmp_path / "data")}) as service:
        service.verdict([event])
        postmaster = int((tmp_path / "data" / "postgresql-18" / "postmaster.pid").read_text().splitlines()[0])

        psutil.Process(postmaster).kill()

        assert service.post([event]).status_code == 503
        _await_ready(service)
        assert service.verdict([event])["duplicates"] == 1
        assert service.stop() == 0
        assert not _postgres_in(tmp_path)


def test_a_data_folder_that_can_not_be_is_one_line(tmp_path: Path) -> None:
    for folder in ("with space", "very-" * 30):
        done = subprocess.run(
            command("serve", "--port", "0"),
            env=environment({"INGEST_DATA_DIR": str(tmp_path / folder)}),
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 1
        assert done.stderr.startswith("ingest: The embedded PostgreSQL can't keep its data in ")
        assert len(done.stderr.splitlines()) == 1


def test_the_first_batch_that_the_service_suggests_works_as_it_stands(service: RunningService) -> None:
    said = service.log.read_text()
    after = said[said.index("Send a first batch:") :].splitlines()[1:]
    suggestion = "\n".join(itertools.takewhile(lambda line: line.startswith("  "), after))  # the log goes on after it

    done = subprocess.run(["bash", "-c", suggestion], capture_output=True, text=True, check=True)

    assert json.loads(done.stdout)["accepted"] == 1


SETUP_ERRORS = {
    "a bad number": (
        {"DB_POOL_SIZE": "many"},
        "ingest: DB_POOL_SIZE='many' is not allowed: it must be a whole number from 1 to 500.",
    ),
    "a password with a percent sign": ({"DB_URL": "postgresql://u:hun%zter2@db/x"}, "ingest: DB_URL='postgresql://…' is not"),
    "no such database": ({"DB_URL": "{server}/no_such_database"}, "ingest: The database refuses us: .*does not exist"),
    "no such scheme": ({"DB_URL": "mysql://root:hunter2@db/x"}, "ingest: DB_URL='mysql://…' is not allowed: it must be"),
}


@pytest.mark.parametrize("what", [("serve", "--port", "0"), ("migrate",)], ids=["serve", "migrate"])
@pytest.mark.parametrize("case", SETUP_ERRORS)
def test_a_mistake_in_the_set_up_is_one_line(
    server: servers.Server, tmp_path: Path, case: str, what: tuple[str, ...]
) -> None:
    settings, expected = SETUP_ERRORS[case]
    url = server.url_of("no_such_database").reveal()
    settings = {name: url if value.startswith("{server}") else value for name, value in settings.items()}

    done = subprocess.run(command(*what), env=environment(settings), cwd=tmp_path, capture_output=True, text=True)

    assert done.returncode == 1
    assert re.match(expected, done.stderr), done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "hunter2" not in done.stderr + done.stdout


def test_a_port_that_is_taken_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run(
            command("serve", "--port", str(port)), env=environment({}), cwd=tmp_path, capture_output=True, text=True
        )

    assert done.returncode == 1
    assert (
        done.stderr == f"ingest: Can't listen on 127.0.0.1:{port}: Address already in use. Choose another --port or --host.\n"
    )


def test_settings_come_from_dotenv_too(writer_url: DatabaseUrl, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"DB_URL={writer_url.reveal()}\nMAX_BULK_SIZE=5000000\n")

    done = subprocess.run(command("serve", "--port", "0"), env=environment({}), cwd=tmp_path, capture_output=True, text=True)

    assert done.stderr == "ingest: MAX_BULK_SIZE='5000000' is not allowed: it must be a whole number from 1 to 100000.\n"


def test_a_body_that_stalls_is_408(writer_url: DatabaseUrl) -> None:
    with started({"DB_URL": writer_url.reveal(), "BODY_TIMEOUT_SECONDS": "0.3"}) as service:
        address = (service.client.base_url.host, service.client.base_url.port or 0)
        with socket.create_connection(address, timeout=10) as slow:
            slow.sendall(
                f"POST {REQUESTS} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n".encode()
                + b"Content-Length: 100\r\n\r\n["
            )
            answer = b""
            while chunk := slow.recv(65536):
                answer += chunk
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b'"code":"body_timeout"' in answer
        assert service.verdict([wire_event()])["accepted"] == 1


def test_more_than_may_be_in_flight_is_503(writer_url: DatabaseUrl, database_url: DatabaseUrl) -> None:
    mib = 1024 * 1024
    limits = {"MAX_INFLIGHT_BYTES": str(mib), "MAX_BODY_SIZE": str(mib)}
    big = [wire_event(prompt="x" * (mib * 3 // 4))]
    with (
        started({"DB_URL": writer_url.reveal(), **limits}) as service,
        psycopg.connect(database_url.reveal()) as dba,
        ThreadPoolExecutor(1) as pool,
    ):
        dba.execute("LOCK TABLE analytics.usage_events IN SHARE MODE")
        in_work = pool.submit(service.post, big)
        time.sleep(1)  # for it to come in

        answer = service.post([wire_event(prompt="x" * (mib // 2))])

        assert (answer.status_code, answer.json()["code"]) == (503, "queue_full")
        assert 1 <= int(answer.headers["Retry-After"]) <= 3
        dba.commit()
        assert in_work.result().json()["accepted"] == 1
        assert service.post([wire_event(prompt="x" * (mib // 2))]).status_code == 200


def test_a_body_that_is_waited_for_gives_way_to_one_that_is_there(writer_url: DatabaseUrl) -> None:
    mib = 1024 * 1024
    limits = {"MAX_INFLIGHT_BYTES": str(mib), "MAX_BODY_SIZE": str(mib)}
    with (
        started({"DB_URL": writer_url.reveal(), **limits}) as service,
        rawhttp.connection(service) as slow,
    ):
        slow.sendall(rawhttp.post(b"Content-Length: %d" % mib, body=b" " * (mib * 3 // 4)))
        time.sleep(1)

        assert service.verdict([wire_event(prompt="x" * (mib // 2))])["accepted"] == 1

        (answer,), _ = rawhttp.read_all(slow, answers_max=1)
        assert (answer.status, answer.problem["code"]) == (503, "queue_full")
        assert 1 <= int(answer.headers["Retry-After"]) <= 3


def _await_ready(service: RunningService) -> None:
    deadline = time.monotonic() + 15
    while True:
        try:
            if service.client.get("/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        assert time.monotonic() < deadline, service.log.read_text()
        time.sleep(0.1)


def _postgres_in(folder: Path) -> list[str]:
    return [
        " ".join(process.info["cmdline"] or [])
        for process in psutil.process_iter(["name", "cmdline"])
        if process.info["name"] == "postgres" and str(folder) in " ".join(process.info["cmdline"] or [])
    ]
