"""An id for every request, in every answer and every line of the log."""

import re
import secrets

HEADER = "X-Request-ID"

# What may go into a log line and a header as it is.
_SANE = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


def of(sent: str | None) -> str:
    """The client's id if it sent a sane one, else a new one."""
    return sent if sent is not None and _SANE.fullmatch(sent) else secrets.token_hex(16)
