"""The connection to the database: a pool of writers' connections, and a watch that says whether they can work.

The watch is what makes recovery need no human: it looks once a second while something is wrong, at once when a writer lost
its connection. While all is well it connects anew every ten seconds, for a server that is to stop smartly waits until its
sessions have ended, and tells that to nobody but who connects; and once a minute it asks what has been dropped meanwhile.
Whenever it has an answer, it sees to sessions that were lost on the way (ingest.store.sessions).
"""

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg
import msgspec

from ingest import errors
from ingest.events import STREAMS
from ingest.settings import DatabaseUrl
from ingest.store import editions, failures, files, sessions
from ingest.store.editions import Facts
from ingest.store.sessions import LostSessions, Session

# Parameters of a URL that libpq knows, and asyncpg would send to the server as settings, which it does not have.
LIBPQ_ONLY = frozenset(
    {
        "channel_binding",
        "connect_timeout",
        "gssencmode",
        "hostaddr",
        "keepalives",
        "keepalives_count",
        "keepalives_idle",
        "keepalives_interval",
        "load_balance_hosts",
        "require_auth",
        "sslcompression",
        "sslcertmode",
        "sslnegotiation",
        "sslsni",
        "tcp_user_timeout",
    }
)

logger = logging.getLogger(__name__)

WATCH_SECONDS = 1.0
RECONNECT_SECONDS = 10.0
BOUNDS_RECONNECTS = 6
"""Once in so many of these, what has been dropped is asked for, too."""
PING_TIMEOUT_SECONDS = 2.0
RESUME_SECONDS = 2.0
"""How long statements from before an outage may go on after it. A server that was frozen answers them at once; what a network
has lost is answered never, and holds up a writer until DB_TIMEOUT_SECONDS are over."""
CLOSE_TIMEOUT_SECONDS = 5.0
LOCK_SECONDS_MAX = 5.0
"""How long a writer waits for another transaction; half of DB_TIMEOUT_SECONDS where that is less."""


