"""What operators see: the metrics of all workers together, and the log."""

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from typing import Any

import httpx
import prometheus_client.parser
import psutil
import pytest

from ingest.flow.api_keys import Scope
from ingest.settings import DatabaseUrl, Settings
from ingest.store import api_keys, policies
from tests import rawhttp, servers
from tests.samples import wire_archive, wire_event
from tests.servers import Server
from tests.service import ARCHIVES, RunningService, started

WAIT_SECONDS_MAX = 20
SECRET = "the content of a prompt"


class Scrape:
    """The answer of /metrics."""

    def __init__(self, client: httpx.Client, headers: Mapping[str, str] | None = None) -> None:
        time.sleep(0.15)  # an answer is given again for 0.1 s
        self.answer = client.get("/metrics", headers=headers)
        assert self.answer.status_code == 200, self.answer.text
        self._samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in prometheus_client.parser.text_string_to_metric_families(self.answer.text)
            for sample in family.samples
        }

    def __call__(self, name: str, **labels: str) -> float | None:
        return self._samples.get((name, frozenset(labels.items())))

    def labelled(self, name: str) -> dict[frozenset[tuple[str, str]], float]:
        return {labels: value for (known, labels), value in self._samples.items() if known == name}


def eventually(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_SECONDS_MAX
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.2)


def log_of(service: RunningService) -> list[dict[str, Any]]:
    return [json.loads(line) for line in service.log.read_text().splitlines() if line.startswith("{")]


def test_the_metrics_are_right_whichever_worker_answers(writer_url: DatabaseUrl) -> None:
    with started({"DB_URL": writer_url.reveal()}, "--workers", "2") as service:
        event = wire_event(prompt="with \x00 in it")
        assert service.verdict([event, {"bad": 1}])["rejected"] == 1
        for _ in range(3):  # each on a connection of its own, to the other worker in turn
            with httpx.Client(base_url=service.client.base_url) as client:
                again = RunningService(service.process, client, service.log)
                assert again.verdict([event])["duplicates"] == 1
                assert again.verdict([wire_archive(event_id=event["event_id"])], ARCHIVES)["received"] == 1
        assert service.post(b"not json").status_code == 400
        rawhttp.ask(service, b"nonsense\r\n\r\n")

        for _ in range(2):
            with httpx.Client(base_url=service.client.base_url) as client:
                scrape = Scrape(client)

            assert scrape("ingest_events_total", stream="usage_events", verdict="accepted") == 1
            assert scrape("ingest_events_total", stream="usage_events", verdict="duplicate") == 3
            assert scrape("ingest_events_total", stream="usage_events", verdict="rejected") == 1
            assert scrape("ingest_events_total", stream="message_archives", verdict="accepted") == 1
            assert scrape("ingest_sanitized_events_total", stream="usage_events") == 1
            assert scrape("ingest_batch_events_count", stream="usage_events") == 4
            assert scrape("ingest_batch_events_sum", stream="usage_events") == 5
            for stage in ("receive", "decode", "wait", "commit"):
                assert scrape("ingest_batch_stage_duration_seconds_count", stream="usage_events", stage=stage) == 4
            assert scrape("ingest_refused_requests_total", code="unreadable_body") == 1
            assert scrape("ingest_refused_requests_total", code="unreadable_head") == 1
            assert scrape("ingest_http_requests_total", endpoint="none", status="400") == 1
            assert scrape("ingest_database_up") == 1
            assert scrape("ingest_workers") == 2
            assert scrape("ingest_queue_rows_limit") == 400_000
            assert (scrape("ingest_compressed_bytes_total", stream="usage_events") or 0) > 0
            assert scrape("ingest_ledger_rows", stream="usage_events") is not None
            assert len(scrape.labelled("ingest_worker_resident_memory_bytes")) == 2


@servers.ON_ONE
def test_a_worker_that_is_started_again_goes_on_counting(writer_url: DatabaseUrl) -> None:
    with started({"DB_URL": writer_url.reveal()}, "--workers", "2") as service:
        for _ in range(4):
            with httpx.Client(base_url=service.client.base_url) as client:
                RunningService(service.process, client, service.log).verdict([wire_event()])
        for worker in psutil.Process(service.process.pid).children():
            if "ingest.cli.worker" in worker.cmdline():
                worker.send_signal(signal.SIGKILL)

        def restarted() -> bool:
            with httpx.Client(base_url=service.client.base_url) as client:
                return Scrape(client)("ingest_worker_restarts_total") == 2

        eventually(restarted)
        with httpx.Client(base_url=service.client.base_url) as client:
            RunningService(service.process, client, service.log).verdict([wire_event()])
            scrape = Scrape(client)
        assert scrape("ingest_events_total", stream="usage_events", verdict="accepted") == 5
        assert scrape("ingest_workers") == 2


