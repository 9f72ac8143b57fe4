"""`ingest serve --workers N`: how connections spread, what a worker's death costs, and how all of them stop."""

import gzip
import re
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

import msgspec
import psutil
import psycopg
import pytest
from psycopg import sql

from ingest.cli import supervisor
from ingest.settings import DatabaseUrl
from tests import servers
from tests.samples import wire_event
from tests.service import REQUESTS, RunningService, command, environment, started

WAIT_SECONDS_MAX = 30


@pytest.fixture
def service(writer_url: DatabaseUrl) -> Iterator[RunningService]:
    """The service in two workers, on this test's database."""
    with started({"DB_URL": writer_url.reveal()}, "--workers", "2") as running:
        yield running


@servers.ON_ONE
def test_connections_spread_evenly(service: RunningService) -> None:
    with ExitStack() as stack:
        for count in range(1, 9):
            assert _ask(stack.enter_context(_connection(service))).status == 200

            assert sum(_connections(service).values()) == count
            assert max(_connections(service).values()) == (count + 1) // 2


@servers.ON_ONE
def test_what_one_worker_has_too_many_the_next_connections_make_up_for(service: RunningService) -> None:
    with ExitStack() as stack:
        kept = [stack.enter_context(_connection(service)) for _ in range(8)]
        owners: list[int] = []
        for connection in kept:
            before = _connections(service)
            assert _ask(connection).status == 200
            owners += (_connections(service) - before).elements()
        for connection, owner in zip(kept, owners, strict=True):
            if owner == owners[0]:
                connection.close()
        _await(lambda: sorted(_connections(service).values()) == [4])

        for _ in range(4):
            assert _ask(stack.enter_context(_connection(service))).status == 200

        assert sorted(_connections(service).values()) == [4, 4]


def test_a_batch_that_one_worker_stored_is_a_duplicate_for_the_other(service: RunningService) -> None:
    event = wire_event()
    with _connection(service) as one, _connection(service) as other:
        stored, again = (msgspec.json.decode(_post(connection, event).read()) for connection in (one, other))

        assert sorted(_connections(service).values()) == [1, 1]
    assert (stored["accepted"], again["duplicates"]) == (1, 1)


@servers.ON_ONE
def test_the_service_says_hello_once(service: RunningService) -> None:
    said = service.log.read_text()

    assert len(re.findall("^Listening ", said, re.MULTILINE)) == 1
    assert len(re.findall(r"^Database    PostgreSQL \d\d", said, re.MULTILINE)) == 1


def test_of_many_workers_one_maintains(service: RunningService) -> None:
    # As the writer it may not, and on TimescaleDB Community it need not, and says so.
    _await(lambda: "No maintenance by this process" in service.log.read_text())

    assert re.findall('"(worker .)","message":"No maintenance', service.log.read_text()) == ["worker 1"]


@servers.ON_ONE
def test_a_worker_that_is_killed_costs_its_own_connections_and_is_replaced(service: RunningService) -> None:
    with ExitStack() as stack:
        connections = [stack.enter_context(_connection(service)) for _ in range(4)]
        assert [_ask(connection).status for connection in connections] == [200] * 4
        killed, left = _workers(service)

        killed.kill()

        still_there = [connection for connection in connections if _answers(connection)]
        assert len(still_there) == 2
        assert service.verdict([wire_event()])["accepted"] == 1
        _await(lambda: re.search(r"Worker \d \(process \d+\) serves", service.log.read_text()))
        workers = _workers(service)
        assert len(workers) == 2
        assert left in workers
        service.client.close()

        for _ in range(2):  # the new one gets what the other has already
            assert _ask(stack.enter_context(_connection(service))).status == 200
        _await(lambda: _connections(service) == Counter({worker.pid: 2 for worker in workers}))
        assert all(_answers(connection) for connection in still_there)
    assert f"(process {killed.pid}) ended by signal 9 (Killed). Another one starts in 0.5 s." in service.log.read_text()


@servers.ON_ONE
def test_a_connection_that_a_dead_worker_had_not_taken_is_given_to_another(service: RunningService) -> None:
    with _connection(service) as connection, _connection(service) as next_connection:
        assert _ask(connection).status == 200
        (idle,) = [worker for worker in _workers(service) if not _connections(service)[worker.pid]]
        idle.suspend()
        next_connection.request("GET", "/livez")  # it is the idle worker's, who can't take it
        time.sleep(0.5)  # for it to be handed over; later, the other one would get it at once

        idle.kill()

        assert next_connection.getresponse().status == 200


@servers.ON_ONE
def test_a_worker_that_takes_no_connection_gets_no_more(service: RunningService) -> None:
    stopped, _ = _workers(service)
    stopped.suspend()
    with ExitStack() as stack:
        waiting = [stack.enter_context(_connection(service)) for _ in range(2)]
        for connection in waiting:  # one for each worker
            connection.request("GET", "/livez")
        time.sleep(supervisor.SLOW_SECONDS + 0.5)

        for _ in range(4):
            assert _ask(stack.enter_context(_connection(service))).status == 200

        stopped.resume()
        assert [connection.getresponse().status for connection in waiting] == [200, 200]


