"""One line of the log and one count of the metrics for each request; and the last resort for an error nobody foresaw."""

import logging
import re
import time
from collections.abc import Collection
from http import HTTPStatus
from typing import Any

from msgspec import Struct
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ingest import errors, metrics
from ingest.verdict import Verdict
from ingest.web import problems, request_ids

logger = logging.getLogger(__name__)

QUIET_PATHS = frozenset({"/livez", "/readyz", "/healthz", "/metrics"})
"""What is asked every few seconds, for ever: a line at level debug, unless it fails."""
PATH_CHARACTERS_MAX = 200

_TRACEPARENT = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
"""W3C Trace Context, section 3.2. Only later versions than 00 may say more, which is left out (section 4.3)."""
_KEY = "ingest.entry"


class Entry(Struct):
    """What the log is to say of a request, beside what every request has. Whoever learns of it fills it in."""

    code: str | None = None
    """Of the error that was the answer (ingest.errors)."""
    reason: str | None = None
    """Of the same error, where the answer keeps it back: hosts and users of the installation are the operator's to know."""
    key: str | None = None
    """The name of the API key."""
    compressed_bytes: int | None = None
    decompressed_bytes: int | None = None
    verdict: Verdict | None = None
    receive_ms: float | None = None
    decode_ms: float | None = None
    store_ms: float | None = None

    def note(self, error: errors.IngestError) -> None:
        """Remembers the error that is the answer."""
        self.code = error.code
        if isinstance(error, errors.AccessDenied):
            self.key = error.key
        self.reason = str(error) if problems.is_kept_back(error) else None


def entry_of(request: Request) -> Entry:
    """The entry of a request; where it is not logged, one that nobody reads."""
    entry: Entry = request.scope.setdefault(_KEY, Entry())
    return entry


async def http_exception(request: Request, error: Exception) -> Response:
    """Answers what Starlette itself refuses; its handler for HTTPException."""
    assert isinstance(error, HTTPException)
    entry_of(request).code = problems.code_of_routing(error)
    return problems.problem_of_routing(error)


class RequestLog:
    """ASGI middleware: answers carry X-Request-ID, the client's if it sent a sane one; each is counted and logged.

    paths: those that there are; what else is asked for is counted as `other`.
    """

    def __init__(self, app: ASGIApp, paths: Collection[str] = ()) -> None:
        self._app = app
        self._paths = frozenset(paths)
        self._durations = {path: metrics.HTTP_REQUEST_DURATION.labels(path) for path in (*self._paths, "other")}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        headers = Headers(scope=scope)
        request_id = request_ids.of(headers.get(request_ids.HEADER))
        entry = scope[_KEY] = Entry()
        status: int | None = None
        failure: Exception | None = None

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[request_ids.HEADER] = request_id
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception as error:
            failure = error
            entry.code = errors.IngestError.code
            if status is not None:
                raise
            await problems.internal_error()(scope, receive, send_with_id)
        finally:
            seconds = time.perf_counter() - started
            path = scope["path"]
            endpoint = path if path in self._paths else "other"
            self._durations[endpoint].observe(seconds)
            _count(endpoint, status or 0, entry.code)
            level = logging.ERROR if failure else _level(path, status or 0)
            if logger.isEnabledFor(level):
                client = scope.get("client")
                fields: dict[str, Any] = {
                    "method": scope["method"],
                    "path": path[:PATH_CHARACTERS_MAX],
                    "request_id": request_id,
                    "client": client[0] if client else None,
                    "traceparent": _traceparent_of(headers),
                    "key": entry.key,
                    "reason": entry.reason,
                }
                if entry.verdict is not None:
                    _tell(fields, entry.verdict)
                fields["compressed_bytes"] = entry.compressed_bytes
                fields["decompressed_bytes"] = entry.decompressed_bytes
                fields["receive_ms"] = entry.receive_ms
                fields["decode_ms"] = entry.decode_ms
                fields["store_ms"] = entry.store_ms
                fields["ms"] = round(seconds * 1000, 1)
                _log(level, f"{scope['method']} {path[:PATH_CHARACTERS_MAX]!r}", status or 0, entry.code, fields, failure)
            del failure  # which has this frame, and in it a body


def _level(path: str, status: int) -> int:
    if path in QUIET_PATHS:
        return logging.DEBUG if status == HTTPStatus.OK else logging.INFO
    return logging.WARNING if status >= HTTPStatus.INTERNAL_SERVER_ERROR else logging.INFO


def note_unread(status: HTTPStatus, error: errors.IngestError, request_id: str, client: str | None) -> None:
    """Counts and logs what was refused before it was read to the end of its head, or of its body."""
    _count("none", status.value, error.code)
    if logger.isEnabledFor(logging.INFO):
        _log(logging.INFO, "What came", status.value, error.code, {"request_id": request_id, "client": client})


def _count(endpoint: str, status: int, code: str | None) -> None:
    metrics.HTTP_REQUESTS.labels(endpoint, str(status)).inc()
    if code is not None:
        metrics.REFUSED_REQUESTS.labels(code).inc()


def _log(
    level: int, what: str, status: int, code: str | None, fields: dict[str, Any], failure: Exception | None = None
) -> None:
    """Writes the line. Of refusals that are alike, a burst is not written out (ingest.cli.log)."""
    # Made by hand, for `logger.log` would look through the stack for its caller.
    stack = (type(failure), failure, failure.__traceback__) if failure else None
    record = logging.LogRecord(logger.name, level, __file__, 0, "%s was answered %d", (what, status), stack)
    record.fields = {"status": status, "code": code, **fields}
    if code is not None:
        record.alike = f"{status} {code}"
    elif status >= HTTPStatus.BAD_REQUEST:
        record.alike = str(status)
    logger.handle(record)


def _tell(fields: dict[str, Any], verdict: Verdict) -> None:
    fields["received"] = verdict.received
    fields["accepted"] = verdict.accepted
    fields["duplicates"] = verdict.duplicates
    fields["conflicts"] = verdict.conflicts
    fields["rejected"] = verdict.rejected


def _traceparent_of(headers: Headers) -> str | None:
    form = _TRACEPARENT.fullmatch(headers.get("traceparent", ""))
    if form is None or (form[1] == "00" and form[2]):
        return None
    return form[0].removesuffix(form[2] or "")
