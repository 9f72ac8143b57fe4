"""The composition root: the only module that knows both wings. `Service.running` opens and closes everything."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Route
from starlette.types import ASGIApp

from ingest import errors, metrics
from ingest.events import MESSAGE_ARCHIVES, USAGE_EVENTS, Stream
from ingest.flow.admission import Admission
from ingest.flow.api_keys import KeyRing
from ingest.flow.group_commit import GroupCommit
from ingest.flow.intake import Intake
from ingest.flow.rates import Rates
from ingest.settings import DatabaseUrl, Settings
from ingest.store import rows
from ingest.store.api_keys import StoredKeys
from ingest.store.database import Database
from ingest.store.event_teams import EventTeams
from ingest.store.figures import Figures
from ingest.store.maintenance import Maintenance
from ingest.store.writer import BatchWriter
from ingest.web import cors, docs, monitoring, request_log
from ingest.web.access import Access
from ingest.web.body import BodyLimits
from ingest.web.decoding import Decoding
from ingest.web.health import Health
from ingest.web.ingestion import BatchLimits, BulkEndpoint
from ingest.web.monitoring import Monitoring
from ingest.web.request_log import RequestLog

logger = logging.getLogger(__name__)

BULK_PATHS: Mapping[Stream, str] = {
    USAGE_EVENTS: "/api/v1/ingest/requests:bulk",
    MESSAGE_ARCHIVES: "/api/v1/ingest/archives:bulk",
}

STOP_RESERVE_SECONDS_MAX = 1.0
READERS_SECONDS = 60.0
"""How often the keys for reading are learned anew."""
STOCK_SECONDS = 1.0
"""How often the gauges of a process are brought up to date, for whichever process is asked for them."""


class Service:
    """Everything that one process holds, wired. `asgi` is what a server runs while `running` is open.

    rates: where the requests of API keys are counted. A key is required where `settings.auth_required` is True.
    """

    def __init__(self, settings: Settings, url: DatabaseUrl, rates: Rates) -> None:
        self.database = Database(
            url,
            connections_max=settings.db_pool_connections,
            timeout_seconds=settings.db_timeout_seconds,
            queue_timeout_seconds=settings.queue_timeout_seconds,
        )
        self.admission = Admission(
            settings.inflight_bytes_max,
            large_bytes_max=max(settings.inflight_bytes_max * 7 // 8, settings.body_bytes_max),
        )
        self._settings = settings
        self._maintenance = Maintenance(url, beside=True) if settings.maintenance == "on" else None
        writer = BatchWriter(self.database, chunk_interval=timedelta(hours=settings.chunk_interval_hours))
        self._store = GroupCommit(
            writer,
            writers_max=settings.db_pool_connections,
            queued_rows_max=settings.queued_rows_max,
            queued_bytes_max=settings.inflight_bytes_max,
            queue_timeout_seconds=settings.queue_timeout_seconds,
        )
        self.intake = Intake(self._store, self.admission, EventTeams(self.database))
        self._keys = StoredKeys(self.database)
        self._key_ring = KeyRing(self._keys, rates) if settings.auth_required else None
        self._access = Access(self._key_ring)
        self._decoding = Decoding(rows.encode, "ingest.store.rows:encode", items_max=settings.batch_items_max)
        self.asgi = self._wire(settings)

    @asynccontextmanager
    async def running(self, *, is_restart: bool = False) -> AsyncIterator[None]:
        """Opens everything, and closes it at the end.

        is_restart: whether this goes on with what another process did, whatever became of the API keys meanwhile.

        Raises errors.SetupError as Database.open does; errors.NoKeys if a key is required and the database has none.
        """
        await self.database.open()
        try:
            if not is_restart:
                await self._check_keys()
        except errors.SetupError:
            await self.database.close()
            raise
        if is_restart:
            metrics.WORKER_RESTARTS.inc()
        maintenance = asyncio.create_task(self._maintain(), name="maintenance")
        others = [asyncio.create_task(repeat(self._take_stock, STOCK_SECONDS), name="take-stock")]
        if self._key_ring is not None:
            others.append(asyncio.create_task(repeat(self._key_ring.learn_readers, READERS_SECONDS), name="learn-readers"))
        try:
            yield
        finally:
            for task in (*others, maintenance):
                task.cancel()
            await self._close(maintenance)

    async def _close(self, maintenance: asyncio.Task[None]) -> None:
        """Closes what answers nobody any more. A database that hangs is not waited for: what it got, it will do or forget."""
        closing = [asyncio.create_task(closed) for closed in (self._decoding.close(), self.database.close())]
        await asyncio.wait([maintenance, *closing], timeout=self.stop_reserve_seconds / 2)

    @property
    def stop_reserve_seconds(self) -> float:
        """How much of SHUTDOWN_SECONDS is kept for all that comes when the last answer is given."""
        return min(STOP_RESERVE_SECONDS_MAX, self._settings.shutdown_seconds / 2)

    async def _check_keys(self) -> None:
        with suppress(errors.Unavailable):  # a database that is away is waited for
            if self._access.is_restricted:
                await self._keys.check_any()
            elif await self._keys.any():
                logger.warning("There are API keys, and none is asked for: AUTH_REQUIRED is not true.")

    async def _maintain(self) -> None:
        if self._maintenance is None:
            return
        try:
            await self._maintenance.run()
        except errors.PolicyRefused as refusal:
            logger.info("No maintenance by this process: %s", refusal)

    async def _take_stock(self) -> None:
        """Brings the gauges up to date."""
        busy, idle = self.database.connections
        metrics.WORKERS.set(1)
        metrics.DATABASE_UP.set(self.database.problem is None)
        metrics.QUEUE_ROWS.set(self._store.queued_rows)
        metrics.QUEUE_ROWS_LIMIT.set(self._settings.queued_rows_max)
        metrics.QUEUE_BYTES.set(self._store.queued_bytes)
        metrics.INFLIGHT_BYTES.set(self.admission.bytes_held)
        metrics.INFLIGHT_BYTES_LIMIT.set(self._settings.inflight_bytes_max)
        metrics.DB_CONNECTIONS.labels("busy").set(busy)
        metrics.DB_CONNECTIONS.labels("idle").set(idle)
        metrics.DB_CONNECTIONS_LIMIT.set(self._settings.db_pool_connections)
        metrics.note_process()

    def drain(self) -> None:
        """Takes no more work; what was taken is finished."""
        self.admission.close()

    def _wire(self, settings: Settings) -> ASGIApp:
        health = Health(self.intake, self.database, _shown_limits(settings), self._access, _now)
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
        monitor = Monitoring(Figures(self.database), self._access, self._take_stock)
        routes = [
            *(
                Route(path, BulkEndpoint(stream, self.intake, self._decoding, limits, self._access, _now), methods=["POST"])
                for stream, path in BULK_PATHS.items()
            ),
            Route("/", health.root),
            Route("/healthz", health.healthz),
            Route("/livez", health.livez),
            Route("/readyz", health.readyz),
            Route(monitoring.PATH, monitor.metrics),
            *docs.routes(_shown_limits(settings), BULK_PATHS, _now, is_restricted=self._access.is_restricted),
        ]
        middleware = [Middleware(RequestLog, paths=[route.path for route in routes])]
        if settings.cors_origins:
            middleware.append(cors.middleware(settings.cors_origins))
        starlette = Starlette(
            routes=routes,
            middleware=middleware,
            exception_handlers={HTTPException: request_log.http_exception},
        )
        starlette.router.redirect_slashes = False  # a redirected POST loses its body with many clients
        return starlette


async def repeat(task: Callable[[], Awaitable[None]], pause_seconds: float) -> None:
    """Does it for ever, whatever goes wrong once."""
    while True:
        try:
            await task()
        except errors.Unavailable:
            pass  # the next time; that the database is away, others tell
        except Exception:
            logger.exception("%s failed.", task.__qualname__)
        await asyncio.sleep(pause_seconds)


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
