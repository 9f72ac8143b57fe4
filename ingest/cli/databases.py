"""Which database a command works on."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from ingest.settings import DatabaseUrl, Settings
from ingest.store import embedded
from ingest.store.embedded import Embedded

EMBEDDED_WAIT_SECONDS = 120


@contextlib.contextmanager
def database_of(chosen: Settings) -> Iterator[tuple[DatabaseUrl, Embedded | None]]:
    """The database of the settings, or an embedded one that lives as long as the context."""
    if chosen.db_url is not None:
        yield chosen.db_url, None
        return
    with embedded.running(Path(chosen.data_dir) if chosen.data_dir else None) as server:
        yield server.url, server
