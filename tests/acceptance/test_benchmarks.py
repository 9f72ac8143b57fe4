"""Every benchmark runs, and the audit of the load generator finds what is wrong."""

import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote

import pytest

from benchmarks import audit, programs, results
from benchmarks.__main__ import names
from benchmarks.bodies import Bodies
from benchmarks.http_client import Connection
from benchmarks.programs import ProgramFailed
from benchmarks.sender import HEADERS, PATH, Receipt
from benchmarks.workload import Closed
from ingest.settings import DatabaseUrl
from tests import servers, service
from tests.service import RunningService

CHECKOUT = Path(__file__).resolve().parents[2]

NEEDS_SERVICE = {"load"}

TRACE = """\
TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:46.6805900,396,109
2023-11-16 18:15:50.9951690,879,55
2023-11-16 18:16:06.0000000,91,16
"""


def benchmark(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "benchmarks", *arguments]


def run(*arguments: str, status: int = 0) -> results.Result:
    """Runs a benchmark and returns its result, which must be the one it wrote."""
    done = subprocess.run(
        benchmark(*arguments, "--json"), env=service.environment({}), cwd=CHECKOUT, capture_output=True, timeout=150
    )
    assert done.returncode == status, f"{done.stdout.decode()}\n{done.stderr.decode()}"
    return results.decode(done.stdout)


def cell(result: results.Result, table: str, row: str) -> results.Scalar:
    """The first value of a row, by the beginning of its table's title."""
    [rows] = [found.rows for found in result.tables if found.title.startswith(table)]
    return next(cells[1] for cells in rows if cells[0] == row)


def test_there_are_benchmarks():
    assert "load" in names()


@pytest.mark.parametrize("name", sorted(set(names()) - NEEDS_SERVICE))
def test_every_benchmark_runs(name, tmp_path):
    server = ["--db-url", os.environ["TEST_DB_URL"]] if os.environ.get("TEST_DB_URL") else []
    result = run(name, "--tiny", "--out", str(tmp_path), *server)
    assert result.name == name
    assert result.passed
    assert result.tables
    [page] = tmp_path.glob(f"{name}-*.html")
    [record] = tmp_path.glob(f"{name}-*.json")
    assert "<svg" in page.read_text()
    assert results.decode(record.read_bytes()) == result


def test_stages_run_on_plain_postgresql_too(tmp_path):
    """Which makes no partition itself."""
    assert run("stages", "--tiny", "--out", str(tmp_path)).passed


