"""Sessions that were lost: the connection is gone here, and the server may not know.

A firewall that forgets a connection tells neither end. Then the server waits for the rest of a COPY, holding the ids that
were claimed for it, and their batch, sent again, waits for that.
"""

import logging
import socket
import time
from datetime import datetime

import asyncpg
from msgspec import Struct

from ingest.store import files

logger = logging.getLogger(__name__)

SESSIONS_MAX = 1000

KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
"""As load/session.sql has it for the other end: silence of 25 s ends a connection."""


class Session(Struct, frozen=True):
    """One of the server's: its process, and when that began."""

    pid: int
    backend_start: datetime
    is_pooled: bool
    """Whether a pooler gives it to others, too, as soon as one is done with it."""


class LostSessions:
    """Sessions of connections that are gone, until the server has been asked about them. False if there are none."""

    def __init__(self) -> None:
        self._lost: dict[Session, float] = {}

    def __bool__(self) -> bool:
        return bool(self._lost)

    def add(self, session: Session) -> None:
        """Takes note of a session whose connection was closed, by whomever and however. Past SESSIONS_MAX it does not."""
        if len(self._lost) < SESSIONS_MAX:
            self._lost[session] = time.monotonic()

    async def end(self, connection: asyncpg.Connection) -> None:
        """Ends those that still wait for us. Raises what the driver raises; then they are ended the next time."""
        asked = dict(self._lost)
        now = time.monotonic()
        rows = await connection.fetch(
            files.sql("load/end_lost_sessions"),
            [session.pid for session in asked],
            [session.backend_start for session in asked],
            [session.is_pooled for session in asked],
            [now - lost_at for lost_at in asked.values()],
        )
        ended = {(row["pid"], row["backend_start"]): row["is_ended"] for row in rows}
        for session in asked:
            if ended.get(
                (session.pid, session.backend_start), True
            ):  # else it is at work: whether it waits for us after that, is asked again
                del self._lost[session]
        if count := sum(ended.values()):
            logger.warning("Ended %d sessions of ours at the server, which waited for what the network had lost.", count)


def keep_alive(connection: asyncpg.Connection) -> None:
    """Has the system notice when the other end is gone without a word. The driver has no option for it."""
    link = connection._transport.get_extra_info("socket")
    if link is None or link.family not in (socket.AF_INET, socket.AF_INET6):
        return
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in KEEPALIVE.items():
        if hasattr(socket, option):  # macOS lacks some
            link.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
