"""The main job, as an SDK sees it: bodies in every form, verdicts, retries, and what is in the database then."""

import gzip
import json
import socket
import sys
import uuid
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from benchmarks.generate import Generator
from ingest.settings import DatabaseUrl
from tests import servers
from tests.samples import wire_archive, wire_event
from tests.service import ARCHIVES, RunningService

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ALL_ACCEPTED = {"duplicates": 0, "conflicts": 0, "rejected": 0, "sanitized": 0, "errors": [], "errors_truncated": False}


def test_a_thousand_realistic_events_are_stored_once_and_duplicates_the_second_time(
    service: RunningService, database_url: DatabaseUrl
) -> None:
    events = Generator(7, now=datetime.now(UTC)).usage_events(1000, timedelta(days=3))

    assert service.verdict(events) == {"received": 1000, "accepted": 1000, **ALL_ACCEPTED}
    assert service.verdict(events) == {"received": 1000, "accepted": 0, **ALL_ACCEPTED, "duplicates": 1000}

    rows = servers.query(
        database_url,
        "SELECT count(*), count(DISTINCT event_id), sum(total_tokens), count(prompt), count(extra), min(event_time),"
        " max(event_time) FROM analytics.usage_events",
    )
    assert rows == [
        (
            1000,
            1000,
            sum(event.get("total_tokens", 0) for event in events),
            sum("prompt" in event for event in events),
            sum("extra" in event for event in events),
            min(datetime.fromisoformat(event["event_time"]) for event in events),
            max(datetime.fromisoformat(event["event_time"]) for event in events),
        )
    ]


def test_archives_of_stored_events_are_stored_once(service: RunningService, database_url: DatabaseUrl) -> None:
    generator = Generator(8, now=datetime.now(UTC) - timedelta(minutes=1))
    events = generator.usage_events(50)
    archives = generator.message_archives(events)
    service.verdict(events[:40])

    verdict = service.verdict(archives, ARCHIVES)

    assert (verdict["accepted"], verdict["rejected"]) == (40, 10)
    assert {error["code"] for error in verdict["errors"]} == {"unknown_event"}
    service.verdict(events)
    again = service.verdict(archives, ARCHIVES)
    assert (again["accepted"], again["duplicates"]) == (10, 40)
    assert servers.query(database_url, "SELECT count(*), count(DISTINCT event_id) FROM analytics.message_archives") == [
        (50, 50)
    ]


EVENTS = [wire_event(prompt="naïve 😀 \u2028") for _ in range(3)]
ARRAY = json.dumps(EVENTS).encode()
LINES = b"".join(json.dumps(event).encode() + b"\n" for event in EVENTS)
CODINGS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "GZIP": lambda body: gzip.compress(body[:50]) + gzip.compress(body[50:]),
    "zstd": zstd.compress,
    "deflate": zlib.compress,
    "identity": bytes,
}


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize(
    ("media", "body"),
    [
        ("application/json", ARRAY),
        ("application/json; charset=utf-8", json.dumps({"events": EVENTS, "sdk": "x"}).encode()),
        ("application/x-ndjson", LINES),
        ("application/x-ndjson", LINES.replace(b"\n", b"\r\n\r\n")),
        ("application/json", LINES),
        ("Application/JSON", json.dumps(EVENTS, indent=2, ensure_ascii=False).encode()),
    ],
    ids=["array", "envelope", "lines", "lines with CRLF and blanks", "lines labelled JSON", "pretty"],
)
def test_every_form_of_a_body_says_the_same(shared_service: RunningService, coding: str, media: str, body: bytes) -> None:
    headers = {"Content-Type": media, "Content-Encoding": coding}

    answer = shared_service.client.post("/api/v1/ingest/requests:bulk", content=CODINGS[coding](body), headers=headers)

    assert answer.status_code == 200, answer.text
    verdict = answer.json()
    assert verdict["received"] == verdict["accepted"] + verdict["duplicates"] == 3


@pytest.mark.parametrize("body", [b"[]", b'{"events": []}'])
def test_an_empty_batch_is_fine(shared_service: RunningService, body: bytes) -> None:
    assert shared_service.verdict(body) == {"received": 0, "accepted": 0, **ALL_ACCEPTED}


