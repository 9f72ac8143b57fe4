"""The lean client, against servers that do as they are told."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from benchmarks.http_client import BadAnswer, ConnectFailed, Connection, ConnectionLost, TimedOut
from tests.servers import free_port

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Kind: Good\r\n\r\nok"

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def connected_to(handler: Handler, *, timeout_seconds: float = 10) -> AsyncIterator[Connection]:
    """A connection to a server that gives every connection to `handler` and closes it after that."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    connection = Connection(f"http://127.0.0.1:{port}/base/", timeout_seconds=timeout_seconds)
    try:
        yield connection
    finally:
        connection.close()
        server.close()


async def read_request(reader: asyncio.StreamReader) -> tuple[str, bytes]:
    """Head and body. Raises asyncio.IncompleteReadError at the end."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = int(head.partition("Content-Length: ")[2].partition("\r\n")[0])
    return head, await reader.readexactly(length)


async def test_a_post_and_its_answer():
    seen = []

    async def handler(reader, writer):
        seen.append(await read_request(reader))
        writer.write(OK)

    async with connected_to(handler) as connection:
        answer = await connection.post("/path", b"\x00body", {"Content-Type": "text/x"})
    assert (answer.status, answer.ok, answer.content) == (200, True, b"ok")
    assert answer.headers == {"content-length": "2", "x-kind": "Good"}
    [(head, body)] = seen
    assert head.startswith("POST /base/path HTTP/1.1\r\n")
    assert "\r\nHost: 127.0.0.1:" in head
    assert "\r\nContent-Type: text/x\r\n" in head
    assert body == b"\x00body"


async def test_a_connection_is_kept():
    connections = []

    async def handler(reader, writer):
        connections.append(writer)
        for _ in range(3):
            _, body = await read_request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    async with connected_to(handler) as connection:
        answers = [await connection.post("/", body, {}) for body in (b"a", b"bc", b"")]
    assert [answer.content for answer in answers] == [b"a", b"bc", b""]
    assert len(connections) == 1


async def test_an_answer_that_comes_in_pieces():
    async def handler(reader, writer):
        await read_request(reader)
        for k in range(len(OK)):
            writer.write(OK[k : k + 1])
            await writer.drain()
            await asyncio.sleep(0)

    async with connected_to(handler) as connection:
        assert (await connection.get("/")).content == b"ok"


async def test_an_answer_in_chunks_and_after_a_100():
    async def handler(reader, writer):
        await read_request(reader)
        writer.write(
            b"HTTP/1.1 100 Continue\r\n\r\n"
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
        )

    async with connected_to(handler) as connection:
        assert (await connection.get("/")).content == b"abc"


async def test_every_status_is_an_answer():
    async def handler(reader, writer):
        await read_request(reader)
        writer.write(b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 2\r\nContent-Length: 0\r\n\r\n")

    async with connected_to(handler) as connection:
        answer = await connection.get("/")
    assert (answer.status, answer.ok, answer.headers["retry-after"]) == (503, False, "2")


async def test_a_connection_that_the_server_closed_is_made_again():
    connections = []

    async def handler(reader, writer):
        connections.append(writer)
        await read_request(reader)
        writer.write(OK.replace(b"X-Kind: Good", b"Connection: close"))

    async with connected_to(handler) as connection:
        assert (await connection.get("/")).ok
        assert (await connection.get("/")).ok
    assert len(connections) == 2


async def test_a_connection_that_is_closed_before_the_answer():
    async def handler(reader, writer):
        await read_request(reader)
        writer.write(OK[:-1])

    async with connected_to(handler) as connection:
        for _ in range(2):
            with pytest.raises(ConnectionLost) as caught:
                await connection.post("/", b"x", {})
            assert caught.value.kind == "reset"


async def test_a_connection_that_is_reset():
    async def handler(reader, writer):
        await read_request(reader)
        writer.transport.abort()

    async with connected_to(handler) as connection:
        with pytest.raises(ConnectionLost):
            await connection.post("/", b"x", {})


async def test_no_answer_in_time_and_none_for_the_next_request():
    """The answer that comes too late is not taken for that of the next request."""
    connections = []

    async def handler(reader, writer):
        connections.append(writer)
        await read_request(reader)
        if len(connections) == 1:
            await asyncio.sleep(0.3)
            writer.write(OK)
            return
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecond")

    async with connected_to(handler, timeout_seconds=0.2) as connection:
        with pytest.raises(TimedOut) as caught:
            await connection.get("/")
        assert caught.value.kind == "timeout"
        assert (await connection.get("/")).content == b"second"
    assert len(connections) == 2


async def test_what_is_not_http():
    async def handler(reader, writer):
        await read_request(reader)
        writer.write(b"SSH-2.0-dropbear\r\n")

    async with connected_to(handler) as connection:
        with pytest.raises(BadAnswer) as caught:
            await connection.get("/")
        assert caught.value.kind == "protocol"


async def test_nobody_listens():
    connection = Connection(f"http://127.0.0.1:{free_port()}")
    with pytest.raises(ConnectFailed) as caught:
        await connection.connect()
    assert caught.value.kind == "connect"


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://localhost/", "http://"])
def test_other_urls_are_refused(url):
    with pytest.raises(ValueError, match="http"):
        Connection(url)
