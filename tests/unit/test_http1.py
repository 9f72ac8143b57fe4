"""Requests are read in one way however their bytes are cut, answers leave in one piece, and a refusal ends the connection."""

import asyncio
import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any
from unittest.mock import Mock, call

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from uvicorn import Config

from ingest.web.connections import HEAD_SECONDS, Connections
from ingest.web.http1 import JOINED_BYTES_MAX, Http1


@pytest.fixture
def transport() -> Mock:
    transport = Mock(spec=asyncio.Transport)
    transport.is_closing.return_value = False
    transport.get_extra_info.return_value = None
    transport.get_write_buffer_size.return_value = 0
    return transport


async def connected(transport: Mock) -> asyncio.Transport:
    """What the protocol writes to once it is connected to `transport`."""
    protocol = Http1(Config(app=Mock()), Connections(10), {})
    protocol.connection_made(transport)
    return protocol.transport


async def test_what_is_written_in_one_turn_is_sent_together(transport: Mock) -> None:
    joined = await connected(transport)

    joined.write(b"head")
    joined.write(b"body")
    transport.write.assert_not_called()
    await asyncio.sleep(0)
    joined.write(b"more")
    await asyncio.sleep(0)

    assert transport.write.call_args_list == [call(b"headbody"), call(b"more")]


async def test_what_is_much_is_not_held_back(transport: Mock) -> None:
    """The transport says at once when its buffer is full."""
    joined = await connected(transport)

    joined.write(b"head")
    joined.write(b"x" * JOINED_BYTES_MAX)
    assert transport.write.call_args_list == [call(b"head" + b"x" * JOINED_BYTES_MAX)]
    joined.write(b"x" * JOINED_BYTES_MAX)
    assert transport.write.call_count == 2
    await asyncio.sleep(0)
    assert transport.write.call_count == 2


@pytest.mark.parametrize("end", ["close", "write_eof"])
async def test_what_was_written_is_sent_before_the_connection_closes(transport: Mock, end: str) -> None:
    joined = await connected(transport)

    joined.write(b"goodbye")
    getattr(joined, end)()
    await asyncio.sleep(0)

    sent = [name for name in transport.mock_calls if name in (call.write(b"goodbye"), call.close(), call.write_eof())]
    assert sent == [call.write(b"goodbye"), getattr(call, end)()]


async def test_nothing_is_sent_where_the_client_has_gone(transport: Mock) -> None:
    joined = await connected(transport)

    joined.write(b"too late")
    transport.is_closing.return_value = True
    await asyncio.sleep(0)

    transport.write.assert_not_called()
    assert joined.is_closing()


# --- requests in pieces -----------------------------------------------------------------------------------------------


class Wire(asyncio.Transport):
    """A transport that keeps what is sent."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.ended = False
        self.closed = False

    def write(self, data: Any) -> None:
        self.sent += data

    def write_eof(self) -> None:
        self.ended = True

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


class Echo:
    """An application that answers what it has understood."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, bytes, list[tuple[bytes, bytes]]]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
            if not message["more_body"]:
                break
        self.requests.append((scope["method"], scope["path"], body, list(scope["headers"])))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})


async def spoken(pieces: Sequence[bytes], connections: Connections | None = None) -> tuple[Echo, Wire, Http1]:
    """What an application and a client see of these pieces, each read by itself."""
    echo, wire = Echo(), Wire()
    protocol = Http1(
        Config(app=echo, interface="asgi3", log_config=None, access_log=False), connections or Connections(10), {}
    )
    protocol.connection_made(wire)
    for piece in pieces:
        protocol.data_received(piece)
        for _ in range(6):
            await asyncio.sleep(0)
    for _ in range(60):
        await asyncio.sleep(0)
    return echo, wire, protocol