def test_the_policies_are_among_the_metrics(owner_url: DatabaseUrl, writer_url: DatabaseUrl) -> None:
    policies.apply(owner_url, Settings().policy_settings)
    with started({"DB_URL": writer_url.reveal(), "MAINTENANCE": "off"}) as service:
        scrape = Scrape(service.client)

    failing = scrape.labelled("ingest_policy_failing")
    assert {dict(labels)["policy"] for labels in failing} >= {"usage_events.retention", "usage_events.rollups"}
    assert scrape("ingest_policy_failures_total", policy="usage_events.retention") == 0


@servers.ON_ONE
def test_prometheus_own_tool_finds_nothing_to_object_to(writer_url: DatabaseUrl) -> None:
    if (promtool := shutil.which("promtool")) is None:
        pytest.skip("promtool (Debian's package prometheus) is not installed")
    with started({"DB_URL": writer_url.reveal()}) as service:
        service.verdict([wire_event()])
        text = Scrape(service.client).answer.text
    done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True, timeout=30)

    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@servers.ON_ONE
def test_where_keys_are_required_one_for_reading_is_enough(owner_url: DatabaseUrl, writer_url: DatabaseUrl) -> None:
    _, key = (
        api_keys.create(owner_url, name=scope, scope=scope, teams=None, rate_per_minute=None, expires_at=None)[0]
        for scope in (Scope.INGEST, Scope.READ)
    )
    with started({"DB_URL": writer_url.reveal(), "AUTH_REQUIRED": "true"}) as service:
        assert service.client.get("/metrics").status_code == 401
        assert Scrape(service.client, {"Authorization": f"Bearer {key.text}"})("ingest_workers") == 1


@servers.ON_ONE
def test_while_the_database_is_away_every_worker_knows_a_key_for_reading(
    server: Server, database_url: DatabaseUrl, owner_url: DatabaseUrl, writer_url: DatabaseUrl
) -> None:
    _, key = (
        api_keys.create(owner_url, name=scope, scope=scope, teams=None, rate_per_minute=None, expires_at=None)[0]
        for scope in (Scope.INGEST, Scope.READ)
    )
    [[name]] = servers.query(database_url, "SELECT current_database()")
    terminate = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
    with started({"DB_URL": writer_url.reveal(), "AUTH_REQUIRED": "true"}, "--workers", "2") as service:
        time.sleep(2)  # they learn it when they begin
        servers.execute(server.admin, f"ALTER DATABASE {name} ALLOW_CONNECTIONS false", terminate)
        eventually(lambda: service.client.get("/readyz").status_code == 503)

        def is_down() -> bool:  # asked on a connection of its own, and so of the other worker in turn
            with httpx.Client(base_url=service.client.base_url) as client:
                return Scrape(client, {"X-API-Key": key.text})("ingest_database_up") == 0

        eventually(is_down)  # 10 s later at most
        assert [is_down() for _ in range(4)] == [True] * 4


@servers.ON_ONE
def test_a_request_is_one_line_with_what_became_of_it_and_nothing_secret(
    owner_url: DatabaseUrl, writer_url: DatabaseUrl
) -> None:
    key, _ = api_keys.create(owner_url, name="chat", scope=Scope.INGEST, teams=None, rate_per_minute=None, expires_at=None)
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with started({"DB_URL": writer_url.reveal(), "AUTH_REQUIRED": "true"}) as service:
        sent = {"X-API-Key": key.text, "X-Request-ID": "my-id", "traceparent": trace}
        answer = service.post([wire_event(prompt=SECRET), {"prompt": SECRET}], headers=sent)
        assert answer.json()["accepted"] == 1
        service.post([wire_event()], headers={"X-API-Key": key.text[:-1] + "_"})
        for _ in range(3):
            service.client.get("/livez")
        eventually(lambda: len([line for line in log_of(service) if "request_id" in line]) >= 2)
        told, refused = (line for line in log_of(service) if "request_id" in line)
        text = service.log.read_text()

    assert {
        name: told[name] for name in ("request_id", "traceparent", "key", "received", "accepted", "rejected", "status")
    } == {
        "request_id": "my-id",
        "traceparent": trace,
        "key": "chat",
        "received": 2,
        "accepted": 1,
        "rejected": 1,
        "status": 200,
    }
    assert told["decompressed_bytes"] > told["compressed_bytes"] > 0
    assert told["ms"] >= told["store_ms"] > 0
    assert (refused["status"], refused["code"]) == (401, "key_refused")
    assert SECRET not in text
    assert key.text[-20:] not in text


@servers.ON_ONE
def test_a_burst_of_refusals_does_not_flood_the_log(writer_url: DatabaseUrl) -> None:
    with started({"DB_URL": writer_url.reveal()}) as service:
        for _ in range(200):
            assert service.post(b"not json").status_code == 400
        scrape = Scrape(service.client)
        lines = [line for line in log_of(service) if line.get("code") == "unreadable_body"]

    assert len(lines) <= 20  # ten in each of two windows, if it took that long
    assert scrape("ingest_refused_requests_total", code="unreadable_body") == 200
    assert scrape("ingest_log_records_suppressed_total") == 200 - len(lines)
