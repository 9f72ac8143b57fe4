"""What this is and how it fares: /, /healthz, /livez, /readyz."""

from collections.abc import Callable
from datetime import datetime
from http import HTTPStatus
from typing import Any, Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ingest import __version__, errors
from ingest.flow.api_keys import Scope
from ingest.flow.intake import Intake
from ingest.web import problems, request_log
from ingest.web.access import Access


class DatabaseHealth(Protocol):
    """What is asked of the database."""

    async def ping(self) -> bool:
        """Whether it answers, asked now."""
        ...

    def describe(self) -> dict[str, Any]:
        """Which edition it is and what that can't do; for people."""
        ...


class Health:
    """The endpoints that tell rather than take."""

    def __init__(
        self, intake: Intake, database: DatabaseHealth, limits: dict[str, int], access: Access, now: Callable[[], datetime]
    ) -> None:
        self._intake = intake
        self._access = access
        self._database = database
        self._limits = limits
        self._now = now

    async def root(self, request: Request) -> Response:
        """What this is, in JSON; for whoever has a key, because it names versions."""
        try:
            await self._access.check(request, Scope.READ)
        except errors.IngestError as error:
            request_log.entry_of(request).note(error)
            return problems.problem_of(error)
        return _json(
            HTTPStatus.OK,
            {
                "name": "llm-analytics-ingest",
                "version": __version__,
                "database": self._database.describe(),
                "limits": self._limits,
                "links": {
                    "usage_events": "/api/v1/ingest/requests:bulk",
                    "message_archives": "/api/v1/ingest/archives:bulk",
                    "openapi": "/openapi.json",
                    "docs": "/docs",
                    "health": "/healthz",
                    "live": "/livez",
                    "ready": "/readyz",
                    "metrics": "/metrics",
                },
            },
        )

    async def healthz(self, _request: Request) -> Response:
        """Whether the database answers."""
        answers = await self._database.ping()
        return _json(
            HTTPStatus.OK if answers else HTTPStatus.SERVICE_UNAVAILABLE,
            {
                "status": "healthy" if answers else "unhealthy",
                "database": answers,
                "timestamp": f"{self._now():%Y-%m-%dT%H:%M:%SZ}",
            },
        )

    async def livez(self, _request: Request) -> Response:
        """The process runs."""
        return _json(HTTPStatus.OK, {"status": "alive"})

    async def readyz(self, _request: Request) -> Response:
        """Whether work is taken now."""
        reason: str | None = None
        try:
            self._intake.check_open()
        except errors.IngestError as error:
            reason = error.code
        if reason is None and not await self._database.ping():
            reason = errors.DatabaseAway.code
        if reason is None:
            return _json(HTTPStatus.OK, {"status": "ready"})
        return _json(HTTPStatus.SERVICE_UNAVAILABLE, {"status": "not ready", "reason": reason})


def _json(status: HTTPStatus, content: Any) -> Response:
    return Response(msgspec.json.encode(content), status.value, {"Cache-Control": "no-store"}, "application/json")
