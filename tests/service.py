"""The service as its users meet it: a process, its output, its HTTP."""

import gzip
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec

START_SECONDS_MAX = 60
STOP_SECONDS_MAX = 30

REQUESTS = "/api/v1/ingest/requests:bulk"
ARCHIVES = "/api/v1/ingest/archives:bulk"


@dataclass
class RunningService:
    """A service that listens."""

    process: subprocess.Popen[str]
    client: httpx.Client
    log: Path

    def post(self, content: object, path: str = REQUESTS, *, headers: Mapping[str, str] | None = None) -> httpx.Response:
        """Sends items as gzipped JSON; bytes go as they are, labelled as plain JSON unless `headers` says otherwise."""
        if isinstance(content, bytes):
            body, labels = content, {"Content-Type": "application/json"}
        else:
            body = gzip.compress(msgspec.json.encode(content), 1)
            labels = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
        return self.client.post(path, content=body, headers={**labels, **(headers or {})})

    def verdict(self, content: object, path: str = REQUESTS, *, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
        """As `post`; the answer must be 200."""
        answer = self.post(content, path, headers=headers)
        assert answer.status_code == 200, answer.text
        parsed: dict[str, Any] = answer.json()
        return parsed

    def resident_bytes(self) -> int:
        """The memory that the process holds now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS"))

    def peak_bytes(self) -> int:
        """The most memory that the process held so far."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))

    def stop(self, with_signal: int = signal.SIGTERM) -> int:
        """Sends the signal, waits, and returns the exit status."""
        self.process.send_signal(with_signal)
        return self.process.wait(STOP_SECONDS_MAX)


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without settings of the service, and with these."""
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "XDG_RUNTIME_DIR") if name in os.environ}
    return {**inherited, **settings}


def command(*arguments: str) -> list[str]:
    """The command line of the service."""
    return [sys.executable, "-m", "ingest", *arguments]


@contextmanager
def started(settings: Mapping[str, str], *arguments: str) -> Iterator[RunningService]:
    """Starts `ingest serve` with these further arguments on a free port, waits until it listens, and kills it at the end if
    it still runs."""
    with tempfile.TemporaryDirectory(prefix="ingest-service-") as folder:
        log = Path(folder) / "output"
        with log.open("w") as output:
            process = subprocess.Popen(
                command("serve", "--port", "0", *arguments),
                env=environment(settings),
                cwd=folder,
                stdout=output,
                stderr=output,
                text=True,
            )
        try:
            with httpx.Client(base_url=_await_address(process, log), timeout=60) as client:
                yield RunningService(process, client, log)
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(STOP_SECONDS_MAX)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def _await_address(process: subprocess.Popen[str], log: Path) -> str:
    deadline = time.monotonic() + START_SECONDS_MAX
    while time.monotonic() < deadline:
        for line in log.read_text().splitlines():
            if line.startswith("Listening"):
                return line.split()[1]
        if process.poll() is not None:
            break
        time.sleep(0.05)
    raise AssertionError(f"the service did not start:\n{log.read_text()}")