H = b"Host: x\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
MESSAGES = [
    b"GET /a HTTP/1.1\r\n" + H + b"\r\n",
    b"\r\nGET /b?c HTTP/1.1\r\n" + H + b"X: y\r\n\r\n",
    b"POST /c HTTP/1.1\r\n" + H + b"Content-Length: 25\r\n\r\n" + b"GET /x HTTP/1.1\r\n" + H[:8],
    b"POST /d HTTP/1.1\r\n" + H + b"Content-Length: 3\r\n\r\n\r\n\r",
    b"POST /e HTTP/1.1\r\n" + H + CHUNKED + b"3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\nHost: y\r\nUpgrade: z\r\n\r\n",
    b"POST /g HTTP/1.1\r\n" + H + b"Content-Length: 43\r\n\r\nUpgrade: a\r\n\r\nupgrade: b\n\r\n\r\nupgrade: c\r\n\r\n",
    b"POST /f HTTP/1.1\r\nUpgrade: h2c\r\n" + H + b"Connection: Upgrade\r\nuPGRADE: z\r\nContent-Length: 3\r\n\r\nabc",
]
SEEN = [
    ("GET", "/a", b""),
    ("GET", "/b", b""),
    ("POST", "/c", b"GET /x HTTP/1.1\r\nHost: x\r"),
    ("POST", "/d", b"\r\n\r"),
    ("POST", "/e", b"abcdefg"),
    ("POST", "/g", b"Upgrade: a\r\n\r\nupgrade: b\n\r\n\r\nupgrade: c\r\n\r\n"),
    ("POST", "/f", b"abc"),
]
REFUSED = [
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + H + b" folded\r\n\r\n",
    b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    b"GET / HTTP/2.0\r\n" + H + b"\r\n",
    b"\x16\x03\x01 TLS\r\n\r\n",
    b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\n" + H + b"\r\n",
    b"GET / HTTP/1.1\r\n" + H + b"X: y\r\n" * 100 + b"\r\n",
]


def cut(data: bytes, places: Sequence[float]) -> list[bytes]:
    """The data in pieces, cut at these shares of it."""
    at = sorted({0, len(data), *(int(place * len(data)) for place in places)})
    return [data[start:end] for start, end in pairwise(at)]


cuts = st.lists(st.floats(0, 1), max_size=12)


# The last one asks for an upgrade: that is ignored where the request was waited for, and refused where it was not.
queues = st.lists(st.integers(0, len(MESSAGES) - 2), max_size=6) | st.just([len(MESSAGES) - 1])


@given(which=queues, places=cuts)
@settings(max_examples=300, deadline=None)
def test_requests_are_read_in_one_way_however_they_are_cut(which: list[int], places: list[float]) -> None:
    echo, wire, _ = asyncio.run(spoken(cut(b"".join(MESSAGES[number] for number in which), places)))

    assert [request[:3] for request in echo.requests] == [SEEN[number] for number in which]
    assert wire.sent.count(b"HTTP/1.1 200 OK") == len(which)
    assert not wire.ended
    assert not wire.closed
    for _, _, _, fields in echo.requests:
        assert [value for name, value in fields if name == b"host"] == [b"x"]
        assert not [name for name, _ in fields if name == b"upgrade"]


@pytest.mark.parametrize("which", [[5], [6], [5, 5], [0, 5], [4, 5]], ids=str)
@pytest.mark.parametrize("piece_bytes", [1, 2, 3, 1000])
async def test_a_body_is_left_as_it_is_wherever_it_is_cut(which: list[int], piece_bytes: int) -> None:
    """A head that asks for an upgrade is changed; what follows it may look like that, and begin a piece."""
    data = b"".join(MESSAGES[number] for number in which)
    for place in range(1, len(data)):
        echo, wire, _ = await spoken([data[:place], data[place : place + piece_bytes], data[place + piece_bytes :]])

        assert [request[:3] for request in echo.requests] == [SEEN[number] for number in which], place
        assert not wire.ended


