"""The service between its clients and its database, all of which may fail."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path

import httpx
import psycopg

from ingest.settings import DatabaseUrl
from ingest.store import migrate
from tests.faults.cluster import Cluster
from tests.faults.load import Load
from tests.faults.proxy import Proxy
from tests.servers import Unavailable, free_port
from tests.service import command, environment

READY_SECONDS_MAX = 5
"""So soon after the database is back the service is ready, and nobody did anything."""
START_SECONDS_MAX = 30
STOP_SECONDS_MAX = 30
CLOCK_SECONDS_OFF_MAX = 10

SETTINGS = {
    "DB_POOL_SIZE": "4",
    "DB_TIMEOUT_SECONDS": "2",
    "QUEUE_TIMEOUT_SECONDS": "1",
    "SHUTDOWN_SECONDS": "5",
}
"""Impatient, so that a test of a fault takes seconds."""


class Service:
    """`ingest serve` on a port that stays the same."""

    def __init__(self, settings: Mapping[str, str], log: Path, *arguments: str) -> None:
        self.port = free_port()
        self._settings = settings
        self._log = log
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def clock(self) -> Path:
        """Where `with_clock` has its clock read from."""
        return Path(self._settings["FAKETIME_TIMESTAMP_FILE"])

    @property
    def pid(self) -> int:
        """Of its process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Starts it, and waits until it is ready."""
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                command("serve", "--port", str(self.port), *self._arguments),
                env=environment(self._settings),
                cwd=self._log.parent,
                stdout=output,
                stderr=output,
            )
        self.await_ready(START_SECONDS_MAX)

    def kill(self) -> None:
        """SIGKILL."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def terminate(self) -> tuple[int, float]:
        """SIGTERM; returns the exit status, and after how many seconds it came."""
        assert self._process is not None
        began = time.monotonic()
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(STOP_SECONDS_MAX), time.monotonic() - began

    def stop(self) -> None:
        """Ends it, if it still runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                self.kill()

    def is_ready(self) -> bool:
        """What GET /readyz says."""
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/readyz", timeout=5).status_code == HTTPStatus.OK
        except httpx.TransportError:
            return False

    def time(self) -> datetime:
        """What it takes the time for."""
        answer = httpx.get(f"http://127.0.0.1:{self.port}/healthz", timeout=5)
        return datetime.fromisoformat(answer.json()["timestamp"])

    def await_ready(self, seconds_max: float) -> float:
        """Returns after how many seconds it was ready. Raises AssertionError if it is not in time."""
        began = time.monotonic()
        while not self.is_ready():
            assert time.monotonic() - began < seconds_max, self._log.read_text()[-4000:]
            time.sleep(0.02)
        return time.monotonic() - began

    def resident_bytes(self) -> int:
        """The memory that its process holds now."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def with_clock(folder: Path) -> dict[str, str]:
    """Settings for a service whose clock can be set while it runs. Raises Unavailable without libfaketime."""
    libraries = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    if not libraries:
        raise Unavailable("libfaketime is not installed")
    clock = folder / "clock"
    clock.write_text("+0")
    return {
        "LD_PRELOAD": str(libraries[0]),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",  # as in a machine whose clock is set
    }


class Scene:
    """All that plays a part."""

    def __init__(self, cluster: Cluster, proxy: Proxy, service: Service, load: Load) -> None:
        self.cluster = cluster
        self.proxy = proxy
        self.service = service
        self.load = load

    @property
    def url(self) -> DatabaseUrl:
        """The database, past the proxy."""
        return self.cluster.url

    def execute(self, *statements: str) -> None:
        """Runs statements as the DBA."""
        with psycopg.connect(self.url.reveal(), autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    @contextmanager
    def transaction(self) -> Iterator["psycopg.Connection[tuple[object, ...]]"]:
        """A transaction of the DBA's, rolled back at the end."""
        with psycopg.connect(self.url.reveal()) as connection:
            try:
                yield connection
            finally:
                with suppress(psycopg.Error):
                    connection.rollback()

    def set_clock(self, seconds: int) -> None:
        """Sets the service's clock, which must be ours to set (`with_clock`), so many seconds after the real one."""
        self.service.clock.write_text(f"{seconds:+d}")
        off_seconds = (self.service.time() - datetime.now(UTC)).total_seconds()
        assert abs(off_seconds - seconds) < CLOCK_SECONDS_OFF_MAX, off_seconds

    def recover(self) -> float:
        """Waits for the database, then for the service; returns how long that took to be ready. Raises AssertionError if it
        took longer than READY_SECONDS_MAX."""
        self.cluster.await_answer()
        seconds = self.service.await_ready(READY_SECONDS_MAX)
        self.load.await_acknowledgement(READY_SECONDS_MAX)
        return seconds


@contextmanager
def service_on(cluster: Cluster, folder: Path, *arguments: str, **settings: str) -> Iterator[tuple[Proxy, Service]]:
    """The service behind a proxy, on the database of the cluster, which is migrated.

    arguments, settings: more of them for the service.
    """
    migrate.migrate(cluster.url, chunk_interval_hours=24)
    with Proxy(cluster.port).running() as proxy:
        through_proxy = cluster.url.reveal().replace(f":{cluster.port}/", f":{proxy.port}/")
        service = Service({**SETTINGS, **settings, "DB_URL": through_proxy}, folder / "service.log", *arguments)
        try:
            service.start()
            yield proxy, service
        finally:
            service.stop()
