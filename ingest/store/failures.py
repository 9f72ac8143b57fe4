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

# Without the driver's own words, which quote what they don't take, a password perhaps.
_URL_NOT_TAKEN = "DB_URL can't be used: a part or a parameter of it is none that PostgreSQL's drivers take."


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
        return errors.DatabaseRefused(f"The database refuses us: {first_line}.")
    if state in BUSY_STATES:
        return errors.DatabaseBusy(f"Another transaction of the database stands in the way: {first_line}.")
    if state[:2] in AWAY_CLASSES or state in AWAY_STATES:
        return errors.DatabaseAway(f"The database is not available: {first_line}.")
    return error


def _unreachable(error: BaseException) -> errors.IngestError:
    words = str(error).strip().partition("\n")[0] or type(error).__name__
    if "unsupported startup parameter" in words:
        return errors.PoolerUnsupported(f"The connection pooler in front of the database refuses us: {words}.")
    # libpq reports a refused login without a SQLSTATE.
    if any(sign in words for sign in ("password authentication failed", "no password supplied", "does not exist")):
        return errors.DatabaseRefused(f"The database refuses us: {words}.")
    return errors.DatabaseAway(f"The database does not answer: {words}.")