def test_a_benchmark_that_is_not_there():
    done = subprocess.run(benchmark("nothing"), cwd=CHECKOUT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "invalid choice: 'nothing'" in done.stderr


# --- load ---------------------------------------------------------------------------------------------------------------


def url_of(running: RunningService) -> str:
    return str(running.client.base_url)


@servers.ON_ONE
@pytest.mark.parametrize("mode", [[], ["--rate", "2000"]], ids=["closed", "open"])
def test_load(shared_service, shared_database_url, tmp_path, mode):
    where = ["--url", url_of(shared_service), "--db-url", shared_database_url.reveal()]
    result = run("load", "--tiny", "--out", str(tmp_path), *where, *mode)
    assert [check.what for check in result.checks[2:]] == [audit.IN_TABLE, audit.SENT_AGAIN]
    assert result.passed
    assert int(str(cell(result, "Throughput", "events accepted"))) > 0
    assert result.database is not None
    assert result.database.settings["synchronous_commit"] == "on"
    [page] = tmp_path.glob("load-*.html")
    assert page.read_text().count("<svg") == 3
    shown = page.read_text() + next(tmp_path.glob("load-*.json")).read_text()
    assert "--db-url postgresql://… " in shown
    assert shared_database_url.reveal() not in shown


@servers.ON_ONE
def test_a_trace_is_replayed(shared_service, shared_database_url, tmp_path):
    trace = tmp_path / "trace.csv"
    trace.write_text(TRACE)
    before = tokens_in(shared_database_url)
    where = ["--url", url_of(shared_service), "--db-url", shared_database_url.reveal(), "--out", str(tmp_path)]
    result = run("load", "--trace", str(trace), "--speed", "20", "--flush-seconds", "0.5", *where)
    assert result.passed
    assert cell(result, "Throughput", "events accepted") == 4
    assert cell(result, "Throughput", "requests acknowledged") == 2
    assert tokens_in(shared_database_url) - before == 374 + 44 + 396 + 109 + 879 + 55 + 91 + 16
    assert result.command.split(" --speed")[0] == "python -m benchmarks load --trace trace.csv"


@servers.ON_ONE
def test_ctrl_c_ends_the_load_and_tells_what_was_measured(service, database_url, tmp_path):
    where = ["--url", url_of(service), "--db-url", database_url.reveal(), "--out", str(tmp_path)]
    load = subprocess.Popen(
        benchmark("load", "--batch", "10", "--connections", "1", "--warmup", "0", "--duration", "3600", *where, "--json"),
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 60
    while not servers.query(database_url, "SELECT 1 FROM analytics.usage_events LIMIT 1") and time.monotonic() < deadline:
        time.sleep(0.1)
    load.send_signal(signal.SIGINT)
    output, messages = load.communicate(timeout=90)
    assert load.returncode == 0, messages.decode()
    result = results.decode(output)
    assert result.passed
    assert result.duration_seconds < 600
    assert int(str(cell(result, "Throughput", "events accepted"))) > 0


@servers.ON_ONE
def test_errors_are_counted_by_kind_and_leave_nothing_to_audit(service, tmp_path):
    """Batches of more items than the service takes."""
    result = run("load", "--tiny", "--batch", "1001", "--url", url_of(service), "--out", str(tmp_path), status=1)
    [errors] = [table for table in result.tables if table.title == "Errors"]
    assert [row[0] for row in errors.rows] == ["413 limit_exceeded"]
    assert [check.what for check in result.checks if not check.passed] == ["events were acknowledged"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--url", "http://127.0.0.1:9"], "No service answers at http://127.0.0.1:9"),
        (["--url", "nowhere"], "--url: nowhere is no http:// or https:// URL"),
        (["--trace", "nowhere.csv"], "--trace: [Errno 2]"),
        (["--header", "secret"], "--header: it must be 'NAME: VALUE'"),
        (["--batch", "0"], "0 is no whole number from 1 on"),
        (["--rate", "-1"], "-1 is no number from 0 on"),
        (["--rate", "1", "--closed"], "not allowed with"),
        (["--db-url", "mysql://"], "not a postgresql:// URL"),
    ],
)
def test_what_can_not_be_run_says_so_in_a_line(options, words, tmp_path):
    done = subprocess.run(benchmark("load", "--out", str(tmp_path), *options), cwd=CHECKOUT, capture_output=True, text=True)
    assert done.returncode in (1, 2)
    assert words in done.stderr.splitlines()[-1]
    assert not list(tmp_path.iterdir())


# --- the audit ------------------------------------------------------------------------------------------------------------

BATCHES = 3
ITEMS = 20


@pytest.fixture
def workload() -> Closed:
    return Closed(Bodies(int.from_bytes(os.urandom(6)), ITEMS))


@pytest.fixture
def receipts(service, workload) -> list[Receipt]:
    """Of some requests that were acknowledged."""
    given = []
    for number in range(BATCHES):
        now = datetime.now(UTC)
        assert (
            service.client.post(PATH, content=workload.body(number, now).content, headers=HEADERS).json()["accepted"] == ITEMS
        )
        given.append(Receipt(number, round(now.timestamp() * 1_000_000), ITEMS, ITEMS))
    return given


async def audited_over_http(running: RunningService, workload: Closed, receipts: list[Receipt]) -> results.Check:
    connections = [Connection(url_of(running)) for _ in range(2)]
    try:
        return await audit.over_http(connections, workload, receipts)
    finally:
        for connection in connections:
            connection.close()


def an_event(url: DatabaseUrl) -> object:
    [[event_id]] = servers.query(url, "SELECT event_id FROM analytics.usage_events ORDER BY event_id LIMIT 1")
    return event_id


def tokens_in(url: DatabaseUrl) -> int:
    return int(str(servers.query(url, "SELECT coalesce(sum(total_tokens), 0) FROM analytics.usage_events")[0][0]))


async def test_the_audit_passes_when_all_is_there(service, database_url, workload, receipts):
    check, stored = audit.in_sql(database_url, workload, receipts, [])
    assert check.passed, check.detail
    assert stored == audit.Stored(missing=0, repeated=0, unacknowledged=0)
    check = await audited_over_http(service, workload, receipts)
    assert check.passed, check.detail
    assert check.detail == "60 events in 3 requests"


async def test_the_audit_in_sql_finds_a_row_that_is_gone(service, database_url, workload, receipts):
    servers.execute(database_url, f"DELETE FROM analytics.usage_events WHERE event_id = '{an_event(database_url)}'")
    check, stored = audit.in_sql(database_url, workload, receipts, [])
    assert not check.passed
    assert stored == audit.Stored(missing=1, repeated=0, unacknowledged=0)


async def test_the_audit_in_sql_finds_a_row_that_is_there_twice(service, database_url, workload, receipts):
    event_id = an_event(database_url)
    servers.execute(
        database_url,
        f"INSERT INTO analytics.usage_events SELECT * FROM analytics.usage_events WHERE event_id = '{event_id}'",
    )
    check, stored = audit.in_sql(database_url, workload, receipts, [])
    assert not check.passed
    assert stored == audit.Stored(missing=0, repeated=1, unacknowledged=0)


async def test_the_audit_over_http_finds_an_event_that_the_service_does_not_know(service, database_url, workload, receipts):
    event_id = an_event(database_url)
    for table in ("usage_events", "usage_event_ids"):
        servers.execute(database_url, f"DELETE FROM analytics.{table} WHERE event_id = '{event_id}'")
    check = await audited_over_http(service, workload, receipts)
    assert not check.passed
    assert "1 of 3 requests" in check.detail
    assert "1 accepted and 19 duplicates, where 20 were stored" in check.detail


async def test_the_audit_over_http_finds_an_event_that_has_other_content(service, database_url, workload, receipts):
    event_id = an_event(database_url)
    servers.execute(database_url, f"UPDATE analytics.usage_event_ids SET fingerprint = 0 WHERE event_id = '{event_id}'")
    check = await audited_over_http(service, workload, receipts)
    assert not check.passed
    assert "0 accepted and 19 duplicates, where 20 were stored" in check.detail


async def test_what_was_not_acknowledged_may_be_stored(service, database_url, workload, receipts):
    """And where it is not, nothing is missing."""
    lost = Receipt(99, receipts[0].now_us, ITEMS, 0)
    check, stored = audit.in_sql(database_url, workload, receipts[1:], [receipts[0], lost])
    assert check.passed
    assert stored == audit.Stored(missing=0, repeated=0, unacknowledged=ITEMS)


async def test_an_audit_without_a_service_fails(workload):
    receipt = Receipt(0, round(datetime.now(UTC).timestamp() * 1_000_000), ITEMS, ITEMS)
    connection = Connection(f"http://127.0.0.1:{servers.free_port()}")
    check = await audit.over_http([connection], workload, [receipt], retry_seconds=0.01)
    assert not check.passed
    assert "request 0: no answer: connect" in check.detail


# --- programs -------------------------------------------------------------------------------------------------------------


def test_a_scratch_database_is_there_for_a_while(server):
    with programs.scratch_database(server.admin) as url:
        assert servers.query(url, "SELECT count(*) FROM analytics.usage_events") == [(0,)]
        name = url.reveal().partition("?")[0].rpartition("/")[2]
        with programs.service(url) as running:
            assert running.process.is_running()
            assert programs.resident_bytes(running.pids) > 2**20
            assert programs.cpu_seconds(running.pids) > 0
            pids = running.pids
        assert programs.resident_bytes(pids) == programs.cpu_seconds(pids) == 0
    assert servers.query(server.admin, "SELECT 1 FROM pg_database WHERE datname = %s", name) == []


def test_an_embedded_server_leaves_no_folder_behind():
    program = "from benchmarks import programs\nwith programs.database_server(None) as url: print(url.reveal())"
    url = programs.run([sys.executable, "-c", program], {}).splitlines()[-1]
    files = Path(unquote(url.partition("?host=")[2]))
    assert files.parent.name.startswith("ingest-bench-")
    assert not files.parent.exists()


def test_a_program_that_fails_tells_what_it_said():
    fails = [sys.executable, "-c", "import sys; print('no luck'); sys.exit(3)"]
    with pytest.raises(ProgramFailed, match=r"ended with status 3:\nno luck"), programs.listening(fails, {}):
        pass
    with pytest.raises(ProgramFailed, match=r"failed:\nno luck"):
        programs.run(fails, {})
