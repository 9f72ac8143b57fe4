"""`ingest serve`: the service in one process or in several, and the embedded database under it where there is no other."""

import argparse
import asyncio
import contextlib
import ipaddress
import logging
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from functools import partial

import msgspec
import uvloop

from ingest import errors, metrics
from ingest.app import BULK_PATHS, Service
from ingest.cli import descriptors
from ingest.cli.channel import Orders
from ingest.cli.databases import EMBEDDED_WAIT_SECONDS, database_of
from ingest.cli.server import Server, describe_database, tune_garbage_collection
from ingest.cli.supervisor import Supervisor
from ingest.events import USAGE_EVENTS
from ingest.flow import rates
from ingest.flow.rates import Rates
from ingest.settings import DatabaseUrl, Settings
from ingest.store import migrate, policies
from ingest.store.embedded import Embedded

BACKLOG_CONNECTIONS = 2048
EMBEDDED_LOOK_SECONDS = 1.0

logger = logging.getLogger(__name__)


def serve(options: argparse.Namespace, chosen: Settings) -> int:
    """Runs the service until it is told to stop (Ctrl-C or SIGTERM), then finishes what it took and stops."""
    descriptors.raise_limit()
    with _listening(options.host, options.port) as listener, database_of(chosen) as (url, server):
        chosen = _with_access(chosen, listener)
        if server is not None:
            print(f"PostgreSQL  embedded, data in {server.data_dir}", flush=True)
            migrate.migrate(url, chunk_interval_hours=chosen.chunk_interval_hours, wait_seconds=EMBEDDED_WAIT_SECONDS)
            _apply_policies(url, chosen)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            if options.workers == 1:
                tune_garbage_collection()
                status = runner.run(_serve_alone(listener, chosen, url, server))
            else:
                status = runner.run(_supervise(listener, chosen, url, server, workers=options.workers))
    logger.info("Stopped.")
    return status


def _with_access(chosen: Settings, listener: socket.socket) -> Settings:
    """The settings with AUTH_REQUIRED decided, if nobody did: whoever is on this machine needs no key."""
    if chosen.auth_required is not None:
        return chosen
    address = ipaddress.ip_address(listener.getsockname()[0])
    return msgspec.structs.replace(chosen, auth_required=not address.is_loopback)


async def _serve_alone(listener: socket.socket, chosen: Settings, url: DatabaseUrl, server: Embedded | None) -> int:
    """Opens the service, serves until a signal, closes it. Returns the exit status."""
    metrics.WORKERS_WANTED.set(1)
    service = Service(chosen, url, Rates())
    async with service.running():
        _say_hello(describe_database(service), listener, with_key=bool(chosen.auth_required))
        async with _kept_alive(server):
            await Server(service, chosen).serve(sockets=[listener])
    return 0


async def _supervise(
    listener: socket.socket, chosen: Settings, url: DatabaseUrl, server: Embedded | None, *, workers: int
) -> int:
    """Has `workers` processes serve until a signal. Returns the exit status."""
    # The maintenance is one worker's: the others would only ask, again and again, whether somebody else is at it.
    without_maintenance = msgspec.structs.replace(chosen, maintenance="off")
    orders = [
        Orders(number, url, chosen if number == 1 else without_maintenance, workers) for number in range(1, workers + 1)
    ]
    shared_rates = rates.share()
    try:
        with tempfile.TemporaryDirectory(prefix="ingest-metrics-") as metrics_folder:
            async with _kept_alive(server):
                greet = partial(_say_hello, listener=listener, with_key=bool(chosen.auth_required))
                return await Supervisor(listener, orders, greet, shared_rates, metrics_folder).run()
    finally:
        os.close(shared_rates)


def _apply_policies(url: DatabaseUrl, chosen: Settings) -> None:
    """For the embedded database, which has no operator. One who shortens the retention is asked, as everywhere."""
    try:
        policies.apply(url, chosen.policy_settings)
    except errors.PolicyRefused as refusal:
        logger.warning("The policies stay as they are: %s", refusal)


@contextlib.asynccontextmanager
async def _kept_alive(server: Embedded | None) -> AsyncIterator[None]:
    """Starts the embedded server again when it is gone, while the context is open."""
    keeper = asyncio.create_task(_keep_alive(server), name="embedded-keeper")
    try:
        yield
    finally:
        keeper.cancel()


async def _keep_alive(server: Embedded | None) -> None:
    while server is not None:
        await asyncio.sleep(EMBEDDED_LOOK_SECONDS)
        try:
            if await asyncio.to_thread(server.revive):
                logger.warning("The embedded PostgreSQL was gone and is started again.")
        except errors.EmbeddedUnavailable as problem:
            logger.error("%s", problem)  # noqa: TRY400 - its cause is in its words


@contextlib.contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens, so that a port that is taken is found before anything is started. Who connects until then,
    waits."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen(BACKLOG_CONNECTIONS)  # two programs may bind, one may listen
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


def _say_hello(database: str, listener: socket.socket, *, with_key: bool) -> None:
    print(f"Database    {database}")
    print(f"Listening   {_base_url(listener)}")
    print(f"API keys    {'required' if with_key else 'not required: whoever reaches this address may send (AUTH_REQUIRED)'}")
    print("Send a first batch:")
    url = _base_url(listener, reachable=True) + BULK_PATHS[USAGE_EVENTS]
    print(_FIRST_BATCH.format(key="-H 'X-API-Key: …' " if with_key else "", url=url), flush=True)


_FIRST_BATCH = """\
  echo '{{"event_id": "'$(cat /proc/sys/kernel/random/uuid)'", "event_time": "'$(date -u +%Y-%m-%dT%H:%M:%SZ)'",
    "user_id": "ada", "team": "search", "service": "chat", "provider": "openai", "model": "gpt-4o",
    "total_tokens": 1234}}' | gzip | curl --data-binary @- -H 'Content-Type: application/json' \\
    -H 'Content-Encoding: gzip' {key}{url}"""
