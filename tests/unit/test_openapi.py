"""The OpenAPI document says what the service does: its examples work, and every answer that is given stands in it."""

import base64
import gzip
import hashlib
import inspect
import json
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import pytest_asyncio
from openapi_schema_validator import OAS31Validator, oas31_format_checker
from openapi_spec_validator import OpenAPIV31SpecValidator
from openapi_ui_bundles import swagger_ui
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route

from ingest import errors
from ingest.events import MESSAGE_ARCHIVES, STREAMS, USAGE_EVENTS, Stream, Window
from ingest.flow import api_keys
from ingest.flow.admission import Admission
from ingest.flow.api_keys import ApiKey, KeyRing, NewKey, Scope
from ingest.flow.batch import Rows, Stored
from ingest.flow.intake import Intake
from ingest.flow.rates import Rates
from ingest.store import rows
from ingest.verdict import FORBIDDEN_TEAM, Outcome
from ingest.web import body, docs, items, openapi, problems
from ingest.web.access import Access
from ingest.web.body import BodyLimits
from ingest.web.decode import Media, decode
from ingest.web.decoding import Decoding
from ingest.web.health import Health
from ingest.web.ingestion import BatchLimits, BulkEndpoint
from ingest.web.request_log import RequestLog
from tests.samples import wire_archive, wire_event

NOW = datetime.now(UTC)
LIMITS = {"MAX_BULK_SIZE": 10, "MAX_GZIP_SIZE": 1000, "MAX_BODY_SIZE": 5000, "MAX_CLOCK_SKEW_SECONDS": 300}
PATHS = {USAGE_EVENTS: "/events", MESSAGE_ARCHIVES: "/archives"}
DOCUMENT = openapi.document(LIMITS, PATHS, NOW, is_restricted=True)
OPEN_DOCUMENT = openapi.document(LIMITS, PATHS, NOW, is_restricted=False)


class Database:
    """Stores everything, or does as it was told; the store, the database's health and the keys in one."""

    def __init__(self) -> None:
        self.stored = Stored({})
        self.broken: Exception | None = None

    def check_ready(self) -> None:
        if isinstance(self.broken, errors.Unavailable):
            raise self.broken

    def events_from(self) -> datetime | None:
        return None

    async def store(self, stream: Stream, batch: Rows, *, strict: bool) -> Stored:
        if self.broken is not None:
            raise self.broken
        return self.stored

    async def teams_of(self, event_ids: Sequence[bytes]) -> Mapping[bytes, str]:
        return {}

    async def find(self, key_ids: Sequence[str]) -> Mapping[str, ApiKey]:
        if self.broken is not None:
            raise self.broken
        return {key.key_id: key for key in KEYS.values()}

    async def readers(self, count_max: int) -> Mapping[str, ApiKey]:
        return {}

    async def ping(self) -> bool:
        return self.broken is None

    def describe(self) -> dict[str, Any]:
        return {"edition": "postgresql", "server_version": "17.2", "timescaledb_version": None, "cannot": ["compression"]}


@pytest.fixture
def database() -> Database:
    return Database()


def api_key(new: NewKey, number: int, **fields: Any) -> ApiKey:
    return ApiKey(
        **{
            "key_id": new.key_id,
            "number": number,
            "name": "chat",
            "secret_sha256": new.secret_sha256,
            "scope": Scope.INGEST,
            "teams": None,
            "rate_per_minute": None,
            "expires_at": None,
            **fields,
        }
    )


ANY_TEAM, ONE_TEAM, READING, RARE = (api_keys.make() for _ in range(4))
KEYS = {
    "any team": api_key(ANY_TEAM, 1),
    "one team": api_key(ONE_TEAM, 2, teams=frozenset({"ads"})),
    "reading": api_key(READING, 3, scope=Scope.READ),
    "rare": api_key(RARE, 4, rate_per_minute=1),
}