class Database:
    """One PostgreSQL database. `open` it before use; `close` it after."""

    def __init__(
        self, url: DatabaseUrl, *, connections_max: int, timeout_seconds: float, queue_timeout_seconds: float
    ) -> None:
        self.url = url
        self._connections_max = connections_max
        self._timeout_seconds = timeout_seconds
        self._queue_timeout_seconds = queue_timeout_seconds
        self._pool: asyncpg.Pool | None = None
        self._former: dict[asyncio.Task[None], asyncpg.Pool] = {}
        """Pools that are not used any more, by the task that closes them."""
        self._lost = LostSessions()
        self._facts: Facts | None = None
        self._problem: errors.IngestError | None = errors.NotReady("The database was not reached yet.")
        self._watcher: asyncio.Task[None] | None = None
        self._look_now = asyncio.Event()
        self._was_one_lost = False
        """A connection of the pool, since it was renewed."""
        self._probe: asyncpg.Connection | None = None
        self._probe_lock = asyncio.Lock()
        self._ping: asyncio.Task[bool] | None = None

    @property
    def facts(self) -> Facts | None:
        """What the database is; None until it was reached once with the right schema."""
        return self._facts

    @property
    def problem(self) -> errors.IngestError | None:
        """Why nothing can be stored now; None while all is well as far as known."""
        return self._problem

    @property
    def connections(self) -> tuple[int, int]:
        """Writers' connections: how many are in use, how many idle."""
        if self._pool is None:
            return 0, 0
        idle = self._pool.get_idle_size()
        return self._pool.get_size() - idle, idle

    def describe(self) -> dict[str, Any]:
        """What the database is, for people; the same members whether it was reached yet or not."""
        facts = self._facts
        return {
            "edition": facts.edition.value if facts else None,
            "server_version": facts.server_version if facts else None,
            "timescaledb_version": facts.extension_version if facts else None,
            "cannot": list(facts.edition.missing) if facts else [],
        }

    def check_ready(self) -> Facts:
        """The facts. Raises errors.Unavailable, at once, where nothing can be stored now."""
        if self._problem is None and self._facts is not None:
            return self._facts
        if isinstance(self._problem, errors.Unavailable):
            raise self._problem
        raise errors.NotReady("The service waits for its database to be set right.") from self._problem

    async def open(self) -> None:
        """Makes the pool and looks at the database once. A database that is away is waited for in the background.

        Raises errors.SetupError where waiting would not help: a wrong password, a newer schema, another edition, a pooler
        that can't be used. A schema that is behind is waited for.
        """
        self._pool = await self._new_pool()
        try:
            await self._look()
        except (errors.Unavailable, errors.SchemaBehind) as problem:
            logger.warning("Not ready: %s", problem)  # and waited for
        except errors.SetupError:
            await self.close()
            raise
        self._watcher = asyncio.create_task(self._watch(), name="database-watch")

    async def close(self) -> None:
        """Ends the watch and closes all connections, by force if they are not free within CLOSE_TIMEOUT_SECONDS."""
        if self._watcher is not None:
            self._watcher.cancel()
            with suppress(asyncio.CancelledError):
                await self._watcher
            self._watcher = None
        await self._drop_probe()
        if self._pool is not None:
            self._close_later(self._pool)
            self._pool = None
        if self._former:
            await asyncio.wait(self._former, timeout=CLOSE_TIMEOUT_SECONDS)
            for closing in self._former:
                closing.cancel()

    async def _new_pool(self) -> asyncpg.Pool:
        """A pool without connections, which are made as they are needed."""
        return await asyncpg.create_pool(
            for_asyncpg(self.url),
            min_size=0,
            max_size=self._connections_max,
            command_timeout=self._timeout_seconds,
            init=self._prepare,
            # The writers leave nothing behind that a reset would have to undo: it would cost a round trip a batch.
            reset=_keep,
            max_inactive_connection_lifetime=300,
            timeout=min(self._timeout_seconds, 10),
        )

    async def _prepare(self, connection: asyncpg.Connection) -> None:
        session = await prepare(connection, timeout_seconds=self._timeout_seconds)
        connection.add_termination_listener(lambda _: self._lost.add(session))

    async def _renew_pool(self) -> None:
        """Lets no connection be used again. When one is lost, its neighbours may be dead too, and would fail one batch each
        to find out. And a server that is to stop waits for those that idle."""
        if self._pool is not None:
            former, self._pool = self._pool, await self._new_pool()
            self._close_later(former)

    def _close_later(self, pool: asyncpg.Pool) -> None:
        """Closes what idles at once, and what is in use when it is free; by force when no statement may take longer."""
        closing = asyncio.create_task(_close(pool, self._timeout_seconds + CLOSE_TIMEOUT_SECONDS), name="close-pool")
        self._former[closing] = pool
        closing.add_done_callback(self._former.pop)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        """A writer's connection, with its staging tables.

        Raises errors.QueueFull if all are in use for too long, errors.DatabaseAway if none can be made in time, and whatever
        failures.translated() makes of the driver's errors.
        """
        pool = self._pool
        assert pool is not None, "open() comes first"
        connection = await self._acquire(pool)
        try:
            with failures.translated():
                yield connection
        except (errors.DatabaseAway, errors.DatabaseRefused):
            self._was_one_lost = True
            self._look_now.set()
            raise
        finally:
            # The driver has ended it by force, if this fails. What was stored is stored: that is no reason to say otherwise.
            with suppress(TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await pool.release(connection, timeout=CLOSE_TIMEOUT_SECONDS)

    async def _acquire(self, pool: asyncpg.Pool) -> Any:
        with failures.translated():
            try:
                return await pool.acquire(timeout=self._queue_timeout_seconds)
            except TimeoutError:
                if pool.get_size() - pool.get_idle_size() >= self._connections_max:
                    raise errors.QueueFull(
                        f"No database connection was free within {self._queue_timeout_seconds:g} s (DB_POOL_SIZE is "
                        f"{self._connections_max})."
                    ) from None
                self._look_now.set()
                raise errors.DatabaseAway(
                    f"No connection to the database was made within {self._queue_timeout_seconds:g} s."
                ) from None
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                self._look_now.set()  # whoever gets none, may be the first to know that the database is away
                raise

    async def ping(self) -> bool:
        """Whether the database answers, asked now, within PING_TIMEOUT_SECONDS. Who asks meanwhile gets the same answer."""
        if self._ping is None or self._ping.done():
            self._ping = asyncio.create_task(self._answers(), name="database-ping")
        return await asyncio.shield(self._ping)

    async def _answers(self) -> bool:
        try:
            await self._ask()
        except Exception:  # noqa: BLE001 - whatever it is: no answer
            if self._problem is None:  # the watch thinks that all is well; else it looks by itself
                self._look_now.set()
            return False
        return True

    async def _ask(self) -> None:
        """One round trip on a connection of its own, so that busy writers don't make the database look dead."""
        async with self._probe_lock:
            try:
                with failures.translated():
                    async with asyncio.timeout(PING_TIMEOUT_SECONDS):
                        if self._probe is None or self._probe.is_closed():
                            self._probe = await self._connect_probe()
                        await self._probe.fetchval("SELECT 1")
            except BaseException:
                await self._drop_probe()
                raise

    async def ask(self, statement: str, *arguments: Any) -> list[asyncpg.Record]:
        """The rows of a statement of `sql/` that reads little, on the connection that is kept for asking.

        Raises errors.Unavailable if the database does not answer within PING_TIMEOUT_SECONDS, or is not set up for us.
        """
        self.check_ready()
        await self._ask()  # which connects anew, if need be
        async with self._answering_probe() as probe:
            rows: list[asyncpg.Record] = await probe.fetch(files.sql(statement), *arguments)
            return rows

    @asynccontextmanager
    async def _answering_probe(self) -> AsyncIterator[asyncpg.Connection]:
        """The connection that is kept for asking, for what takes no more than PING_TIMEOUT_SECONDS; `_ask` comes first."""
        async with self._probe_lock:
            with failures.translated():
                async with asyncio.timeout(PING_TIMEOUT_SECONDS):
                    if self._probe is None:
                        raise errors.DatabaseAway("The database went away.")
                    yield self._probe

    async def _connect_probe(self) -> asyncpg.Connection:
        connection = await asyncpg.connect(for_asyncpg(self.url), timeout=PING_TIMEOUT_SECONDS)
        sessions.keep_alive(connection)
        return connection

    async def _replace_probe(self) -> None:
        """Connects anew, which tells whether the server still takes connections. If it does not, there is no probe then; but
        where others use up max_connections, there still is the one that there was: we can work with those that we have."""
        async with self._probe_lock:
            newer = None
            with suppress(errors.IngestError), failures.translated():
                try:
                    newer = await self._connect_probe()
                except asyncpg.TooManyConnectionsError:
                    return
            await self._drop_probe()
            self._probe = newer

    async def _drop_probe(self) -> None:
        if self._probe is not None:
            self._probe.terminate()
            self._probe = None

    async def _look(self) -> None:
        """Finds out how things stand, once. Raises what is wrong, and keeps it as `problem`."""
        try:
            await self._ask()
            if self._facts is None or self._problem is not None:
                assert self._pool is not None
                async with self.connection() as connection:
                    await self._refuse_transaction_pooling(connection)
                    self._facts = await editions.inspect(connection)
        except errors.IngestError as problem:
            if self._watcher is not None and str(problem) != str(self._problem):
                logger.warning("Not ready: %s", problem)
            self._problem = problem
            await self._drop_probe()
            await self._renew_pool()
            raise
        if self._problem is not None:
            logger.info("The database is ready: %s.", describe(self._facts))
            for former in self._former.values():
                asyncio.get_running_loop().call_later(RESUME_SECONDS, former.terminate)
        self._problem = None
        await self._end_lost_sessions()

    async def _refuse_transaction_pooling(self, connection: asyncpg.Connection) -> None:
        """Where two open connections share one server process, a pooler hands out sessions by transaction.

        Raises errors.PoolerUnsupported: the staging tables would be gone in the middle of the work.
        """
        mine = await connection.fetchval("SELECT pg_backend_pid()")
        async with self._answering_probe() as probe:
            others = await probe.fetchval("SELECT pg_backend_pid()")
        if mine == others:
            raise errors.PoolerUnsupported(
                "Between the service and PostgreSQL stands a connection pooler in transaction mode, which drops the "
                "staging tables. Connect to PostgreSQL itself, or set the pooler to session mode."
            )

    async def _end_lost_sessions(self) -> None:
        """What holds ids at the server for nobody. If the database is away again, it is tried again."""
        if self._lost:
            with suppress(errors.IngestError):
                async with self._answering_probe() as probe:
                    await self._lost.end(probe)

    async def _reread_bounds(self) -> None:
        """Takes notice of what was dropped or forgotten since. If the database is away, a writer will find out."""
        with suppress(errors.IngestError):
            [[events_from]] = await self.ask("state/time_bounds")
            self._facts = msgspec.structs.replace(self.check_ready(), events_from=events_from)

    async def _watch(self) -> None:
        for turn in itertools.count(1):
            with suppress(TimeoutError):
                async with asyncio.timeout(WATCH_SECONDS if self._problem else RECONNECT_SECONDS):
                    await self._look_now.wait()
            try:
                is_asked_to = self._look_now.is_set()
                self._look_now.clear()
                if self._was_one_lost:
                    self._was_one_lost = False
                    await self._renew_pool()
                elif self._problem is None and not is_asked_to:
                    await self._replace_probe()
                    if turn % BOUNDS_RECONNECTS == 0:
                        await self._reread_bounds()
                await self._look()
            except errors.IngestError:
                # Looking takes a connection too, which asked to look again as it failed: in a second.
                self._look_now.clear()
                self._was_one_lost = False  # and the pool is a new one
            except Exception:
                logger.exception("Looking at the database failed")
                await asyncio.sleep(WATCH_SECONDS)


async def prepare(connection: asyncpg.Connection, *, timeout_seconds: float) -> Session:
    """Makes a connection a writer's: its settings, and its staging tables. Returns its session."""
    sessions.keep_alive(connection)
    lock_seconds = min(LOCK_SECONDS_MAX, timeout_seconds / 2)
    milliseconds = (str(int(seconds * 1000)) for seconds in (timeout_seconds, lock_seconds))
    row = await connection.fetchrow(files.sql("load/session"), *milliseconds)
    for stream in STREAMS:
        await connection.execute(files.sql(f"load/{stream.name}.stage"))
    # A pooler makes up what it says of the process, so that it can tell whom to pass a request to cancel to.
    return Session(row["pid"], row["backend_start"], is_pooled=row["pid"] != connection.get_server_pid())


def describe(facts: Facts | None) -> str:
    """The database in a few words: 'PostgreSQL 15.8, TimescaleDB 2.18.2 (timescaledb)'."""
    if facts is None:
        return "unknown"
    extension = f", TimescaleDB {facts.extension_version}" if facts.extension_version else ""
    return f"PostgreSQL {facts.server_version}{extension} ({facts.edition})"


def for_asyncpg(url: DatabaseUrl) -> str:
    """The URL without the parameters that only libpq knows."""
    head, question, query = url.reveal().partition("?")
    kept = [parameter for parameter in query.split("&") if parameter.partition("=")[0] not in LIBPQ_ONLY]
    return f"{head}{question}{'&'.join(kept)}" if any(kept) else head


async def _keep(_connection: asyncpg.Connection) -> None:
    pass


async def _close(pool: asyncpg.Pool, seconds_max: float) -> None:
    try:
        async with asyncio.timeout(seconds_max):
            await pool.expire_connections()  # from now on, who is released is closed
            # The pool's own close() does not begin before all are released: one that hangs would keep the others open.
            idle = [holder for holder in pool._holders if holder._in_use is None]
            await asyncio.gather(*(holder.close() for holder in idle), return_exceptions=True)
            await pool.close()
    except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        pass  # it has ended them by force
