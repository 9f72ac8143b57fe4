"""The composition root: the only module that knows both wings. `Service.running` opens and closes everything."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Route
from starlette.types import ASGIApp

from ingest import errors
from ingest.events import MESSAGE_ARCHIVES, USAGE_EVENTS, Stream
from ingest.flow.admission import Admission
from ingest.flow.group_commit import GroupCommit
from ingest.flow.intake import Intake
from ingest.settings import DatabaseUrl, Settings
from ingest.store import rows
from ingest.store.database import Database
from ingest.store.maintenance import Maintenance
from ingest.store.writer import BatchWriter
from ingest.web import docs, problems
from ingest.web.body import BodyLimits
from ingest.web.decoding import Decoding
from ingest.web.health import Health
from ingest.web.ingestion import BatchLimits, BulkEndpoint
from ingest.web.request_ids import RequestIds

logger = logging.getLogger(__name__)

BULK_PATHS: Mapping[Stream, str] = {
    USAGE_EVENTS: "/api/v1/ingest/requests:bulk",
    MESSAGE_ARCHIVES: "/api/v1/ingest/archives:bulk",
}


class Service:
    """Everything that one process holds, wired. `asgi` is what a server runs while `running` is open."""

    def __init__(self, settings: Settings, url: DatabaseUrl) -> None:
        self.database = Database(
            url,
            connections_max=settings.db_pool_connections,
            timeout_seconds=settings.db_timeout_seconds,
            queue_timeout_seconds=settings.queue_timeout_seconds,
        )
        self.admission = Admission(settings.inflight_bytes_max)
        self._maintenance = Maintenance(url) if settings.maintenance == "on" else None
        writer = BatchWriter(self.database, chunk_interval=timedelta(hours=settings.chunk_interval_hours))
        store = GroupCommit(
            writer,
            writers_max=settings.db_pool_connections,
            queued_rows_max=settings.queued_rows_max,
            queued_bytes_max=settings.inflight_bytes_max,
            queue_timeout_seconds=settings.queue_timeout_seconds,
        )
        self.intake = Intake(store, self.admission)
        self._decoding = Decoding(rows.encode, "ingest.store.rows:encode", items_max=settings.batch_items_max)
        self.asgi = self._wire(settings)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Opens everything, and closes it at the end. Raises errors.SetupError as Database.open does."""
        await self.database.open()
        maintenance = asyncio.create_task(self._maintain(), name="maintenance")
        try:
            yield
        finally:
            maintenance.cancel()
            with suppress(asyncio.CancelledError):
                await maintenance
            await self._decoding.close()
            await self.database.close()

    async def _maintain(self) -> None:
        if self._maintenance is None:
            return
        try:
            await self._maintenance.run()
        except errors.PolicyRefused as refusal:
            logger.info("No maintenance by this process: %s", refusal)

    def drain(self) -> None:
        """Takes no more work; what was taken is finished."""
        self.admission.close()

    def _wire(self, settings: Settings) -> ASGIApp:
        health = Health(self.intake, self.database, _shown_limits(settings), _now)
        limits = BatchLimits(
            body=BodyLimits(
                compressed_bytes_max=settings.compressed_bytes_max,
                body_bytes_max=settings.body_bytes_max,
                timeout_seconds=settings.body_timeout_seconds,
            ),
            items_max=settings.batch_items_max,
            event_age_days_max=settings.event_age_days_max,
            clock_skew_seconds_max=settings.clock_skew_seconds_max,
        )
        routes = [
            *(
                Route(path, BulkEndpoint(stream, self.intake, self._decoding, limits, _now), methods=["POST"])
                for stream, path in BULK_PATHS.items()
            ),
            Route("/", health.root),
            Route("/healthz", health.healthz),
            Route("/livez", health.livez),
            Route("/readyz", health.readyz),
            *docs.routes(_shown_limits(settings), BULK_PATHS, _now),
        ]
        starlette = Starlette(
            routes=routes,
            middleware=[Middleware(RequestIds)],
            exception_handlers={HTTPException: problems.http_exception},
        )
        starlette.router.redirect_slashes = False  # a redirected POST loses its body with many clients
        return starlette


def _shown_limits(settings: Settings) -> dict[str, int]:
    return {
        "MAX_BULK_SIZE": settings.batch_items_max,
        "MAX_GZIP_SIZE": settings.compressed_bytes_max,
        "MAX_BODY_SIZE": settings.body_bytes_max,
        "MAX_CLOCK_SKEW_SECONDS": settings.clock_skew_seconds_max,
        "RETENTION_DAYS": settings.retention_days,
    }


def _now() -> datetime:
    return datetime.now(UTC)