@servers.ON_ONE
def test_connections_wait_while_no_worker_is_there(service: RunningService) -> None:
    before = _workers(service)
    for worker in before:
        worker.kill()
    psutil.wait_procs(before, WAIT_SECONDS_MAX)

    assert service.verdict([wire_event()])["accepted"] == 1
    assert not set(before) & set(_workers(service))


@servers.ON_ONE
def test_a_worker_that_is_told_to_stop_finishes_and_is_replaced(service: RunningService, database_url: DatabaseUrl) -> None:
    with _batches_in_flight(service, database_url, 1) as ([answer], let_go):
        (busy,) = [worker for worker in _workers(service) if _connections(service)[worker.pid]]

        busy.terminate()

        for _ in range(8):  # they go to the other one
            with _connection(service) as connection:
                assert _ask(connection, "/").status == 200
        let_go()
        assert answer.result(WAIT_SECONDS_MAX).status == 200
    _await(lambda: re.search(r"Worker \d \(process \d+\) serves", service.log.read_text()))
    assert busy not in _workers(service)
    assert len(_workers(service)) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_all_workers_finish_what_they_took(
    service: RunningService, database_url: DatabaseUrl, number: signal.Signals
) -> None:
    with _batches_in_flight(service, database_url, 2) as (answers, let_go):
        workers = _workers(service)
        assert _connections(service) == Counter({worker.pid: 1 for worker in workers})

        service.process.send_signal(number)

        _await(lambda: not _accepts(service))
        assert _workers(service) == workers
        let_go()
        assert [answer.result(WAIT_SECONDS_MAX).status for answer in answers] == [200, 200]
    assert service.process.wait(WAIT_SECONDS_MAX) == 0
    assert not [worker for worker in workers if _runs(worker)]
    assert "Traceback" not in service.log.read_text()


def test_a_worker_that_does_not_stop_is_killed(tmp_path: Path) -> None:
    with started({"INGEST_DATA_DIR": str(tmp_path), "SHUTDOWN_SECONDS": "1"}, "--workers", "2") as service:
        workers = _workers(service)
        workers[0].suspend()

        assert service.stop() == 1

        assert not [worker for worker in workers if _runs(worker)]
        assert f"(process {workers[0].pid}) did not stop within 4 s, and is killed." in service.log.read_text()


def test_workers_finish_and_go_when_their_supervisor_is_killed(service: RunningService, database_url: DatabaseUrl) -> None:
    with _batches_in_flight(service, database_url, 1) as ([answer], let_go):
        workers = _workers(service)

        service.process.kill()
        service.process.wait()

        _await(lambda: sum(_runs(worker) for worker in workers) == 1)  # the other one had nothing to do
        let_go()
        assert answer.result(WAIT_SECONDS_MAX).status == 200
    _await(lambda: not any(map(_runs, workers)))


