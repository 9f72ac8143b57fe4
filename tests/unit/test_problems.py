"""Every error has its answer, and none shows what is inside."""

import json
import re
from collections.abc import Iterator

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from ingest import errors
from ingest.web import problems, request_log

SECRET = "postgres at db-7.internal said: relation analytics.x; password authentication failed for user bob"


def tree(kind: type[errors.IngestError] = errors.IngestError) -> Iterator[type[errors.IngestError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from tree(below)


EVERY = list(tree())


def made(kind: type[errors.IngestError], message: str = "A sentence.") -> errors.IngestError:
    if kind is errors.LimitExceeded:
        return errors.LimitExceeded("MAX_BODY_SIZE", 10, 11, "bytes")
    if kind is errors.RateExceeded:
        return errors.RateExceeded(message, "chat", 11.2)
    return kind(message)


def members(answer: Response) -> dict[str, object]:
    content: dict[str, object] = json.loads(bytes(answer.body))
    return content


STATUSES: dict[type[errors.IngestError], int] = {
    errors.IngestError: 500,
    errors.KeyMissing: 401,
    errors.KeyRefused: 401,
    errors.ScopeForbidden: 403,
    errors.RateExceeded: 429,
    errors.BodyUnreadable: 400,
    errors.BodyTimeout: 408,
    errors.EncodingUnsupported: 415,
    errors.TypeUnsupported: 415,
    errors.LimitExceeded: 413,
    errors.Draining: 503,
    errors.QueueFull: 503,
    errors.DatabaseAway: 503,
    errors.NotReady: 503,
    errors.SchemaBehind: 503,
    errors.DatabaseRefused: 503,
}


@pytest.mark.parametrize(("kind", "status"), STATUSES.items())
def test_an_error_has_the_status_of_the_contract(kind: type[errors.IngestError], status: int) -> None:
    answer = problems.problem_of(made(kind))

    assert (answer.status_code, problems.status_of(made(kind))) == (status, status)


@pytest.mark.parametrize("kind", EVERY)
def test_every_error_of_the_tree_has_a_problem(kind: type[errors.IngestError]) -> None:
    answer = problems.problem_of(made(kind))

    assert answer.headers["Content-Type"] == "application/problem+json"
    problem = members(answer)
    assert problem["type"] == "about:blank"
    assert problem["status"] == answer.status_code
    assert problem["code"] == kind.code
    assert isinstance(problem["title"], str)
    assert problem["detail"]


@pytest.mark.parametrize("kind", EVERY)
def test_only_what_may_be_tried_again_says_when(kind: type[errors.IngestError]) -> None:
    # An OpenTelemetry exporter drops a batch whose Retry-After is past its deadline.
    waits = {problems.problem_of(made(kind)).headers.get("Retry-After") for _ in range(50)}

    if problems.status_of(made(kind)) == 503:
        assert waits == {"1", "2", "3"}
    elif kind is errors.RateExceeded:
        assert waits == {"12"}
    else:
        assert waits == {None}


INSIDE = [kind for kind in EVERY if issubclass(kind, (errors.SetupError, errors.DatabaseAway, errors.NotReady))]


@pytest.mark.parametrize("kind", INSIDE)
def test_what_is_inside_is_not_shown(kind: type[errors.IngestError]) -> None:
    answer = problems.problem_of(made(kind, SECRET))

    assert len(INSIDE) > 8
    assert not set(re.findall(r"[\w.-]{3,}", SECRET)) & set(re.findall(r"[\w.-]{3,}", bytes(answer.body).decode()))
    assert "again" in str(members(answer)["detail"])


def test_a_mistake_of_ours_says_nothing_but_that() -> None:
    answer = problems.internal_error()

    assert (answer.status_code, members(answer)["code"]) == (500, "internal_error")
    assert answer.headers["Content-Type"] == "application/problem+json"


def test_what_is_wrong_with_a_request_is_shown() -> None:
    assert members(problems.problem_of(errors.BodyUnreadable("Not this.")))["detail"] == "Not this."


def test_a_coding_that_is_refused_comes_with_those_that_are_taken() -> None:
    answer = problems.problem_of(errors.EncodingUnsupported("No."))

    assert answer.headers["Accept-Encoding"] == "gzip, zstd, deflate, identity"
    assert "Accept" not in answer.headers


def test_a_type_that_is_refused_comes_with_those_that_are_taken() -> None:
    answer = problems.problem_of(errors.TypeUnsupported("No."))

    assert answer.headers["Accept"] == "application/json, application/x-ndjson"
    assert "Accept-Encoding" not in answer.headers


def test_a_limit_is_named_with_its_value_and_what_was_seen() -> None:
    problem = members(problems.problem_of(errors.LimitExceeded("MAX_BULK_SIZE", 1000, 1001, "items")))

    assert problem["limit"] == {"name": "MAX_BULK_SIZE", "value": 1000}
    assert problem["seen"] == 1001
    assert problem["detail"] == "The body is past MAX_BULK_SIZE: 1000 items are allowed, at least 1001 came."


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (HTTPException(404), 404, "not_found"),
        (HTTPException(405, headers={"Allow": "POST"}), 405, "method_not_allowed"),
    ],
)
async def test_starlette_s_own_refusals_are_problems_too(error: HTTPException, status: int, code: str) -> None:
    answer = await request_log.http_exception(Request({"type": "http"}), error)

    assert (answer.status_code, members(answer)["code"]) == (status, code)
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.headers.get("Allow") == (error.headers or {}).get("Allow")


def test_the_drawing_of_the_tree_is_the_tree() -> None:
    drawn = re.findall(r"^((?:[│ ]   )*)(?:[├└]── )?([A-Z]\w+)(?=$|  )", errors.__doc__ or "", re.MULTILINE)

    assert [name for _, name in drawn] == [kind.__name__ for kind in EVERY]
    for indent, name in drawn[1:]:
        assert len(getattr(errors, name).__mro__) - len(errors.IngestError.__mro__) == len(indent) // 4 + 1


def test_no_two_errors_share_a_code() -> None:
    assert len({kind.code for kind in EVERY}) == len(EVERY)
