"""One of several workers: a process that serves the connections which its supervisor hands to it.

Run by ingest/cli/supervisor.py, as `python -m ingest.cli.worker DESCRIPTOR RATES_DESCRIPTOR`.
"""

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvloop

from ingest import errors, metrics
from ingest.app import Service
from ingest.cli import channel, descriptors, log
from ingest.cli.channel import Closed, Draining, Orders, Ready, Refused, Report, Taken
from ingest.cli.server import Server, describe_database, tune_garbage_collection
from ingest.flow.rates import Rates
from ingest.web.http1 import Http1

EXIT_REFUSED = 1

logger = logging.getLogger(__name__)


def main(descriptor: int, rates_descriptor: int) -> int:
    """Serves until the supervisor says to stop, or is gone. Returns the exit status."""
    with socket.socket(fileno=descriptor) as supervisor:
        supervisor.set_inheritable(False)  # a child that had it too would hide our end from the supervisor
        try:
            orders = channel.receive_orders(supervisor)
        except EOFError:
            return 0
        log.to_standard_error(orders.settings, f"worker {orders.number}")
        descriptors.raise_limit()
        tune_garbage_collection()
        metrics.WORKERS_WANTED.set(orders.workers)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_serve(orders, supervisor, Rates(rates_descriptor)))


async def _serve(orders: Orders, supervisor: socket.socket, rates: Rates) -> int:
    service = Service(orders.settings, orders.url, rates)
    try:
        async with service.running(is_restart=orders.is_restart):
            await _WorkerServer(service, orders, supervisor).serve(sockets=[])
    except errors.SetupError as problem:
        with contextlib.suppress(OSError):  # the supervisor may be gone
            supervisor.sendall(channel.encode(Refused(str(problem))))
        return EXIT_REFUSED
    return 0


class _HandedConnection(Http1):
    """HTTP on a connection of which the supervisor keeps count."""

    def __init__(self, *args: Any, on_lost: Callable[[], None], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._on_lost = on_lost

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._on_lost()


class _WorkerServer(Server):
    """A server that listens on nothing: its connections come through the channel."""

    def __init__(self, service: Service, orders: Orders, supervisor: socket.socket) -> None:
        super().__init__(service, orders.settings)
        self._stop_seconds_max = orders.settings.shutdown_seconds + channel.STOP_SPARE_SECONDS
        self._supervisor = supervisor
        self._unsaid = bytearray()
        self._opening: set[asyncio.Task[None]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._supervisor.setblocking(False)
        asyncio.get_running_loop().add_reader(self._supervisor, self._take)
        if not self.should_exit:
            self._say(Ready(describe_database(self._service)))

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        self._say(Draining())

    def _take(self) -> None:
        while True:
            try:
                connection = channel.receive_connection(self._supervisor)
            except BlockingIOError:
                return
            except EOFError:
                self._go_too()
                return
            if self.should_exit:  # the supervisor has it still, and gives it to another
                if connection is not None:
                    connection.close()
                continue
            self._say(Taken())
            if connection is None:
                logger.error("A connection was lost: this process has no file descriptor left.")
                self._say(Closed())
                continue
            opening = asyncio.create_task(self._open(connection), name="open-connection")
            self._opening.add(opening)
            opening.add_done_callback(self._opening.discard)

    async def _open(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(self._protocol, connection)
        except OSError:  # the client is gone already
            connection.close()
            self._say(Closed())

    def _protocol(self) -> asyncio.Protocol:
        return _HandedConnection(
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
            on_lost=lambda: self._say(Closed()),
        )

    def _go_too(self) -> None:
        """Without a supervisor no connections come, and nobody would notice if this process hung."""
        asyncio.get_running_loop().remove_reader(self._supervisor)
        signal.alarm(self._stop_seconds_max)  # which ends the process, unless it has ended by then
        if not self.should_exit:
            logger.error("The supervisor is gone. This worker finishes what it took, and stops.")
            self.handle_exit(signal.SIGTERM, None)

    def _say(self, report: Report) -> None:
        """Sends a report; what the supervisor is too slow to take, goes with the next."""
        self._unsaid += channel.encode(report)
        try:
            del self._unsaid[: self._supervisor.send(self._unsaid)]
        except BlockingIOError:
            pass
        except OSError:  # the supervisor is gone, which the end of the stream tells, too
            self._unsaid.clear()


if __name__ == "__main__":
    raise SystemExit(main(*map(int, sys.argv[1:])))
