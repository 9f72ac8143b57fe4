"""Who may send: the service on an address that others reach."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import msgspec
import psutil
import pytest

from ingest.flow.api_keys import CACHE_SECONDS, Scope
from ingest.settings import DatabaseUrl
from ingest.store import api_keys
from tests import rawhttp, servers
from tests.samples import wire_archive, wire_event
from tests.service import ARCHIVES, REQUESTS, RunningService, command, environment, started

EVERYWHERE = ("--host", "0.0.0.0")
REVOKED_SECONDS_MAX = 10


def make(
    url: DatabaseUrl,
    name: str,
    *,
    teams: list[str] | None = None,
    scope: Scope = Scope.INGEST,
    rate_per_minute: int | None = None,
    expires_at: datetime | None = None,
) -> dict[str, str]:
    """Makes a key; returns the header that sends it."""
    key, _ = api_keys.create(url, name=name, scope=scope, teams=teams, rate_per_minute=rate_per_minute, expires_at=expires_at)
    return {"Authorization": f"Bearer {key.text}"}


@contextmanager
def reachable(url: DatabaseUrl, *arguments: str, **settings: str) -> Iterator[RunningService]:
    with started({"DB_URL": url.reveal(), **settings}, *EVERYWHERE, *arguments) as service:
        yield service


def test_without_keys_it_does_not_start_where_others_reach_it(writer_url: DatabaseUrl, tmp_path: Path) -> None:
    for arguments in (EVERYWHERE, ("--host", "::"), (*EVERYWHERE, "--workers", "2")):
        done = subprocess.run(
            command("serve", "--port", "0", *arguments),
            env=environment({"DB_URL": writer_url.reveal()}),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
        )

        assert done.returncode == 1
        [line] = [line for line in done.stderr.splitlines() if line.startswith("ingest: ")]
        assert line.startswith(
            "ingest: An API key is required, and there is none that may send. Make one: `ingest keys create"
        )


def test_it_starts_without_keys_if_that_is_said(writer_url: DatabaseUrl) -> None:
    with reachable(writer_url, AUTH_REQUIRED="false") as service:
        assert service.verdict([wire_event()])["accepted"] == 1


def test_on_loopback_a_key_is_required_if_that_is_said(owner_url: DatabaseUrl, writer_url: DatabaseUrl) -> None:
    key = make(owner_url, "chat")
    with started({"DB_URL": writer_url.reveal(), "AUTH_REQUIRED": "true"}) as service:
        assert service.post([wire_event()]).status_code == 401
        assert service.verdict([wire_event()], headers=key)["accepted"] == 1


@servers.ON_ONE
def test_where_there_are_keys_and_none_is_required_it_says_so(owner_url: DatabaseUrl, writer_url: DatabaseUrl) -> None:
    make(owner_url, "chat")
    with started({"DB_URL": writer_url.reveal()}) as service:
        assert service.verdict([wire_event()])["accepted"] == 1
        assert '"message":"There are API keys, and none is asked for' in service.log.read_text()
        assert "API keys    not required" in service.log.read_text()


@servers.ON_ONE
def test_a_body_that_comes_until_its_key_is_revoked_is_refused(
    owner_url: DatabaseUrl, writer_url: DatabaseUrl, database_url: DatabaseUrl
) -> None:
    key = make(owner_url, "chat")
    body = msgspec.json.encode([wire_event()])
    fields = [f"{name}: {value}".encode() for name, value in key.items()]
    with reachable(writer_url) as service, rawhttp.connection(service) as slow:
        slow.sendall(rawhttp.post(*fields, b"Content-Length: %d" % len(body), body=body[:-1]))
        time.sleep(0.5)
        api_keys.revoke(owner_url, "chat")
        time.sleep(CACHE_SECONDS + 0.5)

        slow.sendall(body[-1:])

        (answer,), _ = rawhttp.read_all(slow, answers_max=1)
        assert (answer.status, answer.problem["code"]) == (401, "key_refused")
    assert servers.query(database_url, "SELECT count(*) FROM analytics.usage_event_ids") == [(0,)]


@servers.ON_ONE
def test_without_a_key_that_is_good_a_worker_that_dies_is_replaced(owner_url: DatabaseUrl, writer_url: DatabaseUrl) -> None:
    key = make(owner_url, "chat")
    with reachable(writer_url, "--workers", "2") as service:
        api_keys.revoke(owner_url, "chat")
        for worker in psutil.Process(service.process.pid).children():
            worker.kill()
        deadline = time.monotonic() + 20
        while service.log.read_text().count(" serves.") < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)

        assert service.client.get("/livez").status_code == 200
        assert service.post([wire_event()], headers=key).status_code == 401


def test_nothing_is_stored_without_a_key_that_is_good(
    owner_url: DatabaseUrl, writer_url: DatabaseUrl, database_url: DatabaseUrl
) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=1)
    good, reading, expired = (
        make(owner_url, "good"),
        make(owner_url, "r", scope=Scope.READ),
        make(owner_url, "e", expires_at=soon),
    )
    with reachable(writer_url) as service:
        time.sleep(1)
        assert [service.post([wire_event()], headers=key).status_code for key in ({}, reading, expired)] == [401, 403, 401]
        assert servers.query(database_url, "SELECT count(*) FROM analytics.usage_event_ids") == [(0,)]
        assert service.verdict([wire_event()], headers=good)["accepted"] == 1
        assert service.client.get("/").status_code == 401
        assert service.client.get("/", headers=reading).status_code == 200
        assert service.client.get("/readyz").status_code == 200
        said = service.log.read_text()
        assert good["Authorization"].partition(" ")[2] not in said
        assert "-H 'X-API-Key: …'" in said


@pytest.mark.parametrize("in_process_beside", [False, True])
def test_a_key_of_one_team_writes_for_no_other(
    owner_url: DatabaseUrl, writer_url: DatabaseUrl, database_url: DatabaseUrl, in_process_beside: bool
) -> None:
    anybody, search = make(owner_url, "all"), make(owner_url, "search", teams=["search"])
    prompt = "x" * (600_000 if in_process_beside else 10)
    events = [wire_event(team=team, prompt=prompt) for team in ("search", "ads", "search")]
    archives = [wire_archive(event["event_id"]) for event in events]
    with reachable(writer_url) as service:
        verdict = service.verdict(events, headers=search)

        assert (verdict["accepted"], verdict["rejected"]) == (2, 1)
        assert [(error["index"], error["code"]) for error in verdict["errors"]] == [(1, "forbidden_team")]
        assert servers.query(database_url, "SELECT DISTINCT team FROM analytics.usage_events") == [("search",)]

        assert service.verdict(events, headers=anybody)["accepted"] == 1
        verdict = service.verdict([*archives, wire_archive("0197a5d3-0000-7000-8000-000000000000")], ARCHIVES, headers=search)
        assert [(error["index"], error["code"]) for error in verdict["errors"]] == [
            (1, "forbidden_team"),
            (3, "unknown_event"),
        ]
        assert servers.query(database_url, "SELECT count(*) FROM analytics.message_archives") == [(2,)]
        strict = service.post(events, headers={**search, "Prefer": "handling=strict"})
        assert (strict.status_code, strict.json()["errors"][0]["code"]) == (422, "forbidden_team")


def test_a_revoked_key_stops_working_on_every_worker(owner_url: DatabaseUrl, writer_url: DatabaseUrl) -> None:
    key = make(owner_url, "chat")
    with reachable(writer_url, "--workers", "2") as service:
        address = service.client.base_url
        with httpx.Client(base_url=address) as one, httpx.Client(base_url=address) as other:
            clients = (one, other)  # a worker each
            assert {client.post(REQUESTS, json=[], headers=key).status_code for client in clients} == {200}

            api_keys.revoke(owner_url, "chat")

            deadline = time.monotonic() + REVOKED_SECONDS_MAX
            while {client.post(REQUESTS, json=[], headers=key).status_code for client in clients} != {401}:
                assert time.monotonic() < deadline
                time.sleep(0.1)


def test_a_rate_is_kept_by_all_workers_together(owner_url: DatabaseUrl, writer_url: DatabaseUrl) -> None:
    key = make(owner_url, "chat", rate_per_minute=10)
    with reachable(writer_url, "--workers", "2") as service:
        address = service.client.base_url
        with httpx.Client(base_url=address) as one, httpx.Client(base_url=address) as other:
            answers = [client.post(REQUESTS, json=[], headers=key) for _ in range(8) for client in (one, other)]

    statuses = [answer.status_code for answer in answers]
    assert statuses.count(200) in (10, 11)  # one may have come back meanwhile
    assert statuses.count(429) == len(statuses) - statuses.count(200)
    assert 1 <= int(answers[-1].headers["Retry-After"]) <= 6


def test_pages_of_other_origins_may_send_only_where_they_are_listed(writer_url: DatabaseUrl) -> None:
    ours, theirs = "https://app.example.com", "https://evil.example"

    def preflight(service: RunningService, origin: str) -> httpx.Response:
        asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type, x-api-key"}
        return service.client.options(REQUESTS, headers={"Origin": origin, **asked})

    with started({"DB_URL": writer_url.reveal()}) as closed:
        assert "Access-Control-Allow-Origin" not in preflight(closed, ours).headers
        assert "Access-Control-Allow-Origin" not in closed.post([wire_event()], headers={"Origin": ours}).headers
    with started({"DB_URL": writer_url.reveal(), "CORS_ALLOW_ORIGINS": f"{ours}, http://localhost:3000"}) as opened:
        allowed = preflight(opened, ours)
        assert (allowed.status_code, allowed.headers["Access-Control-Allow-Origin"]) == (200, ours)
        assert "Access-Control-Allow-Origin" not in preflight(opened, theirs).headers
        answer = opened.post([wire_event()], headers={"Origin": ours})
        assert (answer.json()["accepted"], answer.headers["Access-Control-Allow-Origin"]) == (1, ours)
        assert "X-Ingest-Accepted" in answer.headers["Access-Control-Expose-Headers"]
        assert "X-Request-ID" in answer.headers
