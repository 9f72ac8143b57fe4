"""Connections by psycopg, for the commands that change the schema and the policies."""

from urllib.parse import urlencode

import psycopg

from ingest.settings import DatabaseUrl

CONNECT_TIMEOUT_SECONDS = 10


def connection_string(url: DatabaseUrl, **parameters: str) -> str:
    """The URL with libpq's parameters added, and CONNECT_TIMEOUT_SECONDS to connect."""
    text = url.reveal()
    query = urlencode({"connect_timeout": str(CONNECT_TIMEOUT_SECONDS), **parameters})
    # libpq takes no `+` for a space; urlencode writes one.
    return f"{text}{'&' if '?' in text else '?'}{query.replace('+', '%20')}"


def one_line(error: psycopg.Error) -> str:
    """What the server said, with its hint."""
    hint = f" {error.diag.message_hint}" if error.diag.message_hint else ""
    return f"{error.diag.message_primary}.{hint}"
