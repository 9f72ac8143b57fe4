"""Connections by psycopg, for the commands that change the schema and the policies."""

from urllib.parse import unquote, urlencode, urlsplit

import psycopg

from ingest.settings import DatabaseUrl

CONNECT_TIMEOUT_SECONDS = 10

NO_TIMEOUTS = "-c statement_timeout=0 -c idle_in_transaction_session_timeout=0"
"""Options of a connection whose statements may take their time, though the role's or the server's may not."""


def connection_string(url: DatabaseUrl, **parameters: str) -> str:
    """The URL with libpq's parameters added, and CONNECT_TIMEOUT_SECONDS to connect."""
    text = url.reveal()
    query = urlencode({"connect_timeout": str(CONNECT_TIMEOUT_SECONDS), **parameters})
    # libpq takes no `+` for a space; urlencode writes one.
    return f"{text}{'&' if '?' in text else '?'}{query.replace('+', '%20')}"


def database_name(url: DatabaseUrl) -> str:
    """The name of the database in the URL, decoded; empty where the URL leaves it to libpq."""
    return unquote(urlsplit(url.reveal()).path[1:])


def one_line(error: psycopg.Error) -> str:
    """What the server said, with its hint."""
    hint = f" {error.diag.message_hint}" if error.diag.message_hint else ""
    return f"{error.diag.message_primary}.{hint}"
