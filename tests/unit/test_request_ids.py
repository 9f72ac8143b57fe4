"""Every answer carries an id; and an error that nobody foresaw gets an answer too."""

import json
import logging
import re
from typing import Any

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ingest.web.request_log import RequestLog


async def answering(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": [(b"x-request-id", b"of-the-app")]})
    await send({"type": "http.response.body", "body": b""})


async def failing(scope: Scope, receive: Receive, send: Send) -> None:
    raise RuntimeError("SELECT secret FROM /etc/passwd")


async def failing_halfway(scope: Scope, receive: Receive, send: Send) -> None:
    await answering(scope, receive, send)
    raise RuntimeError("too late")


async def never() -> Message:
    raise AssertionError("the body is not asked for")


async def ask(
    app: ASGIApp, request_id: bytes | None = None, path: str = "/", sent: list[Message] | None = None
) -> list[Message]:
    """What is sent for a GET."""
    messages: list[Message] = [] if sent is None else sent

    async def send(message: Message) -> None:
        messages.append(message)

    fields = [] if request_id is None else [(b"x-request-id", request_id)]
    await RequestLog(app)({"type": "http", "method": "GET", "path": path, "headers": fields}, never, send)
    return messages


def ids(messages: list[Message]) -> list[str]:
    return [value.decode() for name, value in messages[0]["headers"] if name == b"x-request-id"]


@pytest.mark.parametrize(
    "request_id",
    [b"a", b"0197a5d3-0000-7000-8000-000000000000", b"Root=1-5e1b4151-5ac6c58dc39", b"a.b:c/d+e@f_g", b"x" * 128],
)
async def test_a_sane_id_is_given_back(request_id: bytes) -> None:
    assert ids(await ask(answering, request_id)) == [request_id.decode()]


@pytest.mark.parametrize(
    "request_id",
    [None, b"", b" ", b"two words", b"x" * 129, b"a\nb", b"a\n", b"a\r\nSet-Cookie: x", b"\xe9", b"<script>", b"a%0a"],
)
async def test_any_other_is_replaced_by_one_of_ours(request_id: bytes | None) -> None:
    (ours,) = ids(await ask(answering, request_id))

    assert re.fullmatch("[0-9a-f]{32}", ours)


async def test_no_two_requests_get_the_same_id() -> None:
    assert ids(await ask(answering)) != ids(await ask(answering))


async def test_an_error_that_nobody_foresaw_is_answered_and_logged_with_the_id(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        start, body = await ask(failing, b"abc")

    assert start["status"] == 500
    assert ids([start]) == ["abc"]
    assert json.loads(body["body"])["code"] == "internal_error"
    assert b"SELECT" not in body["body"]
    assert caplog.records[0].fields["request_id"] == "abc"  # type: ignore[attr-defined]
    assert "SELECT secret" in caplog.text


async def test_a_path_can_not_forge_a_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    await ask(failing, path="/\n2025-01-01 INFO all is well")

    assert "\n" not in caplog.records[0].getMessage()


async def test_an_answer_that_has_begun_is_not_begun_again() -> None:
    sent: list[Message] = []

    with pytest.raises(RuntimeError, match="too late"):
        await ask(failing_halfway, sent=sent)

    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]


async def test_what_is_no_request_passes_through() -> None:
    seen: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append((scope, receive, send))

    async def send(message: Message) -> None:
        raise AssertionError("nothing is sent")

    await RequestLog(app)({"type": "lifespan"}, never, send)

    assert seen == [({"type": "lifespan"}, never, send)]
