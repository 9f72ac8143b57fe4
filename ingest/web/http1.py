"""HTTP/1.1 as uvicorn speaks it, with three habits of its own changed. An HTTP server class for uvicorn's `http=`."""

import asyncio
import re
import secrets
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ingest.errors import RequestRefused
from ingest.web import problems, request_ids

_UPGRADE = re.compile(rb"\r\nupgrade:", re.IGNORECASE)
_END_OF_HEAD = b"\r\n\r\n"


class _JoinedWrites:
    """A transport, all else being as it was, that sends together what is written in one turn of the event loop."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._held: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if not self._held:
            self._loop.call_soon(self._flush)
        self._held.append(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        held, self._held = self._held, []
        if held and not self._transport.is_closing():
            self._transport.write(b"".join(held))


class Http1(HttpToolsProtocol):
    """Sends an answer in one piece, ignores Upgrade, and refuses what is no HTTP with problem details and an id."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as its base has it
        super().connection_made(transport)
        # uvicorn writes head and body apart: two system calls here, and two turns at the client's.
        self.transport = _JoinedWrites(transport)  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        # A server may ignore Upgrade (RFC 9110, section 7.8), and clients that offer h2c with every request, as Java's do,
        # count on that. But the parser stops at one, and uvicorn drops the body behind it.
        is_in_body = self.cycle is not None and self.cycle.more_body
        end = data.find(_END_OF_HEAD)
        head_bytes = 0 if is_in_body else end if end >= 0 else len(data)
        if _UPGRADE.search(data, 0, head_bytes):
            data = _UPGRADE.sub(b"\r\nx-upgrade-ignored:", data[:head_bytes]) + data[head_bytes:]
        super().data_received(data)

    def send_400_response(self, msg: str) -> None:
        answer = problems.problem_of(RequestRefused(msg))
        answer.headers["Connection"] = "close"
        answer.headers[request_ids.HEADER] = secrets.token_hex(16)
        head = b"".join(b"%s: %s\r\n" % header for header in answer.raw_headers)
        self.transport.write(b"HTTP/1.1 400 Bad Request\r\n" + head + b"\r\n" + bytes(answer.body))
        self.transport.close()