def test_a_mistake_in_the_set_up_is_one_line(server: servers.Server, tmp_path: Path) -> None:
    done = subprocess.run(
        command("serve", "--port", "0", "--workers", "3"),
        env=environment({"DB_URL": server.url_of("no_such_database").reveal()}),
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 1
    assert re.fullmatch("ingest: The database refuses us: .*does not exist.*\n", done.stderr), done.stderr
    assert done.stdout == ""


@servers.ON_ONE
def test_a_worker_that_is_refused_later_is_tried_again(
    service: RunningService, database_url: DatabaseUrl, roles: servers.Roles
) -> None:
    writer = sql.Identifier(roles.writer)
    with psycopg.connect(database_url.reveal(), autocommit=True) as dba:
        dba.execute(sql.SQL("ALTER ROLE {} NOLOGIN").format(writer))
        try:
            _workers(service)[0].kill()
            for seconds in ("0.5", "1.0", "2.0"):  # every pause is longer than the one before it
                _await(partial(_has_said, service, f"Another one starts in {seconds} s."))
            assert "can't start: The database refuses us" in service.log.read_text()
            assert service.verdict([wire_event()])["accepted"] == 1
        finally:
            dba.execute(sql.SQL("ALTER ROLE {} LOGIN").format(writer))

    _await(lambda: re.search(r"Worker \d \(process \d+\) serves", service.log.read_text()))
    assert service.stop() == 0


def test_a_port_that_is_taken_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            command("serve", "--port", str(port), "--workers", "2"),
            env=environment({}),
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )

    assert done.returncode == 1
    assert done.stderr.startswith(f"ingest: Can't listen on 127.0.0.1:{port}: ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("workers", ["0", "65", "two", "-1"])
def test_a_number_of_workers_that_can_not_be_is_refused(workers: str, tmp_path: Path) -> None:
    done = subprocess.run(
        command("serve", f"--workers={workers}"), env=environment({}), cwd=tmp_path, capture_output=True, text=True
    )

    assert done.returncode == 2
    assert done.stderr.endswith(f"argument --workers: {workers} is no number of workers: 1 to 64\n")


def test_the_embedded_postgresql_is_the_supervisors(tmp_path: Path) -> None:
    event = wire_event()
    with started({"INGEST_DATA_DIR": str(tmp_path / "data")}, "--workers", "2") as service:
        assert service.log.read_text().count("PostgreSQL  embedded") == 1
        assert service.verdict([event])["accepted"] == 1
        workers = _workers(service)
        postmaster = _postmaster(tmp_path)

        postmaster.kill()

        with _connection(service) as one, _connection(service) as other:
            for connection in (one, other):
                _await(partial(_is_a_duplicate, connection, event))
            assert len(_connections(service)) == 2
        assert _workers(service) == workers
        postmaster = _postmaster(tmp_path)
        assert service.stop() == 0
        assert not _runs(postmaster)
        assert not [worker for worker in workers if _runs(worker)]


@servers.ON_ONE
def test_a_folder_of_the_same_name_is_not_taken_for_the_package(writer_url: DatabaseUrl, tmp_path: Path) -> None:
    (tmp_path / "ingest").mkdir()
    (tmp_path / "ingest" / "__init__.py").write_text("raise SystemExit('This is another one.')")
    process = subprocess.Popen(
        [*command()[:1], "-P", *command("serve", "--port", "0", "--workers", "2")[1:]],
        env=environment({"DB_URL": writer_url.reveal()}),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("Database    PostgreSQL ")
        process.terminate()
    assert process.returncode == 0


@contextmanager
def _connection(service: RunningService) -> Iterator[HTTPConnection]:
    """A connection of its own, which is kept alive."""
    connection = HTTPConnection(*_address(service), timeout=WAIT_SECONDS_MAX)
    try:
        yield connection
    finally:
        connection.close()


def _address(service: RunningService) -> tuple[str, int]:
    url = service.client.base_url
    assert url.port is not None
    return url.host, url.port


def _ask(connection: HTTPConnection, path: str = "/livez") -> HTTPResponse:
    connection.request("GET", path)
    answer = connection.getresponse()
    answer.read()
    return answer


def _has_said(service: RunningService, words: str) -> bool:
    return words in service.log.read_text()


def _is_a_duplicate(connection: HTTPConnection, event: dict[str, object]) -> bool:
    answer = _post(connection, event)
    content = msgspec.json.decode(answer.read())
    return answer.status == 200 and content["duplicates"] == 1


def _answers(connection: HTTPConnection) -> bool:
    """Whether the connection is alive; it is not made again."""
    connection.auto_open = 0
    try:
        return _ask(connection).status == 200
    except OSError:
        return False


def _post(connection: HTTPConnection, event: dict[str, object]) -> HTTPResponse:
    body = gzip.compress(msgspec.json.encode(event), 1)
    connection.request("POST", REQUESTS, body, {"Content-Type": "application/json", "Content-Encoding": "gzip"})
    return connection.getresponse()


def _accepts(service: RunningService) -> bool:
    try:
        socket.create_connection(_address(service), timeout=WAIT_SECONDS_MAX).close()
    except ConnectionError:
        return False
    return True


@contextmanager
def _batches_in_flight(
    service: RunningService, database_url: DatabaseUrl, count: int
) -> Iterator[tuple[list[Future[HTTPResponse]], Callable[[], None]]]:
    """Batches that as many workers have, each on a connection of its own, and that the database does not let in: their
    answers to be, and what lets them in."""
    with psycopg.connect(database_url.reveal()) as dba, ThreadPoolExecutor(count) as pool, ExitStack() as stack:
        dba.execute("LOCK TABLE analytics.usage_events IN SHARE MODE")
        connections = [stack.enter_context(_connection(service)) for _ in range(count)]
        answers = [pool.submit(_post, connection, wire_event()) for connection in connections]
        try:
            _await(lambda: _waiting(database_url) == count)
            yield answers, dba.commit
        finally:
            dba.rollback()


def _waiting(database_url: DatabaseUrl) -> int:
    """How many sessions wait for a lock in this database."""
    with psycopg.connect(database_url.reveal()) as dba:
        row = dba.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        ).fetchone()
    assert row is not None
    return int(row[0])


def _workers(service: RunningService) -> list[psutil.Process]:
    """The worker processes that run, the oldest first."""
    return [child for child in psutil.Process(service.process.pid).children() if "ingest.cli.worker" in child.cmdline()]


def _connections(service: RunningService) -> Counter[int]:
    """How many open connections each worker has, by its process id."""
    port = _address(service)[1]
    return Counter(
        worker.pid
        for worker in _workers(service)
        for connection in worker.net_connections("tcp")
        if connection.laddr.port == port and connection.status == psutil.CONN_ESTABLISHED
    )


def _runs(process: psutil.Process) -> bool:
    """Whether it is there, and not just its exit status, which its new parent has yet to fetch."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _postmaster(folder: Path) -> psutil.Process:
    return psutil.Process(int((folder / "data" / "postgresql-18" / "postmaster.pid").read_text().splitlines()[0]))


def _await(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