@pytest_asyncio.fixture
async def client(database: Database, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[httpx.AsyncClient]:
    async with _client(database, Access(None), monkeypatch) as client:
        yield client


@pytest_asyncio.fixture
async def stranger(database: Database, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[httpx.AsyncClient]:
    """A client without a key, where one is required."""
    async with _client(database, Access(KeyRing(database, Rates())), monkeypatch) as client:
        yield client


@asynccontextmanager
async def _client(database: Database, access: Access, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[httpx.AsyncClient]:
    monkeypatch.setattr(body, "LINGER_SECONDS", 0)
    intake = Intake(database, Admission(1_000_000), database)
    limits = BatchLimits(
        body=BodyLimits(
            compressed_bytes_max=LIMITS["MAX_GZIP_SIZE"], body_bytes_max=LIMITS["MAX_BODY_SIZE"], timeout_seconds=0.01
        ),
        items_max=LIMITS["MAX_BULK_SIZE"],
        event_age_days_max=1,
        clock_skew_seconds_max=LIMITS["MAX_CLOCK_SKEW_SECONDS"],
    )
    decoding = Decoding(rows.encode, "ingest.store.rows:encode", items_max=LIMITS["MAX_BULK_SIZE"])
    health = Health(intake, database, LIMITS, access, lambda: NOW)
    app = Starlette(
        routes=[
            *(
                Route(path, BulkEndpoint(stream, intake, decoding, limits, access, lambda: NOW), methods=["POST"])
                for stream, path in PATHS.items()
            ),
            Route("/", health.root),
            Route("/healthz", health.healthz),
            Route("/livez", health.livez),
            Route("/readyz", health.readyz),
            *docs.routes(LIMITS, PATHS, lambda: NOW, is_restricted=access.is_restricted),
        ],
        middleware=[Middleware(RequestLog)],
    )
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client:
        yield client


def complaints(schema: dict[str, Any], instance: Any) -> list[str]:
    """What is wrong with the instance by this schema of the document."""
    validator = OAS31Validator({**schema, "components": DOCUMENT["components"]}, format_checker=oas31_format_checker)
    return [error.message for error in validator.iter_errors(instance)]


def component(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def assert_documented(answer: httpx.Response, path: str, method: str) -> None:
    """The status, each header of ours, the media type and the body stand in the document."""
    response = DOCUMENT["paths"][path][method]["responses"][str(answer.status_code)]
    ours = {name.lower() for name in DOCUMENT["components"]["headers"]} & set(answer.headers)
    assert ours <= {name.lower() for name in response["headers"]}
    assert not {name for name in answer.headers if name.startswith("x-")} - ours
    schema = response["content"][answer.headers["content-type"]]["schema"]
    assert complaints(schema, answer.json()) == []


# --- the document by itself -------------------------------------------------------------------------------------------


def test_it_is_valid_openapi_3_1() -> None:
    for document in (DOCUMENT, OPEN_DOCUMENT):
        assert document["openapi"].startswith("3.1.")
        OpenAPIV31SpecValidator(document).validate()


def test_it_names_what_clients_look_for() -> None:
    assert {"UsageEvent", "MessageArchive", "Verdict", "Rejection", "Problem"} <= DOCUMENT["components"]["schemas"].keys()
    assert DOCUMENT["paths"].keys() == {*PATHS.values(), "/", "/healthz", "/livez", "/readyz", "/metrics"}


def test_every_reference_resolves() -> None:
    references = re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(DOCUMENT))

    assert len(references) > 20
    for reference in references:
        place: Any = DOCUMENT
        for step in reference.split("/"):
            place = place[step]


# --- requests ---------------------------------------------------------------------------------------------------------

EXAMPLES = [
    pytest.param(stream, Media(media), example["value"], id=f"{stream.name} {name}")
    for stream, path in PATHS.items()
    for media, content in DOCUMENT["paths"][path]["post"]["requestBody"]["content"].items()
    for name, example in content["examples"].items()
]


def body_of(example: Any) -> bytes:
    return example.encode() if isinstance(example, str) else json.dumps(example).encode()


@pytest.mark.parametrize(("stream", "media", "example"), EXAMPLES)
def test_examples_are_good_batches(stream: Stream, media: Media, example: Any) -> None:
    window = Window(NOW - timedelta(days=1), NOW)

    batch = decode(stream, body_of(example), media, window, items_max=LIMITS["MAX_BULK_SIZE"])

    assert batch.received > 0
    assert list(batch.rejections) == []
    content = DOCUMENT["paths"][PATHS[stream]]["post"]["requestBody"]["content"]
    assert complaints(content[media.value]["schema"], example) == []


def test_the_archives_in_the_examples_belong_to_the_events() -> None:
    def event_ids(stream: Stream) -> list[str]:
        content = DOCUMENT["paths"][PATHS[stream]]["post"]["requestBody"]["content"]
        return [item["event_id"] for item in content[Media.JSON.value]["examples"]["array"]["value"]]

    assert event_ids(USAGE_EVENTS) == event_ids(MESSAGE_ARCHIVES)
    assert len(set(event_ids(USAGE_EVENTS))) == 2


def wire_item(stream: Stream, **fields: Any) -> dict[str, Any]:
    """An item of either stream as a client writes it; a field given as `...` is left out."""
    if stream is USAGE_EVENTS:
        return wire_event(**fields)
    return wire_archive(fields.pop("event_id", "0197a3c2-5f00-7000-8000-000000000001"), **fields)


OF_BOTH_STREAMS = [
    pytest.param({}, True, id="as usual"),
    pytest.param({"temperature": 0.2}, True, id="a field that we don't know"),
    pytest.param({"service": ...}, False, id="no service"),
    pytest.param({"service": None}, False, id="a null service"),
    pytest.param({"service": ""}, False, id="an empty service"),
    pytest.param({"service": "s" * 257}, False, id="a long service"),
    pytest.param({"event_id": "0197"}, False, id="an id that is none"),
]
OF_EVENTS = [
    pytest.param({"total_tokens": ..., "extra": ...}, True, id="only what is required"),
    pytest.param(
        dict.fromkeys(["total_tokens", "latency_ms", "status_code", "error_type", "prompt", "extra"]), True, id="nulls"
    ),
    pytest.param({"total_tokens": -1}, False, id="negative tokens"),
    pytest.param({"total_tokens": 2**31}, False, id="too many tokens"),
    pytest.param({"status_code": "200"}, False, id="a status as text"),
    pytest.param({"status_code": 600}, False, id="a status that is none"),
    pytest.param({"error_type": "e" * 257}, False, id="a long error"),
    pytest.param({"event_time": "2026-01-01T00:00:00"}, False, id="a time without an offset"),
    pytest.param({"extra": {"any": ["thing"]}}, True, id="extra"),
    pytest.param({"extra": []}, False, id="extra that is an array"),
    pytest.param({"extra": "{}"}, False, id="extra that is text"),
]
OF_ARCHIVES = [
    pytest.param(dict.fromkeys(["prompt_full", "response_full", "stored_at"]), True, id="nulls"),
    pytest.param({"prompt_full": 1}, False, id="a prompt that is a number"),
    pytest.param({"stored_at": "yesterday"}, False, id="a time that is none"),
]


def assert_schema_agrees_with_service(stream: Stream, fields: dict[str, Any], good: bool) -> None:
    item = wire_item(stream, **fields)
    window = Window(NOW - timedelta(days=1), NOW + timedelta(days=1))

    batch = decode(stream, body_of([item]), Media.JSON, window, items_max=1)

    assert (list(batch.rejections) == []) is good
    assert (complaints(component(stream.item.__name__), item) == []) is good


@pytest.mark.parametrize(("fields", "good"), OF_BOTH_STREAMS + OF_EVENTS)
def test_an_event_is_valid_where_the_service_takes_it(fields: dict[str, Any], good: bool) -> None:
    assert_schema_agrees_with_service(USAGE_EVENTS, fields, good)


@pytest.mark.parametrize(("fields", "good"), OF_BOTH_STREAMS + OF_ARCHIVES)
def test_an_archive_is_valid_where_the_service_takes_it(fields: dict[str, Any], good: bool) -> None:
    assert_schema_agrees_with_service(MESSAGE_ARCHIVES, fields, good)


# --- answers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS.values())
def test_every_status_of_a_refusal_is_documented(path: str) -> None:
    statuses = {str(status.value) for kind, status in problems.STATUS.items() if kind is not errors.ClientGone}

    responses = DOCUMENT["paths"][path]["post"]["responses"]

    assert statuses | {"200", "422"} == responses.keys()


def test_every_code_of_a_refusal_is_documented() -> None:
    def codes(kind: type[errors.IngestError]) -> Iterator[str]:
        yield kind.code
        for child in kind.__subclasses__():
            yield from codes(child)

    responses = DOCUMENT["paths"]["/events"]["post"]["responses"]
    documented = {
        example["value"].get("code")
        for response in responses.values()
        for content in response["content"].values()
        for example in content["examples"].values()
    }

    for branch in (errors.AccessDenied, errors.RequestRefused, errors.Unavailable):
        assert set(codes(branch)) - {branch.code} <= documented
    assert {"internal_error", "batch_rejected"} <= documented
    assert "port_taken" not in documented


def test_every_code_of_an_item_is_documented() -> None:
    raised = set(re.findall(r'Rejected\(\s*"(\w+)"', inspect.getsource(items)))

    assert raised | {FORBIDDEN_TEAM} | set(Outcome) - {Outcome.DUPLICATE} == openapi.ITEM_CODES.keys()


def test_the_answers_in_the_examples_are_valid() -> None:
    for operations in DOCUMENT["paths"].values():
        for operation in operations.values():
            for response in operation["responses"].values():
                for content in response["content"].values():
                    for example in content.get("examples", {}).values():
                        assert complaints(content["schema"], example["value"]) == []


REQUESTS: list[Any] = [
    pytest.param({"json": [wire_event(event_time=NOW.isoformat())]}, 200, id="stored"),
    pytest.param({"json": []}, 200, id="empty"),
    pytest.param(
        {"json": [wire_event(event_time=NOW.isoformat())], "headers": {"Prefer": "handling=strict"}},
        200,
        id="stored strictly",
    ),
    pytest.param({"json": [wire_event(event_time=NOW.isoformat()), {}]}, 200, id="some rejected"),
    pytest.param(
        {"json": [wire_event(event_time=NOW.isoformat()), {}], "headers": {"Prefer": "handling=strict"}},
        422,
        id="rejected strictly",
    ),
    pytest.param({"json": [{}]}, 422, id="all rejected"),
    pytest.param({"content": b"{", "headers": {"Content-Type": "application/json"}}, 400, id="no JSON"),
    pytest.param({"json": [], "headers": {"Content-Encoding": "gzip"}}, 400, id="no gzip"),
    pytest.param({"json": [{}] * 11}, 413, id="too many items"),
    pytest.param({"json": ["x" * 5000]}, 413, id="too many bytes"),
    pytest.param(
        {
            "content": gzip.compress(bytes(100_000)),
            "headers": {"Content-Type": "application/json", "Content-Encoding": "gzip"},
        },
        413,
        id="a bomb",
    ),
    pytest.param({"json": [], "headers": {"Content-Encoding": "br"}}, 415, id="strange coding"),
    pytest.param({"content": b"a,b", "headers": {"Content-Type": "text/csv"}}, 415, id="strange type"),
]


@pytest.mark.parametrize(("request_", "status"), REQUESTS)
async def test_what_is_answered_is_documented(client: httpx.AsyncClient, request_: dict[str, Any], status: int) -> None:
    answer = await client.post("/events", **request_)

    assert answer.status_code == status
    assert_documented(answer, "/events", "post")


@pytest.mark.parametrize("outcome", Outcome)
@pytest.mark.parametrize("stream", STREAMS, ids=lambda stream: stream.name)
async def test_every_outcome_is_documented(
    client: httpx.AsyncClient, database: Database, stream: Stream, outcome: Outcome
) -> None:
    database.stored = Stored({0: outcome})

    answer = await client.post(PATHS[stream], json=[wire_item(stream)])

    assert_documented(answer, PATHS[stream], "post")


@pytest.mark.parametrize(
    ("broken", "status"),
    [
        (errors.Draining("The service is stopping."), 503),
        (errors.DatabaseAway("No route to host."), 503),
        (errors.DatabaseBusy("A lock."), 503),
        (errors.DatabaseRefused("No such role."), 503),
        (errors.PoolerUnsupported("PgBouncer."), 503),
        (errors.NotReady("A migration is missing."), 503),
        (errors.QueueFull("Too much waits."), 503),
        (errors.DecoderGone("It was killed."), 503),
        (errors.BodyTimeout("Nothing more came."), 408),
        (ValueError("a mistake of ours"), 500),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
async def test_what_is_answered_when_the_store_fails_is_documented(
    client: httpx.AsyncClient, database: Database, broken: Exception, status: int
) -> None:
    database.broken = broken

    answer = await client.post("/events", json=[wire_event(event_time=NOW.isoformat())])

    assert answer.status_code == status
    assert_documented(answer, "/events", "post")


def with_key(new: NewKey) -> dict[str, str]:
    return {"Authorization": f"Bearer {new.text}"}


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        pytest.param({}, "key_missing", id="none"),
        pytest.param({"Authorization": "Basic YTpi"}, "key_missing", id="another scheme"),
        pytest.param({"Authorization": "Bearer "}, "key_refused", id="nothing"),
        pytest.param({"X-API-Key": "hello"}, "key_refused", id="no key"),
        pytest.param({"X-API-Key": f"{ANY_TEAM.text[:-1]}!"}, "key_refused", id="a strange character"),
        pytest.param(
            {"X-API-Key": ONE_TEAM.text.replace(ONE_TEAM.key_id, ANY_TEAM.key_id)}, "key_refused", id="another's secret"
        ),
        pytest.param(with_key(api_keys.make()), "key_refused", id="unknown"),
    ],
)
async def test_whoever_has_no_key_is_401(stranger: httpx.AsyncClient, headers: dict[str, str], code: str) -> None:
    for path, method in (("/events", "post"), ("/archives", "post"), ("/", "get")):
        answer = await stranger.request(method, path, headers=headers)

        assert (answer.status_code, answer.json()["code"]) == (401, code)
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        assert_documented(answer, path, method)


@pytest.mark.parametrize(
    "headers", [with_key(ANY_TEAM), {"Authorization": f"bEARER  {ANY_TEAM.text} "}, {"X-API-Key": ANY_TEAM.text}]
)
async def test_a_key_may_be_sent_in_either_header(stranger: httpx.AsyncClient, headers: dict[str, str]) -> None:
    answer = await stranger.post("/events", json=[wire_event(event_time=NOW.isoformat())], headers=headers)

    assert (answer.status_code, answer.json()["accepted"]) == (200, 1)


async def test_a_key_for_reading_may_read_and_not_write(stranger: httpx.AsyncClient) -> None:
    answer = await stranger.post("/events", json=[], headers=with_key(READING))

    assert (answer.status_code, answer.json()["code"]) == (403, "scope_forbidden")
    assert_documented(answer, "/events", "post")
    assert (await stranger.get("/", headers=with_key(READING))).status_code == 200


async def test_a_key_that_is_used_too_often_is_told_when_to_come_again(stranger: httpx.AsyncClient) -> None:
    assert (await stranger.post("/events", json=[], headers=with_key(RARE))).status_code == 200
    answer = await stranger.post("/events", json=[], headers=with_key(RARE))

    assert (answer.status_code, answer.json()["code"]) == (429, "rate_exceeded")
    assert 55 <= int(answer.headers["Retry-After"]) <= 60
    assert_documented(answer, "/events", "post")


async def test_events_of_another_team_are_rejected_and_the_others_stored(stranger: httpx.AsyncClient) -> None:
    events = [wire_event(event_time=NOW.isoformat(), team=team) for team in ("ads", "search", "ads")]

    answer = await stranger.post("/events", json=events, headers=with_key(ONE_TEAM))

    assert (answer.status_code, answer.json()["accepted"]) == (200, 2)
    [error] = answer.json()["errors"]
    assert (error["index"], error["code"], error["field"]) == (1, "forbidden_team", "team")
    assert error["event_id"] == events[1]["event_id"]
    assert_documented(answer, "/events", "post")


async def test_keys_that_can_not_be_looked_up_are_503(stranger: httpx.AsyncClient, database: Database) -> None:
    database.broken = errors.DatabaseAway("away")

    for path, method in (("/events", "post"), ("/", "get")):
        answer = await stranger.request(method, path, headers=with_key(ANY_TEAM))

        assert answer.status_code == 503
        assert_documented(answer, path, method)


@pytest.mark.parametrize("path", ["/healthz", "/livez", "/readyz", "/docs", "/openapi.json"])
async def test_health_and_docs_need_no_key(stranger: httpx.AsyncClient, path: str) -> None:
    assert (await stranger.get(path)).status_code == 200


async def test_where_no_key_is_required_none_is_looked_at_and_none_is_documented(client: httpx.AsyncClient) -> None:
    answer = await client.post("/events", json=[], headers={"X-API-Key": "hello"})

    assert answer.status_code == 200
    assert "security" not in json.dumps(OPEN_DOCUMENT["paths"])
    assert OPEN_DOCUMENT["paths"]["/events"]["post"]["responses"].keys().isdisjoint({"401", "403", "429"})
    assert DOCUMENT["paths"]["/events"]["post"]["security"] == DOCUMENT["paths"]["/"]["get"]["security"] != []


@pytest.mark.parametrize("path", ["/", "/healthz", "/livez", "/readyz"])
@pytest.mark.parametrize("broken", [None, errors.DatabaseAway("away"), errors.DatabaseRefused("refused")], ids=str)
async def test_what_the_service_tells_is_documented(
    client: httpx.AsyncClient, database: Database, path: str, broken: Exception | None
) -> None:
    database.broken = broken

    assert_documented(await client.get(path), path, "get")


# --- the page ---------------------------------------------------------------------------------------------------------


async def test_the_document_is_served(stranger: httpx.AsyncClient) -> None:
    answer = await stranger.get(docs.DOCUMENT_PATH)

    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == DOCUMENT


async def test_the_page_loads_everything_from_here(client: httpx.AsyncClient) -> None:
    page = await client.get(docs.PAGE_PATH)

    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "//" not in page.text
    assert "default-src 'self'" in page.headers["content-security-policy"]
    loaded = [*re.findall(r'(?:href|src|url): ?"([^"]+)"|(?:href|src)="([^"]+)"', page.text)]
    assert len(loaded) == 4
    for address in map("".join, loaded):
        assert (await client.get(page.url.join(address))).status_code == 200, address


@pytest.mark.parametrize("name", ["swagger-ui.css", "swagger-ui-bundle.js", "favicon-32x32.png"])
async def test_what_the_page_loads_is_whole(client: httpx.AsyncClient, name: str) -> None:
    answer = await client.get(f"{docs.PAGE_PATH}/{name}")

    assert answer.content == (swagger_ui.static_path / name).read_bytes()
    assert answer.headers["content-length"] == str(len(answer.content))


async def test_the_document_is_made_once_a_day(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks for it needs no key."""
    times = [datetime(2026, 3, day, hour, tzinfo=UTC) for day, hour in ((1, 1), (1, 23), (2, 0), (2, 12))]
    asked = iter(times)
    made: list[datetime] = []

    def document(_limits: object, _paths: object, now: datetime, *, is_restricted: bool) -> dict[str, int]:
        made.append(now)
        return {"made": len(made)}

    monkeypatch.setattr(openapi, "document", document)
    app = Starlette(routes=docs.routes(LIMITS, PATHS, lambda: next(asked), is_restricted=True))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client:
        answers = [(await client.get(docs.DOCUMENT_PATH)).json()["made"] for _ in times]

    assert answers == [1, 1, 2, 2]
    assert made == [datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 2, tzinfo=UTC)]


async def test_the_page_of_the_package_is_not_served(client: httpx.AsyncClient) -> None:
    assert (await client.get(f"{docs.PAGE_PATH}/index.html")).status_code == 404


async def test_the_pages_own_script_is_allowed_by_its_policy(client: httpx.AsyncClient) -> None:
    page = await client.get(docs.PAGE_PATH)
    (script,) = re.findall(r"<script>(.+?)</script>", page.text, re.DOTALL)

    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"'sha256-{digest}'" in page.headers["content-security-policy"]
