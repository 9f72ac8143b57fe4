"""What the driver raises, in our words. The only place that knows SQLSTATEs.

Source of the codes: PostgreSQL documentation, appendix A.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
import psycopg

from ingest import errors

# lock_timeout passed: a transaction that hangs, or a long one of the DBA's.
BUSY_STATES = frozenset({"55P03"})

# Nothing is wrong with the batch: the server is going, gone, coming, read-only, out of something, or too slow.
AWAY_CLASSES = ("08", "53", "58")
AWAY_STATES = frozenset({"57P01", "57P02", "57P03", "57P05", "57014", "25006", "25P03", "25P04"})

# The server understood and will say the same next time.
REFUSED_CLASSES = ("28", "3D")
REFUSED_STATES = frozenset({"42501", "42704"})

# This data, and no other: a value that its type can't hold, one past a limit of the server, or against a constraint.
ROW_CLASSES = ("22", "23", "54")
ROW_STATES = frozenset({"P0001"})  # a trigger of the DBA's said no

# The same batch, tried again at once, may pass: deadlock, serialization, a partition or a ledger entry dropped meanwhile.
TRANSIENT_CLASSES = ("40",)
TRANSIENT_STATES = frozenset({"23503", "23514"})

# A prepared statement that we didn't make, or that is gone: the server process is not ours alone.
POOLED_STATES = frozenset({"42P05", "26000"})

# A database that a DBA has closed, with ALTER DATABASE … ALLOW_CONNECTIONS false: for a while, then.
_CLOSED = "not currently accepting connections"

# What TimescaleDB says where its library is not in shared_preload_libraries, in one statement with an error and in another by
# ending the session.
_NOT_PRELOADED = "must be preloaded"

# libpq's words for a login that was refused, which come without a SQLSTATE.
REFUSED_SIGNS = (
    "password authentication failed",
    "no password supplied",
    "does not exist",
    "no pg_hba.conf entry",
    "server does not support SSL",
    "rejected SSL upgrade",
    "certificate verify failed",
)

# (beginnings of SQLSTATEs, words in lower case, what to do). The first that fits counts, so words that tell more come first.
ADVICE: tuple[tuple[tuple[str, ...], tuple[str, ...], str], ...] = (
    (
        (),
        ("no pg_hba.conf entry",),
        "Allow this user, database and address in the server's pg_hba.conf, or add sslmode=require to DB_URL.",
    ),
    (
        (),
        ("does not support ssl", "rejected ssl upgrade"),
        "Switch ssl on at the server, or take sslmode out of DB_URL, if the network may be trusted.",
    ),
    (
        (),
        ("certificate",),
        "Name the authority that signed the server's certificate with sslrootcert in DB_URL, or correct the host.",
    ),
    (
        ("28P01",),
        ("password authentication failed", "no password supplied"),
        "Correct the user in DB_URL; or the password there, in the file of DB_PASSWORD_FILE, or in PGPASSWORD.",
    ),
    # These name a role or a database, too, which is there.
    (
        ("53300",),
        ("too many", "connection slots"),
        "Raise max_connections (or the CONNECTION LIMIT of the role or database), or lower DB_POOL_SIZE or the workers.",
    ),
    (
        ("42501",),
        ("permission denied",),
        "Run sql/roles.sql as a superuser, then `ingest migrate` as the owner, who gives the others their rights.",
    ),
    ((), (_CLOSED,), "A DBA has closed it: ALTER DATABASE … ALLOW_CONNECTIONS true opens it again."),
    (("3D",), ('database "',), "Correct the database in DB_URL, or make it: CREATE DATABASE …"),
    (("28",), ('role "',), "Correct the user in DB_URL, or make the role: see sql/roles.sql."),
    (("42704",), (), "Something that the schema needs is gone: `ingest doctor` tells what."),
    (("53100",), ("no space left",), "Free disk space at the database server; the service goes on by itself."),
    (
        ("53200",),
        ("out of shared memory",),
        "Raise max_locks_per_transaction if that is what the server's log says, else memory.",
    ),
    (
        ("25006",),
        ("read-only",),
        "It is a standby, or default_transaction_read_only is on: name the primary in DB_URL, or switch that off.",
    ),
    (("58P01",), ("could not access file",), "A library of the server is gone: install TimescaleDB for this server again."),
    ((), (_NOT_PRELOADED,), "Add timescaledb to shared_preload_libraries in postgresql.conf, and restart the server."),
    (("57P03",), ("starting up", "recovery"), "It starts or recovers: wait for it."),
    (
        (),
        ("name or service", "nodename", "getaddrinfo", "name resolution", "resolve"),
        "No such host is known: correct the host in DB_URL, or the name service; a container that is stopped has no name.",
    ),
    (
        (),
        ("refused", "no such file", "connect call failed"),
        "Start PostgreSQL, or correct host and port in DB_URL.",
    ),
    (
        (),
        ("timeout", "timed out", "cancellederror", "unreachable", "no route"),
        "Correct host and port in DB_URL, or let a firewall pass them; a server under heavy load answers late, too.",
    ),
)

# Without the driver's own words, which quote what they don't take, a password perhaps.
_URL_NOT_TAKEN = "DB_URL can't be used: a part or a parameter of it is none that PostgreSQL's drivers take. Correct it."


class Transient(Exception):
    """Another transaction was in the way; nothing is stored, and trying again at once is right.

    blames_row: if it never passes, it is no other transaction but a constraint, and a row's fault.
    """

    def __init__(self, message: str, *, blames_row: bool = False) -> None:
        super().__init__(message)
        self.blames_row = blames_row


class RowsRefused(Exception):
    """The server refused the data of some row (ROW_CLASSES), and with it the whole statement."""


@contextmanager
def translated() -> Iterator[None]:
    """Turns what asyncpg and psycopg raise into errors.DatabaseAway, errors.DatabaseBusy, errors.DatabaseRefused,
    errors.PoolerUnsupported, Transient or RowsRefused.

    What is left is a mistake of ours and goes on as it is.
    """
    try:
        yield
    except asyncpg.PostgresError as error:
        raise _translate(error, error.sqlstate, str(error)) from error
    except psycopg.Error as error:
        if isinstance(error, psycopg.OperationalError) and error.sqlstate is None:
            raise _unreachable(error) from error
        if error.sqlstate is None and isinstance(error, psycopg.ProgrammingError):
            raise errors.DatabaseRefused(_URL_NOT_TAKEN) from None
        raise _translate(error, error.sqlstate, str(error)) from error
    except asyncpg.InternalClientError as error:
        # What asyncpg calls it where the server is killed while a command is on its way.
        raise _unreachable(error) from error
    except (TimeoutError, asyncpg.InterfaceError, ConnectionError, OSError, EOFError) as error:
        # A value that asyncpg itself can't encode is an InterfaceError and a ValueError; so is a bad connection URL.
        if isinstance(error, asyncpg.ClientConfigurationError):
            raise errors.DatabaseRefused(_URL_NOT_TAKEN) from None
        if isinstance(error, asyncpg.InterfaceError) and isinstance(error, ValueError):
            raise RowsRefused(str(error)) from error
        raise _unreachable(error) from error


def _translate(error: Exception, state: str | None, message: str) -> Exception:
    state = state or ""
    first_line = message.partition("\n")[0]
    if state[:2] in TRANSIENT_CLASSES or state in TRANSIENT_STATES:
        return Transient(first_line, blames_row=state in TRANSIENT_STATES)
    if state[:2] in ROW_CLASSES or state in ROW_STATES:
        return RowsRefused(first_line)
    if state in POOLED_STATES:
        return errors.PoolerUnsupported(
            "Between the service and PostgreSQL stands a connection pooler that gives our sessions to others. Connect to "
            "PostgreSQL itself, or set the pooler to session mode and restart it."
        )
    if state[:2] in REFUSED_CLASSES or state in REFUSED_STATES:
        return errors.DatabaseRefused(f"The database refuses us: {first_line}. {_advice(state, first_line)}")
    if state in BUSY_STATES:
        return errors.DatabaseBusy(f"Another transaction of the database stands in the way: {first_line}.")
    if (
        state[:2] in AWAY_CLASSES
        or state in AWAY_STATES
        or (state == "55000" and _CLOSED in message)
        or _NOT_PRELOADED in message
    ):
        return errors.DatabaseAway(f"The database is not available: {first_line}. {_advice(state, first_line)}")
    return error


def _unreachable(error: BaseException) -> errors.IngestError:
    words = str(error).strip().partition("\n")[0] or type(error).__name__
    if "unsupported startup parameter" in words:
        return errors.PoolerUnsupported(
            f"The connection pooler in front of the database refuses us: {words}. Connect to PostgreSQL itself, or set "
            "the pooler to session mode and have it let that parameter pass (PgBouncer: ignore_startup_parameters)."
        )
    # libpq reports a refused login without a SQLSTATE.
    if any(sign in words for sign in REFUSED_SIGNS):
        return errors.DatabaseRefused(f"The database refuses us: {words}. {_advice('', words)}")
    return errors.DatabaseAway(f"The database does not answer: {words}. {_advice('', words)}")


def _advice(state: str, words: str) -> str:
    """What a person can do about it: the first of ADVICE that fits the SQLSTATE or the words."""
    lowered = words.lower()
    for states, signs, advice in ADVICE:
        if (state and state.startswith(states)) or any(sign in lowered for sign in signs):
            return advice
    return "Its own log says more; `ingest doctor` checks the rest."
