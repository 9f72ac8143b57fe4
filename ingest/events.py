"""The items of the two streams as they stand on the wire, and what a valid item is.

The structs are the contract: msgspec checks them while it decodes, and whatever passes them, the rules of `Window` and
`ingest.web.storable` can be stored by PostgreSQL as it is.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated
from uuid import UUID

from msgspec import Meta, Raw, Struct

INT4_MAX = 2**31 - 1

NO_JSON = Raw()
"""What `extra` holds where it is absent. (msgspec takes no union with Raw; a null on the wire is Raw(b"null").)"""

Dimension = Annotated[str, Meta(min_length=1, max_length=256)]
Text256 = Annotated[str, Meta(max_length=256)]
Count = Annotated[int, Meta(ge=0, le=INT4_MAX)]
Status = Annotated[int, Meta(ge=100, le=599)]
Time = Annotated[datetime, Meta(tz=True)]


class UsageEvent(Struct, kw_only=True, forbid_unknown_fields=True, gc=False):
    """One LLM call. `extra` is JSON text, an object; a field that the struct doesn't have ends up there.

    Unknown fields are forbidden so that a batch with one leaves the fast path, where they would be dropped in silence.
    """

    event_id: UUID
    event_time: Time
    user_id: Dimension
    team: Dimension
    service: Dimension
    provider: Dimension
    model: Dimension
    total_tokens: Count | None = 0
    latency_ms: Count | None = None
    status_code: Status | None = None
    error_type: Text256 | None = None
    prompt: str | None = None
    extra: Raw = NO_JSON


class MessageArchive(Struct, kw_only=True, gc=False):
    """The full prompt and response of a call whose usage event is stored. Unknown fields are skipped."""

    event_id: UUID
    user_id: Dimension
    service: Dimension
    prompt_full: str | None = None
    response_full: str | None = None
    stored_at: Time | None = None


Item = UsageEvent | MessageArchive


class Stream(Struct, frozen=True):
    """One of the two streams: what it is called, its items, and where their time stands."""

    name: str
    """The name of the table, in the schema `analytics`."""
    item: type[UsageEvent] | type[MessageArchive]
    envelope: str
    """The field of a JSON object that may hold the array of items."""
    time_field: str
    dimensions: frozenset[str]
    """Fields by which people group and filter: text that would have to be changed to be stored is refused there."""
    keeps_unknown: bool
    """Whether a field that the struct doesn't have is kept in `extra`."""


USAGE_EVENTS = Stream(
    name="usage_events",
    item=UsageEvent,
    envelope="events",
    time_field="event_time",
    dimensions=frozenset({"user_id", "team", "service", "provider", "model"}),
    keeps_unknown=True,
)
MESSAGE_ARCHIVES = Stream(
    name="message_archives",
    item=MessageArchive,
    envelope="archives",
    time_field="stored_at",
    dimensions=frozenset({"user_id", "service"}),
    keeps_unknown=False,
)
STREAMS = (USAGE_EVENTS, MESSAGE_ARCHIVES)


class Window(Struct, frozen=True):
    """The span of times that is taken now, both ends included."""

    oldest: datetime
    newest: datetime

    @classmethod
    def around(cls, now: datetime, age_days_max: int, skew_seconds_max: int, events_from: datetime | None = None) -> "Window":
        """From `age_days_max` before `now`, but not before `events_from`, to `skew_seconds_max` after `now`. All aware."""
        oldest = now - timedelta(days=age_days_max)
        return cls(max(oldest, events_from or oldest), now + timedelta(seconds=skew_seconds_max))

    def holds_all(self, times: Sequence[datetime]) -> bool:
        """Whether every one of the aware times lies in the window."""
        return not times or (self.oldest <= min(times) and max(times) <= self.newest)
