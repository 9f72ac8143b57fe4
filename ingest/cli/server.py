"""uvicorn around the service: what every process that serves has in common."""

import asyncio
import contextlib
import gc
import logging
import signal
import socket
from collections.abc import Iterator
from types import FrameType

import uvicorn

from ingest import metrics
from ingest.app import Service
from ingest.cli.descriptors import connections_max
from ingest.settings import Settings
from ingest.store import database
from ingest.web.connections import Connections
from ingest.web.http1 import Http1

SWEEP_SECONDS = 0.1

logger = logging.getLogger(__name__)


class Server(uvicorn.Server):
    """uvicorn, with a door that closes on the first signal, before the wait for open connections begins."""

    def __init__(self, service: Service, chosen: Settings) -> None:
        super().__init__(
            uvicorn.Config(
                service.asgi,
                http=Http1,
                ws="none",
                lifespan="off",  # the service is opened around the server: its errors are for people, not tracebacks
                log_config=None,
                access_log=False,
                server_header=False,
                # Only waited with, and so it may be a fraction.
                timeout_graceful_shutdown=chosen.shutdown_seconds - service.stop_reserve_seconds,  # type: ignore[arg-type]
            )
        )
        self._service = service
        self.server_state = self._connections = Connections(connections_max(chosen))

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        metrics.CLIENT_CONNECTIONS_LIMIT.set(self._connections.connections_max)
        self._sweeper = asyncio.create_task(self._sweep(), name="sweep-connections")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().shutdown(sockets)
        finally:
            self._sweeper.cancel()

    async def _sweep(self) -> None:
        """Until the last connection has ended, which a client that does not go would put off."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            self._connections.sweep(asyncio.get_running_loop().time())
            metrics.CLIENT_CONNECTIONS.set(len(self._connections.connections))

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Takes SIGINT and SIGTERM. Unlike uvicorn's own, it does not raise them again at the end: after serving, the
        service and the embedded database are still to be closed."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if not self.should_exit:
            logger.info("Stopping: what was taken is finished, on %d connections.", len(self._connections.connections))
        self._service.drain()
        super().handle_exit(sig, frame)


def describe_database(service: Service) -> str:
    """The database of an open service in a few words, or what is wrong with it."""
    facts = service.database.facts
    return database.describe(facts) if facts else f"not ready: {service.database.problem}"


def tune_garbage_collection() -> None:
    """A batch makes thousands of objects and no cycles. Looking for some after every 700 took 0.7 of 7.3 µs an event."""
    gc.freeze()  # what is here now stays
    gc.set_threshold(50_000, 20, 20)
