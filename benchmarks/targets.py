"""What is compared over HTTP: the service, other programs with its path, other databases."""

import os
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec
from zlib_ng import zlib_ng

from benchmarks import postgres
from benchmarks.bodies import GZIP_LEVEL
from benchmarks.peers import Peer
from benchmarks.postgres import Costs
from benchmarks.posting import Endpoint, post
from benchmarks.programs import Running
from benchmarks.rounds import Meter, Round, Turn
from benchmarks.sender import HEADERS, PATH

GZIP_WINDOW_BITS = 31


class Storage(Protocol):
    """Where a program keeps the events."""

    def costs(self) -> Costs:
        """What the database has used so far."""
        ...

    def stored(self) -> tuple[int | None, int | None]:
        """How many events there are and how many ids they have; None for what is not known."""
        ...

    def clear(self) -> None:
        """Leaves it empty, and nothing to be done later."""
        ...


class Tables:
    """Tables of a PostgreSQL database; the first is the one with the events."""

    def __init__(self, session: postgres.Session, *tables: str) -> None:
        self._session = session
        self._tables = tables

    def costs(self) -> Costs:
        return self._session.costs()

    def stored(self) -> tuple[int | None, int | None]:
        return self._session.stored(self._tables[0])

    def clear(self) -> None:
        self._session.empty(self._tables)
        self._session.settle()


class Nowhere:
    """For a program that stores nothing."""

    def costs(self) -> Costs:
        return Costs()

    def stored(self) -> tuple[int | None, int | None]:
        return None, None

    def clear(self) -> None:
        pass


class Program:
    """A program that takes gzipped JSON as the service does (benchmarks.rounds.Target).

    share: of the events of a round that it is sent.
    """

    def __init__(self, name: str, running: Running, storage: Storage, *, share: float = 1.0) -> None:
        self.name = name
        self._endpoint = Endpoint(running.url, PATH, HEADERS)
        self._running = running
        self._storage = storage
        self._share = share

    def run(self, this: Round) -> Turn:
        contents = this.contents[: len(this.numbers(self._share))]
        return _run(this, self._endpoint, contents, lambda: self._running.pids, self._storage)


class Database:
    """A database that takes events in a form of its own (benchmarks.rounds.Target)."""

    def __init__(self, peer: Peer) -> None:
        self.name = peer.name
        self._peer = peer
        self._endpoint = Endpoint(peer.url, peer.path, peer.headers, peer.ok_status)
        peer.empty()

    def run(self, this: Round) -> Turn:
        contents = [
            zlib_ng.compress(self._peer.encode(this.bodies.json(number, this.now), number), GZIP_LEVEL, GZIP_WINDOW_BITS)
            for number in this.numbers(1.0)
        ]
        return _run(this, self._endpoint, contents, lambda: [self._peer.process.pid], self)

    def costs(self) -> Costs:
        return Costs()

    def stored(self) -> tuple[int | None, int | None]:
        return self._peer.stored(), None

    def clear(self) -> None:
        self._peer.empty()
        os.sync()


def _run(
    this: Round, endpoint: Endpoint, contents: Sequence[bytes], pids: Callable[[], Sequence[int]], storage: Storage
) -> Turn:
    plan = this.plan
    measured = contents[plan.warmup :]
    meter = Meter(pids, storage.costs)
    turn = post(endpoint, contents[: plan.warmup], measured, plan.connections, meter, len(measured) * plan.batch)
    stored, ids = storage.stored()
    storage.clear()
    return msgspec.structs.replace(turn, sent=len(contents) * plan.batch, stored=stored, ids=ids)