@given(good=queues, bad=st.integers(0, len(REFUSED) - 1), places=cuts)
@settings(max_examples=300, deadline=None)
def test_nothing_is_read_behind_what_is_refused_however_it_is_cut(good: list[int], bad: int, places: list[float]) -> None:
    data = b"".join(MESSAGES[number] for number in good) + REFUSED[bad] + MESSAGES[0]

    echo, wire, _ = asyncio.run(spoken(cut(data, places)))

    assert [request[:3] for request in echo.requests] == [SEEN[number] for number in good]
    assert wire.sent.count(b"HTTP/1.1 200 OK") == len(good)
    assert wire.sent.count(b"HTTP/1.1 ") - len(good) in ((0, 1) if good else (1,))
    assert wire.ended


# --- what ends a connection -------------------------------------------------------------------------------------------


def problem(wire: Wire) -> dict[str, Any]:
    """The problem that was sent."""
    head, _, body = wire.sent.partition(b"\r\n\r\n")
    assert b"\r\nConnection: close\r\n" in head + b"\r\n" or b"\r\nconnection: close\r\n" in head + b"\r\n"
    assert b"x-request-id: " in head.lower()
    members: dict[str, Any] = json.loads(body)
    return members


async def test_half_a_head_is_waited_for_and_then_answered() -> None:
    connections = Connections(10)
    _, wire, protocol = await spoken([b"GET / HT"], connections)
    now = protocol.loop.time()

    connections.sweep(now + HEAD_SECONDS - 1)
    assert wire.sent == b""
    connections.sweep(now + HEAD_SECONDS)
    await asyncio.sleep(0)

    assert (problem(wire)["status"], problem(wire)["code"]) == (408, "head_timeout")
    assert wire.ended
    connections.sweep(now + 100)
    assert wire.closed


async def test_a_connection_without_a_request_is_closed_without_a_word() -> None:
    connections = Connections(10)
    _, wire, protocol = await spoken([b"\r\n"], connections)

    connections.sweep(protocol.loop.time() + HEAD_SECONDS)

    assert (wire.sent, wire.closed) == (b"", True)


async def test_the_time_for_a_head_begins_with_its_first_byte() -> None:
    connections = Connections(10)
    _, wire, protocol = await spoken([MESSAGES[0]], connections)
    connections.waiting.enter(protocol, protocol.loop.time() - 9)

    protocol.data_received(b"GET")
    connections.sweep(protocol.loop.time() + 5)

    assert not wire.closed
    assert not wire.ended


async def test_what_a_client_does_not_read_is_thrown_away() -> None:
    connections = Connections(10)
    _, wire, protocol = await spoken([], connections)
    now = protocol.loop.time()

    protocol.pause_writing()
    protocol.resume_writing()
    connections.waiting.leave(protocol)
    connections.sweep(now + 1000)
    assert not wire.closed
    protocol.pause_writing()
    connections.sweep(now + 1000)
    assert wire.closed


async def test_a_new_connection_for_which_nobody_goes_is_told_so() -> None:
    connections = Connections(1)
    await spoken([b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n"], connections)

    _, wire, _ = await spoken([], connections)

    assert (problem(wire)["status"], problem(wire)["code"]) == (503, "too_many_connections")
    assert wire.ended


async def test_a_new_connection_takes_the_place_of_one_that_waits() -> None:
    connections = Connections(1)
    _, idle, _ = await spoken([MESSAGES[0]], connections)

    echo, wire, _ = await spoken([MESSAGES[0]], connections)

    assert idle.closed
    assert len(echo.requests) == 1
    assert not wire.ended


async def test_a_trailer_is_no_field_of_the_head() -> None:
    echo, _, _ = await spoken([MESSAGES[4]])

    [(_, _, body, fields)] = echo.requests
    assert body == b"abcdefg"
    assert fields == [(b"host", b"x"), (b"transfer-encoding", b"chunked")]
