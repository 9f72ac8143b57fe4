"""One line and one count for a request, whatever became of it."""

import logging
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ingest import errors, metrics
from ingest.verdict import Verdict
from ingest.web import problems, request_log
from ingest.web.request_log import RequestLog

VERDICT = Verdict(
    received=4, accepted=1, duplicates=1, conflicts=1, rejected=1, sanitized=0, errors=[], errors_truncated=False
)
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def batch(request: Request) -> Response:
    entry = request_log.entry_of(request)
    entry.key, entry.verdict, entry.compressed_bytes, entry.store_ms = "chat", VERDICT, 17, 2.5
    return Response("{}")


async def refused(request: Request) -> Response:
    request_log.entry_of(request).code = "queue_full"
    return Response("{}", 503)


async def away(request: Request) -> Response:
    error = errors.DatabaseAway("The database does not answer: db.internal is gone.")
    request_log.entry_of(request).note(error)
    return problems.problem_of(error)


async def alive(_request: Request) -> Response:
    return Response("{}")


async def broken(_request: Request) -> Response:
    raise RuntimeError("a mistake")


ROUTES = [
    Route("/batch", batch),
    Route("/refused", refused),
    Route("/away", away),
    Route("/livez", alive),
    Route("/broken", broken),
]


@pytest.fixture
def client() -> httpx.AsyncClient:
    paths = [route.path for route in ROUTES]
    app = Starlette(
        routes=ROUTES,
        middleware=[Middleware(RequestLog, paths=paths)],
        exception_handlers={HTTPException: request_log.http_exception},
    )
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service")


def requests(endpoint: str, status: int) -> float:
    labels = {"endpoint": endpoint, "status": str(status)}
    return metrics.REGISTRY.get_sample_value("ingest_http_requests_total", labels) or 0.0


def fields(record: logging.LogRecord) -> dict[str, Any]:
    told: dict[str, Any] = record.fields  # type: ignore[attr-defined]
    return {name: value for name, value in told.items() if value is not None}


async def test_a_line_has_what_is_to_be_known_of_a_batch(client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture) -> None:
    before = requests("/batch", 200)
    with caplog.at_level(logging.INFO, "ingest"):
        await client.get("/batch", headers={"X-Request-ID": "abc", "traceparent": TRACE})

    [record] = caplog.records
    told = fields(record)
    assert told.pop("ms") >= 0
    assert told == {
        "status": 200,
        "method": "GET",
        "path": "/batch",
        "request_id": "abc",
        "client": "127.0.0.1",
        "traceparent": TRACE,
        "key": "chat",
        "received": 4,
        "accepted": 1,
        "duplicates": 1,
        "conflicts": 1,
        "rejected": 1,
        "compressed_bytes": 17,
        "store_ms": 2.5,
    }
    assert requests("/batch", 200) == before + 1


NO_TRACES = [
    *("", "x", TRACE + "\n", TRACE.upper(), f"{TRACE} {TRACE}", TRACE + "-more", "ff" + TRACE[2:]),
    *(f"00-{32 * '0'}-b7ad6b7169203331-01", f"00-0af7651916cd43dd8448eb211c80319c-{16 * '0'}-01"),
]


@pytest.mark.parametrize("sent", NO_TRACES)
async def test_a_strange_traceparent_is_not_logged(
    sent: str, client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "ingest"):
        await client.get("/batch", headers=[(b"traceparent", sent.encode())])

    assert "traceparent" not in fields(caplog.records[0])


async def test_of_a_later_traceparent_that_is_logged_which_there_is_now(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "ingest"):
        await client.get("/batch", headers={"traceparent": "01" + TRACE[2:] + "-more"})

    assert fields(caplog.records[0])["traceparent"] == "01" + TRACE[2:]


async def test_refusals_are_told_to_be_alike(client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "ingest"):
        await client.get("/refused")
        await client.get("/nowhere")

    assert [record.alike for record in caplog.records] == ["503 queue_full", "404 not_found"]  # type: ignore[attr-defined]
    assert fields(caplog.records[0])["code"] == "queue_full"


async def test_what_an_answer_keeps_back_is_for_the_operator(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "ingest"):
        answer = await client.get("/away")

    [record] = caplog.records
    assert (record.levelname, fields(record)["reason"]) == ("WARNING", "The database does not answer: db.internal is gone.")
    assert "db.internal" not in answer.text


async def test_health_checks_that_go_well_are_not_worth_a_line(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    before = requests("/livez", 200)
    with caplog.at_level(logging.INFO, "ingest"):
        await client.get("/livez")

    assert caplog.records == []
    assert requests("/livez", 200) == before + 1


async def test_paths_that_clients_make_up_are_one(client: httpx.AsyncClient) -> None:
    before = requests("other", 404)
    for number in range(5):
        await client.get(f"/made-up/{number}")

    assert requests("other", 404) == before + 5
    assert requests("/made-up/1", 404) == 0


async def test_a_mistake_of_ours_is_counted_as_such(client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "ingest"):
        answer = await client.get("/broken")

    assert answer.status_code == 500
    [record] = caplog.records
    assert (record.levelname, fields(record)["code"]) == ("ERROR", "internal_error")
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "a mistake"
