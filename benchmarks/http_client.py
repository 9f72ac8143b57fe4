"""A lean HTTP/1.1 client for load: one connection, one request at a time, kept alive.

With httpx, batches of ten events came no faster than 5,000 events/s: it was the client that was measured. This one writes a
request as one piece and lets httptools (the parser of the server too) read the answer. It follows no redirects, keeps no
cookies and pools nothing.
"""

import asyncio
import ssl
from collections.abc import Mapping
from http import HTTPStatus
from typing import cast
from urllib.parse import urlsplit

import httptools
from msgspec import Struct

TIMEOUT_SECONDS = 60.0


class ClientError(Exception):
    """No answer came.

    * ConnectFailed: nothing was sent.
    * ConnectionLost, TimedOut, BadAnswer: the request may have been carried out; its sender can't know.
    """

    kind = "client"


class ConnectFailed(ClientError):
    """There is no connection to the server."""

    kind = "connect"


class ConnectionLost(ClientError):
    """The server closed or reset the connection before it had answered."""

    kind = "reset"


class TimedOut(ClientError):
    """No whole answer within the timeout."""

    kind = "timeout"


class BadAnswer(ClientError):
    """What came is not HTTP."""

    kind = "protocol"


class Answer(Struct, frozen=True):
    """An answer of any status. The names of headers are in lower case."""

    status: int
    headers: dict[str, str]
    content: bytes

    @property
    def ok(self) -> bool:
        """Whether it is 200."""
        return self.status == HTTPStatus.OK


class Connection:
    """A connection to the host of an http:// or https:// URL. It is made when it is needed, and made again when it is gone.

    Raises ValueError for a URL that is neither.
    """

    def __init__(self, url: str, *, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url} is no http:// or https:// URL")
        self._host = parts.hostname
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._prefix = parts.path.rstrip("/")
        self._host_header = parts.netloc.rpartition("@")[2]
        self._timeout_seconds = timeout_seconds
        self._protocol: _Protocol | None = None

    async def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Sends a body and returns the answer, whatever its status is.

        Raises ConnectFailed, ConnectionLost, TimedOut or BadAnswer.
        """
        return await self._request("POST", path, body, headers)

    async def get(self, path: str) -> Answer:
        """As `post`, without a body."""
        return await self._request("GET", path, b"", {})

    async def connect(self) -> None:
        """Makes the connection before it is needed. Raises ConnectFailed or TimedOut."""
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await self._connected()
        except TimeoutError:
            raise TimedOut(f"No connection within {self._timeout_seconds:g} s.") from None

    def close(self) -> None:
        """Closes the connection; a further request would make another one."""
        if self._protocol is not None:
            self._protocol.close()
            self._protocol = None

    async def _request(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        lines += f"Host: {self._host_header}\r\nContent-Length: {len(body)}\r\n"
        head = f"{method} {self._prefix}{path} HTTP/1.1\r\n{lines}\r\n"
        try:
            async with asyncio.timeout(self._timeout_seconds):
                protocol = await self._connected()
                return await protocol.request(head.encode("latin-1") + body)
        except TimeoutError:
            self.close()
            raise TimedOut(f"No answer within {self._timeout_seconds:g} s.") from None
        except BaseException:
            # Whoever is cancelled leaves an answer on its way, which must not be taken for that of the next request.
            self.close()
            raise

    async def _connected(self) -> "_Protocol":
        if self._protocol is None or self._protocol.is_closed:
            loop = asyncio.get_running_loop()
            try:
                _, self._protocol = await loop.create_connection(_Protocol, self._host, self._port, ssl=self._tls)
            except OSError as error:
                raise ConnectFailed(str(error)) from error
        return self._protocol


class _Protocol(asyncio.Protocol):
    """Reads the answers of one connection. The methods on_… are called by httptools."""

    def __init__(self) -> None:
        self.is_closed = False
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[Answer] | None = None
        self._start()

    async def request(self, message: bytes) -> Answer:
        assert self._transport is not None
        self._waiter = asyncio.get_running_loop().create_future()
        self._transport.write(message)
        return await self._waiter

    def close(self) -> None:
        self.is_closed = True
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are transports by what they do, not by class

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_closed = True
        self._fail(ConnectionLost("The server closed the connection before it had answered." if exc is None else str(exc)))

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(BadAnswer(f"{type(error).__name__}: {error}"))
            self.close()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._pieces.append(body)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < HTTPStatus.OK:  # 1xx: the answer proper is still to come
            self._start()
            return
        if not self._parser.should_keep_alive():
            self.close()
        answer = Answer(status, self._headers, b"".join(self._pieces))
        self._start()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(answer)

    def _start(self) -> None:
        self._headers: dict[str, str] = {}
        self._pieces: list[bytes] = []

    def _fail(self, error: ClientError) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error)
