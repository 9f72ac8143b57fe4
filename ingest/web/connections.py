"""The connections of a process: how many there may be, how long each may keep us waiting, and which one goes for another.

Whoever is waited for stands in a line, the longest first. So the look at who is late, ten times a second, costs nothing while
nobody is, and the one that has been waited for longest is at hand when a new connection needs its place.
"""

from typing import Protocol

from uvicorn.server import ServerState

HEAD_SECONDS = 10.0
"""From the connection to the first byte of a request, and from there to the end of its head."""
LEAVING_SECONDS = 2.0
"""After a refusal the client may still be sending. Closing at once would reset the connection, and many clients would never
see the answer; so what still comes is read and thrown away for so long (nginx calls it lingering_close)."""
WRITE_SECONDS = 30.0
"""For the client to take what is in our buffer (64 KiB)."""
RECEIVING_SECONDS_MIN = 1.0
"""A body that has been coming for less does not go for a new connection."""


class Connection(Protocol):
    """What is asked of a connection."""

    def give_up(self) -> None:
        """Its time for a request is over: answers, if one has begun, and closes."""
        ...

    def drop(self) -> None:
        """Closes without a word."""
        ...


class Line:
    """Connections that are waited for, in the order in which that began; each for so many seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._since: dict[Connection, float] = {}

    def __len__(self) -> int:
        return len(self._since)

    def enter(self, connection: Connection, now: float) -> None:
        """Puts the connection at the end, wherever it stood."""
        self._since.pop(connection, None)
        self._since[connection] = now

    def leave(self, connection: Connection) -> None:
        """The connection is waited for no longer."""
        self._since.pop(connection, None)

    def first(self, until: float) -> Connection | None:
        """The one that has been waited for longest, if it has since `until` or before."""
        for connection, since in self._since.items():
            return connection if since <= until else None
        return None

    def late(self, now: float) -> list[Connection]:
        """Those whose time is over. They leave the line."""
        late: list[Connection] = []
        for connection, since in self._since.items():
            if since + self._seconds > now:
                break
            late.append(connection)
        for connection in late:
            del self._since[connection]
        return late


class Connections(ServerState):
    """All connections of a server; uvicorn's own record of them, with the lines in which they stand.

    connections_max: how many there may be.
    """

    def __init__(self, connections_max: int) -> None:
        super().__init__()
        self._connections_max = connections_max
        self.waiting = Line(HEAD_SECONDS)
        """For a request, or for the rest of its head."""
        self.receiving = Line(float("inf"))
        """For the rest of a body; how long that may take, is up to who reads it (ingest.web.body)."""
        self.stalled = Line(WRITE_SECONDS)
        """For the client to read."""
        self.leaving = Line(LEAVING_SECONDS)
        """For the client to go."""

    @property
    def connections_max(self) -> int:
        """How many connections there may be."""
        return self._connections_max

    def sweep(self, now: float) -> None:
        """Parts with those whose time is over. To be called every now and then."""
        for connection in self.waiting.late(now):
            connection.give_up()
        for line in (self.stalled, self.leaving):
            for connection in line.late(now):
                connection.drop()

    def make_room(self, now: float) -> bool:
        """Whether one more connection, which is counted already, may stay. The one that has kept us waiting for longest goes
        for it; those go first that are to go anyway, and last those whose request has begun."""
        while len(self.connections) > self._connections_max:
            goes = self.leaving.first(now) or self.waiting.first(now) or self.receiving.first(now - RECEIVING_SECONDS_MIN)
            if goes is None:
                return False
            self.forget(goes)
            goes.drop()
        return True

    def forget(self, connection: Connection) -> None:
        """The connection is gone, or as good as gone."""
        for line in (self.waiting, self.receiving, self.stalled, self.leaving):
            line.leave(connection)
        self.connections.discard(connection)
