"""GET /metrics, for Prometheus."""

import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from starlette.requests import Request
from starlette.responses import Response

from ingest import errors, metrics
from ingest.flow.api_keys import Scope
from ingest.web import problems, request_log
from ingest.web.access import Access

PATH = "/metrics"

ANSWER_SECONDS = 0.1
"""How long an answer is given again, as it is. It takes 10 ms to make, in which nobody else is served."""


class Figures(Protocol):
    """Asks the database."""

    async def read(self) -> metrics.DatabaseFigures | None:
        """What it says of itself; None while it can't be asked."""
        ...


class Monitoring:
    """The endpoint. `take_stock` brings the gauges of this process up to date."""

    def __init__(self, figures: Figures, access: Access, take_stock: Callable[[], Awaitable[None]]) -> None:
        self._figures = figures
        self._access = access
        self._take_stock = take_stock
        self._made: dict[metrics.Format, tuple[float, bytes]] = {}

    async def metrics(self, request: Request) -> Response:
        """All metrics; for whoever has a key, because they tell how much is sent."""
        try:
            await self._access.check(request, Scope.READ)
        except errors.IngestError as error:
            request_log.entry_of(request).note(error)
            return problems.problem_of(error)
        wanted = metrics.Format.wanted(request.headers.get("accept", ""))
        figures = await self._figures.read()
        made_at, content = self._made.get(wanted, (-ANSWER_SECONDS, b""))
        if time.monotonic() - made_at >= ANSWER_SECONDS:
            await self._take_stock()
            content = metrics.answer(figures, wanted)
            self._made[wanted] = (time.monotonic(), content)
        return Response(content, headers={"Content-Type": wanted.media_type, "Cache-Control": "no-store"})
