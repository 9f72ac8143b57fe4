"""What is done around the wheel of the embedded PostgreSQL. With the real one, the acceptance tests start it."""

from itertools import count
from pathlib import Path
from subprocess import CalledProcessError
from types import SimpleNamespace
from typing import Any

import pytest

from ingest.store import embedded


class Wheel:
    """Fails in these ways, one after the other, before it starts."""

    def __init__(self, *failures: Exception) -> None:
        self._failures = list(failures)
        self.PostgresServer = SimpleNamespace(_instances={})

    def get_server(self, files: Path, cleanup_mode: str) -> str:
        if self._failures:
            raise self._failures.pop(0)
        return "started"


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = count()
    monkeypatch.setattr(embedded, "time", SimpleNamespace(monotonic=lambda: next(seconds), sleep=lambda _: None))


def start(wheel: Any, files: Path) -> Any:
    return embedded._start(wheel, files)


def test_a_user_that_another_process_makes_is_waited_for(tmp_path: Path) -> None:
    taken = CalledProcessError(9, ["useradd", "-s", "/bin/bash", "pgserver"])

    assert start(Wheel(taken, taken), tmp_path) == "started"


def test_a_user_that_can_not_be_made_is_not_waited_for_long(tmp_path: Path) -> None:
    denied = CalledProcessError(1, ["useradd", "-s", "/bin/bash", "pgserver"])

    with pytest.raises(CalledProcessError):
        start(Wheel(*[denied] * embedded.START_SECONDS_MAX), tmp_path)


def test_a_server_that_recovers_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "postmaster.pid").touch()
    slow = CalledProcessError(1, ["pg_ctl", "start"])

    assert start(Wheel(*[slow] * 50), tmp_path) == "started"


def test_a_server_that_does_not_even_begin_is_not_waited_for(tmp_path: Path) -> None:
    with pytest.raises(CalledProcessError):
        start(Wheel(CalledProcessError(1, ["initdb"])), tmp_path)
