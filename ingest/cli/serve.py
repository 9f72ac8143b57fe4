"""`ingest serve`: uvicorn around the service, and the embedded database under it where there is no other."""

import argparse
import asyncio
import contextlib
import gc
import logging
import signal
import socket
from collections.abc import Iterator
from types import FrameType

import uvicorn
import uvloop

from ingest import errors
from ingest.app import BULK_PATHS, Service
from ingest.cli.databases import EMBEDDED_WAIT_SECONDS, database_of
from ingest.events import USAGE_EVENTS
from ingest.settings import DatabaseUrl, Settings
from ingest.store import database, migrate, policies
from ingest.store.embedded import Embedded
from ingest.web.http1 import Http1

EMBEDDED_LOOK_SECONDS = 1.0

logger = logging.getLogger(__name__)


def serve(options: argparse.Namespace, chosen: Settings) -> int:
    """Runs the service until it is told to stop (Ctrl-C or SIGTERM), then finishes what it took and stops."""
    with _listening(options.host, options.port) as listener, database_of(chosen) as (url, server):
        if server is not None:
            print(f"PostgreSQL  embedded, data in {server.data_dir}", flush=True)
            migrate.migrate(url, chunk_interval_hours=chosen.chunk_interval_hours, wait_seconds=EMBEDDED_WAIT_SECONDS)
            _apply_policies(url, chosen)
        _tune_garbage_collection()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_Server(Service(chosen, url), chosen, server).run_on(listener))


def _apply_policies(url: DatabaseUrl, chosen: Settings) -> None:
    """For the embedded database, which has no operator. One who shortens the retention is asked, as everywhere."""
    try:
        policies.apply(url, chosen.policy_settings)
    except errors.PolicyRefused as refusal:
        logger.warning("The policies stay as they are: %s", refusal)


def _tune_garbage_collection() -> None:
    """A batch makes thousands of objects and no cycles. Looking for some after every 700 took 0.7 of 7.3 µs an event."""
    gc.freeze()  # what is here now stays
    gc.set_threshold(50_000, 20, 20)


@contextlib.contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    """A bound socket, so that a port that is taken is found before anything is started."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            raise errors.PortTaken(
                f"Can't listen on {host}:{port}: {error.strerror}. Choose another --port or --host."
            ) from error
        yield listener


def _base_url(listener: socket.socket, *, reachable: bool = False) -> str:
    """Where it listens; with `reachable` an address that a client on this machine can use, also where it listens on all."""
    host, port = listener.getsockname()[:2]
    if reachable:
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Server(uvicorn.Server):
    """uvicorn, with a door that closes on the first signal, before the wait for open connections begins."""

    def __init__(self, service: Service, chosen: Settings, embedded_server: Embedded | None) -> None:
        super().__init__(
            uvicorn.Config(
                service.asgi,
                http=Http1,
                ws="none",
                lifespan="off",  # the service is opened around the server: its errors are for people, not tracebacks
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=chosen.shutdown_seconds,
            )
        )
        self._service = service
        self._embedded = embedded_server

    async def run_on(self, listener: socket.socket) -> int:
        """Opens the service, serves until a signal, closes it. Returns the exit status."""
        async with self._service.running():
            _say_hello(self._service, listener)
            keeper = asyncio.create_task(self._keep_embedded_alive(), name="embedded-keeper")
            await self.serve(sockets=[listener])
            keeper.cancel()
        return 0

    async def _keep_embedded_alive(self) -> None:
        while self._embedded is not None:
            await asyncio.sleep(EMBEDDED_LOOK_SECONDS)
            try:
                if await asyncio.to_thread(self._embedded.revive):
                    logger.warning("The embedded PostgreSQL was gone and is started again.")
            except errors.EmbeddedUnavailable as problem:
                logger.error("%s", problem)  # noqa: TRY400 - its cause is in its words

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
        self._service.drain()
        super().handle_exit(sig, frame)


def _say_hello(service: Service, listener: socket.socket) -> None:
    facts = service.database.facts
    print(f"Database    {database.describe(facts) if facts else f'not ready: {service.database.problem}'}")
    print(f"Listening   {_base_url(listener)}")
    print("Send a first batch:")
    print(_FIRST_BATCH.format(url=_base_url(listener, reachable=True) + BULK_PATHS[USAGE_EVENTS]), flush=True)


_FIRST_BATCH = """\
  echo '{{"event_id": "'$(cat /proc/sys/kernel/random/uuid)'", "event_time": "'$(date -u +%Y-%m-%dT%H:%M:%SZ)'",
    "user_id": "ada", "team": "search", "service": "chat", "provider": "openai", "model": "gpt-4o",
    "total_tokens": 1234}}' | gzip | curl --data-binary @- -H 'Content-Type: application/json' \\
    -H 'Content-Encoding: gzip' {url}"""
