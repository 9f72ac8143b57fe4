"""Every status that /openapi.json documents is provoked from a service that runs, with each of its headers, its media types
and those of its codes that a client can provoke; and each answer is as it stands there. And the examples are sent."""

import gzip
import time
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import pytest
from openapi_schema_validator import OAS31Validator, oas31_format_checker

from ingest.flow import api_keys as flow_keys
from ingest.flow.api_keys import Scope
from ingest.settings import DatabaseUrl
from ingest.store import api_keys
from tests import rawhttp, servers
from tests.samples import wire_archive, wire_event
from tests.servers import Server
from tests.service import ARCHIVES, REQUESTS, RunningService, started

pytestmark = servers.ON_ONE

JSON = {"Content-Type": "application/json"}
TRANSPORT_HEADERS = {"content-type", "content-length", "date", "connection", "cache-control"}
"""What HTTP itself brings."""
PATHS = (REQUESTS, ARCHIVES)
PROVOKED_ELSEWHERE = {
    "internal_error": "a mistake of ours: tests/unit/test_openapi.py",
    "database_busy": "tests/unit/test_openapi.py",
    "database_refused": "tests/unit/test_openapi.py",
    "decoder_unavailable": "tests/unit/test_openapi.py",
    "pooler_unsupported": "tests/unit/test_openapi.py",
    "not_ready": "tests/unit/test_openapi.py",
    "queue_full": "tests/unit/test_openapi.py",
    "draining": "tests/acceptance/test_lifecycle.py",
    "head_timeout": "it takes long: tests/unit/test_http1.py",
    "too_many_connections": "tests/acceptance/test_abuse.py",
}
"""Codes, and where."""


