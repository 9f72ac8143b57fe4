"""A TCP proxy between the service and PostgreSQL that fails as networks do, and at the worst moment.

It reads along what the service sends, message by message (PostgreSQL documentation, chapter "Frontend/Backend Protocol").
"""

import asyncio
import contextlib
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from enum import Enum

CONNECT_SECONDS_MAX = 5
COPY_DATA = b"d"
QUERY = b"Q"
COPY_OF_ROWS = b'COPY "analytics"."usage_events"('


class Moment(Enum):
    """When a fault strikes."""

    IN_COPY = "in mid-COPY"
    AFTER_CLAIMS = "in mid-COPY, with ids claimed"
    BEFORE_COMMIT = "before the server has the COMMIT"
    AFTER_COMMIT = "after the server has the COMMIT, before its answer comes back"


class Damage(Enum):
    """What happens to a connection."""

    CUT = "cut"
    BLACKHOLED = "blackholed"
    FORGOTTEN = "blackholed for good"
    """Neither end is ever told."""
    HALF_OPEN = "half open"
    """The service is told, and the server never (RFC 9293, section 3.5.1)."""


class _Link:
    """One connection through the proxy."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self._client = client
        self._server = server
        self.is_blackholed = False
        self.is_forgotten = False
        self.last_query = b""

    def suffer(self, damage: Damage) -> None:
        if damage is Damage.CUT:
            for writer in (self._client, self._server):
                writer.transport.abort()
            return
        self.is_blackholed = True
        self.is_forgotten = damage in (Damage.FORGOTTEN, Damage.HALF_OPEN)
        if damage is Damage.HALF_OPEN:
            self._client.transport.abort()


class Proxy:
    """Listens on `port` and passes everything on, until it is told otherwise. Its methods may be called from any thread."""

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._loop = asyncio.new_event_loop()
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._plan: tuple[Moment, Damage] | None = None
        self._struck = threading.Event()
        self._outage: Damage | None = None
        self.port = 0

    def strike_at(self, moment: Moment, damage: Damage) -> None:
        """Damages the next connection that comes to this moment."""
        self._struck.clear()
        self._plan = moment, damage

    def await_strike(self, seconds: float) -> bool:
        """Waits until that has happened, and says whether it has."""
        return self._struck.wait(seconds)

    def strike_all(self, damage: Damage) -> None:
        """Damages all connections that there are, and all that are made until `heal`."""
        self._outage = damage
        self._call(lambda: self._damage(self._links, damage))

    def heal(self) -> None:
        """Cuts what is blackholed, as a firewall does that comes back, and lets new connections through. What is blackholed
        for good stays so."""
        self._outage = None
        self._plan = None
        self._call(lambda: self._damage((link for link in self._links if link.is_blackholed), Damage.CUT))

    @staticmethod
    def _damage(links: Iterable[_Link], damage: Damage) -> None:
        for link in list(links):
            if not link.is_forgotten:
                link.suffer(damage)

    def _end(self) -> None:
        for link in list(self._links):
            link.suffer(Damage.CUT)

    def _call(self, action: Callable[[], object]) -> None:
        done = threading.Event()

        def act() -> None:
            action()
            done.set()

        self._loop.call_soon_threadsafe(act)
        done.wait()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._outage is Damage.CUT:
            writer.transport.abort()
            return
        try:
            async with asyncio.timeout(CONNECT_SECONDS_MAX):
                server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._server_port)
        except (OSError, TimeoutError):
            writer.transport.abort()
            return
        link = _Link(writer, server_writer)
        self._links.add(link)
        if self._outage is not None:
            link.suffer(self._outage)
        passing = [
            asyncio.ensure_future(self._pass_messages(reader, server_writer, link)),
            asyncio.ensure_future(self._pass_bytes(server_reader, writer, link)),
        ]
        try:
            await asyncio.wait(passing, return_when=asyncio.FIRST_COMPLETED)
            if link.is_forgotten:  # the other end is not told that this one is gone
                await asyncio.wait(passing)
        finally:
            self._links.discard(link)
            link.suffer(Damage.CUT)
            for ended in passing:
                ended.cancel()
            await asyncio.gather(*passing, return_exceptions=True)

    async def _pass_messages(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, link: _Link) -> None:
        length = await reader.readexactly(4)  # the start-up message has no type
        start_up = length + await reader.readexactly(struct.unpack("!I", length)[0] - 4)
        if not link.is_blackholed:
            writer.write(start_up)
        while True:
            head = await reader.readexactly(5)
            message = head + await reader.readexactly(struct.unpack("!I", head[1:])[0] - 4)
            if head[:1] == QUERY:
                link.last_query = message[5:]
            moment = None if link.is_blackholed else self._moment_of(message, link)
            if moment is Moment.AFTER_COMMIT:
                writer.write(message)
                await writer.drain()
            if moment is not None and self._plan is not None:
                _, damage = self._plan
                self._plan = None
                if moment in (Moment.IN_COPY, Moment.AFTER_CLAIMS):
                    writer.write(message[: len(message) // 2])
                    await writer.drain()
                link.suffer(damage)
                self._struck.set()
            if not link.is_blackholed and moment is not Moment.AFTER_COMMIT:
                writer.write(message)
                await writer.drain()

    def _moment_of(self, message: bytes, link: _Link) -> Moment | None:
        if self._plan is None:
            return None
        moment = self._plan[0]
        if moment is Moment.AFTER_CLAIMS and not link.last_query.startswith(COPY_OF_ROWS):
            return None
        if moment in (Moment.IN_COPY, Moment.AFTER_CLAIMS):
            return moment if message[:1] == COPY_DATA else None
        return moment if message[:1] == QUERY and message[5:].startswith(b"COMMIT") else None

    async def _pass_bytes(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, link: _Link) -> None:
        while data := await reader.read(65536):
            if not link.is_blackholed:
                writer.write(data)
                await writer.drain()
        raise EOFError

    async def _serve(self, listens: threading.Event) -> None:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        listens.set()
        with contextlib.suppress(asyncio.CancelledError):
            await server.serve_forever()

    @contextmanager
    def running(self) -> Iterator["Proxy"]:
        """Runs it in a thread."""
        listens = threading.Event()
        serving = self._loop.create_task(self._serve(listens))
        thread = threading.Thread(target=self._loop.run_until_complete, args=(serving,), daemon=True)
        thread.start()
        listens.wait()
        try:
            yield self
        finally:
            self._call(self._end)
            self._loop.call_soon_threadsafe(serving.cancel)
            thread.join(10)
            pending = asyncio.all_tasks(self._loop)
            if pending:  # their connections are cut
                self._loop.run_until_complete(asyncio.wait(pending, timeout=CONNECT_SECONDS_MAX))
            self._loop.close()