def test_a_body_in_many_small_chunks_is_one_body(shared_service: RunningService) -> None:
    body = gzip.compress(json.dumps([wire_event() for _ in range(20)]).encode())
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}

    answer = shared_service.client.post(
        "/api/v1/ingest/requests:bulk", content=(body[k : k + 7] for k in range(0, len(body), 7)), headers=headers
    )

    assert answer.json()["accepted"] == 20


def test_an_offer_of_http_2_is_ignored(shared_service: RunningService) -> None:
    offer = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAEAAEAAAAIAAAABAAMAAABkAAQBAAAA"}

    assert shared_service.verdict([wire_event()], headers=offer)["accepted"] == 1
    assert shared_service.verdict([wire_event(prompt="\r\nUpgrade: x\r\n\r\n")], headers=offer)["accepted"] == 1


def test_what_is_no_http_is_a_problem_too(shared_service: RunningService) -> None:
    address = (shared_service.client.base_url.host, shared_service.client.base_url.port or 0)
    with socket.create_connection(address, timeout=10) as client:
        client.sendall(b"HELLO\r\n\r\n")
        answer = b"".join(iter(lambda: client.recv(65536), b""))

    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"application/problem+json" in head
    assert b"x-request-id: " in head.lower()
    assert json.loads(body)["status"] == 400


def test_one_event_object_is_a_batch_of_one(shared_service: RunningService) -> None:
    assert shared_service.verdict(json.dumps(wire_event()).encode())["accepted"] == 1


def test_unknown_fields_are_kept_in_extra(service: RunningService, database_url: DatabaseUrl) -> None:
    event = wire_event(extra={"region": "eu"}, cost_usd=0.25, trace={"id": "abc"}, region="top")

    assert service.verdict([event])["accepted"] == 1

    [(extra,)] = servers.query(database_url, "SELECT extra FROM analytics.usage_events")
    assert extra == {"region": "eu", "cost_usd": 0.25, "trace": {"id": "abc"}, "$.region": "top"}
    same = {**event, "extra": extra}
    for name in ("cost_usd", "trace", "region"):
        del same[name]
    assert service.verdict([same])["duplicates"] == 1


def test_text_that_postgresql_cant_hold_is_sanitized(service: RunningService, database_url: DatabaseUrl) -> None:
    event = wire_event(prompt="a\0b\ud83d", error_type="\udc00", extra={"k\0": ["\ud800", "fine 😀"]})

    verdict = service.verdict(json.dumps([event, wire_event()]).encode())

    assert (verdict["accepted"], verdict["sanitized"]) == (2, 1)
    rows = servers.query(
        database_url, "SELECT prompt, error_type, extra FROM analytics.usage_events WHERE event_id = %s", event["event_id"]
    )
    assert rows == [("a\ufffdb\ufffd", "\ufffd", {"k\ufffd": ["\ufffd", "fine 😀"]})]
    assert service.verdict(json.dumps([event]).encode())["duplicates"] == 1


def test_null_means_absent(service: RunningService, database_url: DatabaseUrl) -> None:
    nothing = dict.fromkeys(["total_tokens", "latency_ms", "status_code", "error_type", "prompt", "extra"])
    event = wire_event(**nothing)

    assert service.verdict([event])["accepted"] == 1
    assert service.verdict([{name: value for name, value in event.items() if value is not None}])["duplicates"] == 1
    assert servers.query(database_url, "SELECT total_tokens, latency_ms, extra FROM analytics.usage_events") == [
        (0, None, None)
    ]


def test_conflicts_are_listed_and_the_first_event_stays(service: RunningService, database_url: DatabaseUrl) -> None:
    event = wire_event()
    yesterday = (datetime.now(UTC) - timedelta(days=1)).isoformat()

    verdict = service.verdict([event, {**event, "event_time": yesterday}, event])

    assert (verdict["accepted"], verdict["conflicts"], verdict["duplicates"]) == (1, 1, 1)
    [error] = verdict["errors"]
    assert (error["index"], error["event_id"], error["code"]) == (1, event["event_id"], "conflict")
    assert service.verdict([{**event, "event_time": yesterday}])["conflicts"] == 1
    assert servers.query(database_url, "SELECT count(*) FROM analytics.usage_events") == [(1,)]