class Document:
    """/openapi.json, and what of it was seen."""

    def __init__(self, content: dict[str, Any]) -> None:
        self.content = content
        self.seen: dict[str, set[str]] = {path: set() for path in content["paths"]}
        self.parts_seen: set[str] = set()
        """Headers, media types and codes, each with its path and status."""

    def operation(self, path: str) -> dict[str, Any]:
        [operation] = self.content["paths"][path].values()
        return dict(operation)

    def check(self, path: str, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """The answer is as it stands there."""
        documented = self.operation(path)["responses"].get(str(status))
        assert documented is not None, f"{path} answered {status}, of which nobody knows: {body!r}"
        self.seen[path].add(str(status))
        names = {name.lower() for name in headers}
        known = {name.lower() for name in documented["headers"]}
        assert names - TRANSPORT_HEADERS <= known
        self.parts_seen |= {f"{path} {status} {name}" for name in names}
        required = {
            name.lower()
            for name, header in documented["headers"].items()
            if self.content["components"]["headers"][header["$ref"].rpartition("/")[2]].get("required")
        }
        assert required <= names
        media_type = headers["content-type"].partition(";")[0]
        schema = documented["content"][media_type]["schema"]
        self.parts_seen.add(f"{path} {status} {media_type}")
        if media_type.endswith("json"):
            validator = OAS31Validator(
                {**schema, "components": self.content["components"]}, format_checker=oas31_format_checker
            )
            validator.validate(msgspec.json.decode(body))
        if media_type == "application/problem+json":
            examples = documented["content"][media_type]["examples"]
            codes = {example["value"]["code"] for example in examples.values()}
            code = msgspec.json.decode(body)["code"]
            assert code in codes
            self.parts_seen.add(f"{path} {status} {code}")

    def parts(self) -> set[str]:
        """Every header, media type and code that is documented, in the form of `parts_seen`."""
        return {
            f"{path} {status} {part}"
            for path in self.content["paths"]
            for status, response in self.operation(path)["responses"].items()
            for part in (
                *(name.lower() for name in response["headers"]),
                *response["content"],
                *(
                    example["value"]["code"]
                    for example in response["content"].get("application/problem+json", {}).get("examples", {}).values()
                ),
            )
        }


@pytest.fixture
def keys(owner_url: DatabaseUrl) -> dict[str, dict[str, str]]:
    """Headers that send keys: good, reading, rare (one request a minute)."""
    chosen: dict[str, dict[str, Any]] = {
        "good": {"scope": Scope.INGEST},
        "reading": {"scope": Scope.READ},
        "rare": {"scope": Scope.INGEST, "rate_per_minute": 1},
    }
    made = {}
    for name, fields in chosen.items():
        key, _ = api_keys.create(
            owner_url, name=name, **{"teams": None, "rate_per_minute": None, "expires_at": None, **fields}
        )
        made[name] = {"X-API-Key": key.text}
    return made


@pytest.fixture
def service(writer_url: DatabaseUrl, keys: dict[str, dict[str, str]]) -> Iterator[RunningService]:
    settings = {
        "DB_URL": writer_url.reveal(),
        "AUTH_REQUIRED": "true",
        "MAX_GZIP_SIZE": "2048",
        "BODY_TIMEOUT_SECONDS": "0.3",
    }
    with started({**settings, "MAX_BULK_SIZE": "10"}) as running:
        yield running


def test_every_documented_answer_is_given_as_it_stands_there(
    service: RunningService, keys: dict[str, dict[str, str]], server: Server, database_url: DatabaseUrl
) -> None:
    document = Document(service.client.get("/openapi.json").json())
    good = keys["good"]

    def post(path: str, content: bytes | Iterator[bytes], headers: Mapping[str, str], status: int) -> None:
        answer = service.client.post(path, content=content, headers=headers)
        assert answer.status_code == status, answer.text
        document.check(path, status, answer.headers, answer.content)

    def slowly() -> Iterator[bytes]:
        yield b"["
        time.sleep(1)

    def raw(path: str, data: bytes, status: int) -> None:
        answers, _ = rawhttp.ask(service, data)
        assert answers[-1].status == status
        headers = {name.lower(): value for name, value in answers[-1].headers.items()}
        document.check(path, status, headers, answers[-1].body)

    event = wire_event()
    for path, item in ((REQUESTS, event), (ARCHIVES, wire_archive(event_id=event["event_id"]))):
        batch = msgspec.json.encode([item])
        post(path, batch, {**JSON, **good}, 200)
        post(path, batch, {**JSON, **good, "Prefer": "handling=strict"}, 200)
        post(path, b"[{}]", {**JSON, **good}, 422)
        post(path, b"[{}]", {**JSON, **good, "Prefer": "handling=strict"}, 422)
        post(path, b"{", {**JSON, **good}, 400)
        post(path, b"no gzip", {**JSON, **good, "Content-Encoding": "gzip"}, 400)
        post(path, batch, JSON, 401)
        post(path, batch, {**JSON, "X-API-Key": "unknown"}, 401)
        post(path, batch, {**JSON, **keys["reading"]}, 403)
        post(path, slowly(), {**JSON, **good}, 408)
        post(path, gzip.compress(msgspec.json.encode([item] * 11)), {**JSON, **good, "Content-Encoding": "gzip"}, 413)
        post(path, bytes(3000), {**JSON, **good, "Content-Encoding": "gzip"}, 413)
        post(path, batch, {**JSON, **good, "Content-Encoding": "br"}, 415)
        post(path, batch, {**good, "Content-Type": "text/plain"}, 415)
        request = f"POST {path} HTTP/1.1\r\nHost: x\r\n".encode()
        raw(path, b"POST " + path.encode() + b"?" + b"x" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414)
        raw(path, request + b"x: " + b"y" * 17_000 + b"\r\n\r\n", 431)
        raw(path, request + b"no colon\r\n\r\n", 400)
        raw(path, request + b"Transfer-Encoding: gzip\r\n\r\n", 501)
        raw(path, request.replace(b"1.1", b"2.0") + b"\r\n", 505)
    for path in PATHS:  # one request a minute, of both together
        post(path, b"[]", {**JSON, **keys["rare"]}, 200 if path == REQUESTS else 429)
    post(REQUESTS, b"[]", {**JSON, **keys["rare"]}, 429)

    def get(path: str, headers: Mapping[str, str], status: int) -> None:
        answer = service.client.get(path, headers=headers)
        assert answer.status_code == status, answer.text
        document.check(path, status, answer.headers, answer.content)

    for path in ("/", "/metrics"):
        get(path, keys["reading"], 200)
        get(path, {}, 401)
        get(path, {"X-API-Key": "unknown"}, 401)
        get(path, keys["rare"], 429)
    get("/metrics", {**keys["reading"], "Accept": "application/openmetrics-text"}, 200)
    for path in ("/healthz", "/livez", "/readyz"):
        get(path, {}, 200)

    [[name]] = servers.query(database_url, "SELECT current_database()")
    terminate = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
    servers.execute(server.admin, f"ALTER DATABASE {name} ALLOW_CONNECTIONS false", terminate)
    end = time.monotonic() + 20
    while service.client.get("/readyz").status_code == 200:
        assert time.monotonic() < end
        time.sleep(0.1)
    for path in ("/healthz", "/readyz"):
        get(path, {}, 503)
    for path, item in ((REQUESTS, wire_event()), (ARCHIVES, wire_archive(event["event_id"]))):
        post(path, msgspec.json.encode([item]), {**JSON, **good}, 503)
    for path in ("/", "/metrics"):  # of a key that is known, what was known counts
        get(path, {"X-API-Key": flow_keys.make().text}, 503)

    for path, operation in document.content["paths"].items():
        [documented] = operation.values()
        # A mistake of ours is what nobody can ask for; tests/unit/test_openapi.py makes one.
        assert documented["responses"].keys() - document.seen[path] <= {"500"}, path
    never = {part for part in document.parts() - document.parts_seen if " 500 " not in part}
    assert {part for part in never if part.split()[-1] not in PROVOKED_ELSEWHERE} == set()
    # What can be provoked here should not stand there.
    assert {part.split()[-1] for part in never} | {"internal_error"} == PROVOKED_ELSEWHERE.keys()


def test_every_example_of_a_request_is_stored(service: RunningService, keys: dict[str, dict[str, str]]) -> None:
    document = service.client.get("/openapi.json").json()
    sent = 0
    for path in PATHS:  # an archive's usage event comes before it
        accepted = 0
        for media_type, content in document["paths"][path]["post"]["requestBody"]["content"].items():
            for example in content["examples"].values():
                value = example["value"]
                body = value.encode() if isinstance(value, str) else msgspec.json.encode(value)
                answer = service.client.post(path, content=body, headers={"Content-Type": media_type, **keys["good"]})
                verdict = answer.json()
                assert (answer.status_code, verdict["errors"]) == (200, []), answer.text
                assert verdict["accepted"] + verdict["duplicates"] == verdict["received"] > 0
                accepted += verdict["accepted"]
                sent += 1
        assert accepted == 2  # they are the same two everywhere
    assert sent == 8
