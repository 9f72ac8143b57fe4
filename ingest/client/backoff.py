"""How long to wait before a request is sent again."""

from collections.abc import Callable
from datetime import datetime
from email.utils import parsedate_to_datetime

FIRST_SECONDS = 0.5
DELAY_SECONDS_MAX = 30.0
SPREAD_SECONDS_MAX = 2.0
"""How much longer than `Retry-After` says is waited at most, so that not all clients come back at once."""


def delay_seconds(attempt: int, asked_seconds: float | None, random: Callable[[], float]) -> float:
    """The wait after failure number `attempt`, from 0: 0.25 to 0.5 s, then twice as long each time, up to 15 to 30 s.

    What the service asked for is waited for in any case, and up to half as long again. Half of the wait is drawn (random
    gives 0 to 1): without that, clients which one outage stopped come back in step.
    """
    grown: float = min(DELAY_SECONDS_MAX, FIRST_SECONDS * 2.0 ** min(attempt, 16))
    drawn = grown * (1 + random()) / 2
    if asked_seconds is None:
        return drawn
    return max(drawn, asked_seconds + random() * min(asked_seconds / 2, SPREAD_SECONDS_MAX))


def retry_after_seconds(value: str | None, now: datetime) -> float | None:
    """What a `Retry-After` field asks for (RFC 9110, section 10.2.3): seconds, or a date; None if it is neither.

    now: aware.
    """
    text = (value or "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        return None
    return max(0.0, (moment - now).total_seconds())