def test_the_errors_are_the_first_hundred(shared_service: RunningService) -> None:
    verdict = shared_service.verdict([wire_event(), *(wire_event(team="") for _ in range(150))])

    assert (verdict["accepted"], verdict["rejected"]) == (1, 150)
    assert [error["index"] for error in verdict["errors"]] == list(range(1, 101))
    assert verdict["errors_truncated"] is True


def test_strict_stores_all_or_nothing(service: RunningService, database_url: DatabaseUrl) -> None:
    good = [wire_event() for _ in range(3)]
    strict = {"Prefer": 'respond-async, handling="strict"'}

    refused = service.post([*good, wire_event(team="")], headers=strict)

    assert refused.status_code == 422
    assert refused.headers["Preference-Applied"] == "handling=strict"
    assert (refused.json()["accepted"], refused.json()["rejected"], len(refused.json()["errors"])) == (0, 4, 1)
    assert servers.query(database_url, "SELECT count(*) FROM analytics.usage_events") == [(0,)]
    assert service.verdict(good, headers=strict)["accepted"] == 3
    unknown = service.post([wire_archive(good[0]["event_id"]), wire_archive(uuid.uuid4())], ARCHIVES, headers=strict)
    assert unknown.status_code == 422
    assert [error["index"] for error in unknown.json()["errors"]] == [1]
    assert servers.query(database_url, "SELECT count(*) FROM analytics.message_archives") == [(0,)]


def test_one_event_at_the_same_moment_on_many_connections_is_accepted_once(
    service: RunningService, database_url: DatabaseUrl
) -> None:
    rounds, senders = 20, 8
    with ThreadPoolExecutor(senders) as pool:
        clients = [httpx.Client(base_url=service.client.base_url, timeout=60) for _ in range(senders)]
        for _ in range(rounds):
            event = wire_event()
            other_time = {**event, "event_time": (datetime.now(UTC) - timedelta(days=2)).isoformat()}
            versions = [event, other_time] * (senders // 2)

            def send(pair: tuple[httpx.Client, dict[str, object]]) -> dict[str, int]:
                client, version = pair
                answer: dict[str, int] = client.post("/api/v1/ingest/requests:bulk", json=[version]).json()
                return answer

            verdicts = list(pool.map(send, zip(clients, versions, strict=True)))
            assert sum(verdict["accepted"] for verdict in verdicts) == 1
            assert sum(verdict["duplicates"] for verdict in verdicts) == senders // 2 - 1
            assert sum(verdict["conflicts"] for verdict in verdicts) == senders // 2
        for client in clients:
            client.close()
    assert servers.query(database_url, "SELECT count(*), count(DISTINCT event_id) FROM analytics.usage_events") == [
        (rounds, rounds)
    ]


@pytest.mark.parametrize(
    ("sent", "is_kept"), [("abc-123", True), ("0af7651916cd43dd", True), ("a b", False), ("x" * 129, False)]
)
def test_every_answer_carries_a_request_id(shared_service: RunningService, sent: str, is_kept: bool) -> None:
    for path in ("/livez", "/no-such-path"):
        answer = shared_service.client.get(path, headers={"X-Request-ID": sent})
        assert (answer.headers["X-Request-ID"] == sent) is is_kept
        assert answer.headers["X-Request-ID"]


def test_a_path_or_method_that_is_not_there_is_a_problem(shared_service: RunningService) -> None:
    missing = shared_service.client.get("/nope")
    wrong_method = shared_service.client.get("/api/v1/ingest/requests:bulk")

    assert (missing.status_code, missing.json()["code"]) == (404, "not_found")
    assert (wrong_method.status_code, wrong_method.json()["code"]) == (405, "method_not_allowed")
    assert wrong_method.headers["Allow"] == "POST"
    assert missing.headers["Content-Type"] == wrong_method.headers["Content-Type"] == "application/problem+json"


def test_the_root_says_what_this_is(shared_service: RunningService, shared_database_url: DatabaseUrl) -> None:
    said = shared_service.client.get("/").json()

    assert said["name"] == "llm-analytics-ingest"
    assert servers.query(shared_database_url, "SELECT edition FROM analytics.installation") == [
        (said["database"]["edition"],)
    ]
    assert said["limits"]["MAX_BULK_SIZE"] == 1000
    assert all(shared_service.client.get(said["links"][name]).status_code == 200 for name in ("health", "live", "ready"))
