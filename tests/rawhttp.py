"""HTTP as bytes on a socket, for requests that no client library would send."""

import http.client
import io
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import msgspec

from tests.service import REQUESTS, RunningService

HOST = b"Host: service\r\n"
JSON = b"Content-Type: application/json\r\n"
MARKER = b"GET /marker HTTP/1.1\r\nHost: service\r\n\r\n"
"""A request that nobody sent: it stands where a body should be, and must never be answered. There is no such path."""


@dataclass(frozen=True)
class Answer:
    """One answer as it came."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def problem(self) -> dict[str, Any]:
        """The members of the problem that it must be."""
        assert self.headers["Content-Type"] == "application/problem+json", self.body
        assert self.headers["X-Request-ID"]
        members: dict[str, Any] = msgspec.json.decode(self.body)
        assert members["status"] == self.status
        return members


def post(*fields: bytes, body: bytes = b"") -> bytes:
    """A request to the first bulk endpoint with these further fields."""
    head = b"POST %s HTTP/1.1\r\n" % REQUESTS.encode() + HOST + JSON
    return head + b"".join(field + b"\r\n" for field in fields) + b"\r\n" + body


def address(service: RunningService) -> tuple[str, int]:
    """Where the service listens."""
    url = service.client.base_url
    assert url.port is not None
    return url.host, url.port


@contextmanager
def connection(service: RunningService, timeout_seconds: float = 30) -> Iterator[socket.socket]:
    """A connection that nothing was sent on."""
    with socket.create_connection(address(service), timeout=timeout_seconds) as opened:
        yield opened


def read_all(opened: socket.socket, quiet_seconds: float = 0.15, answers_max: int = 1000) -> tuple[list[Answer], bool]:
    """The answers that come until the service closes, or is quiet for so long after an answer; and whether it closed.

    answers_max: so many are enough.
    """
    raw = b""
    deadline = time.monotonic() + (opened.gettimeout() or 0)
    while len(answers := _split(raw)) < answers_max:
        opened.settimeout(quiet_seconds if answers else max(deadline - time.monotonic(), 0.01))
        try:
            piece = opened.recv(65536)
        except TimeoutError:
            return answers, False
        except ConnectionError:
            return answers, True
        if not piece:
            return answers, True
        raw += piece
    return answers, False


def ask(service: RunningService, data: bytes, quiet_seconds: float = 0.15) -> tuple[list[Answer], bool]:
    """What `read_all` says to these bytes on a connection of their own."""
    with connection(service) as opened:
        with suppress(ConnectionError):  # refused, and closed, before all was sent
            opened.sendall(data)
        return read_all(opened, quiet_seconds)


def _split(raw: bytes) -> list[Answer]:
    """The answers that are whole in these bytes."""
    answers: list[Answer] = []
    while (end := raw.find(b"\r\n\r\n")) >= 0:
        line, _, fields = raw[: end + 4].partition(b"\r\n")
        headers = http.client.parse_headers(io.BytesIO(fields))
        whole = end + 4 + int(headers.get("Content-Length", "0"))
        if len(raw) < whole:
            break
        answers.append(Answer(int(line.split()[1]), headers, raw[end + 4 : whole]))
        raw = raw[whole:]
    return answers
