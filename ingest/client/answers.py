"""What the service says of a batch, as far as a sender needs it. Members that are not listed here are skipped."""

from typing import TypeVar

import msgspec
from msgspec import Struct, field

SENTENCE_CHARACTERS_MAX = 500

T = TypeVar("T")


class ItemError(Struct, frozen=True, kw_only=True):
    """Why one item was not stored. `index` is its place in what was sent, from 0."""

    index: int
    code: str
    message: str
    event_id: str | None = None
    field: str | None = None


class Verdict(Struct, frozen=True, kw_only=True):
    """The body of a 200, and of the 422 that says all items were rejected."""

    received: int
    accepted: int
    duplicates: int
    conflicts: int
    rejected: int
    sanitized: int = 0
    errors: list[ItemError] = []
    errors_truncated: bool = False

    @property
    def adds_up(self) -> bool:
        """Whether the counts are those of so many items, and the errors of items among them."""
        kinds = (self.accepted, self.duplicates, self.conflicts, self.rejected)
        places = all(0 <= error.index < self.received for error in self.errors)
        return min(kinds) >= 0 and sum(kinds) == self.received and places


class Counts(Struct, kw_only=True):
    """What became of items: accepted + duplicates + conflicts + rejected = received."""

    received: int = 0
    accepted: int = 0
    duplicates: int = 0
    conflicts: int = 0
    rejected: int = 0
    sanitized: int = 0

    def add(self, other: "Counts | Verdict") -> None:
        """Adds what became of others."""
        for name in Counts.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class Problem(Struct, frozen=True, kw_only=True):
    """The body of any other answer: problem details (RFC 9457)."""

    title: str = ""
    detail: str = ""
    code: str = ""

    @property
    def sentence(self) -> str:
        """What it says to a person: one line, and nothing that a terminal would take for a command."""
        words = " ".join((self.detail or self.title).split()) or "no reason given"
        return "".join(sign if sign.isprintable() else "?" for sign in words[:SENTENCE_CHARACTERS_MAX])


class Limits(Struct, frozen=True, kw_only=True):
    """How large a batch may be; the defaults of the service, unless `GET /` says otherwise."""

    batch_items_max: int = field(name="MAX_BULK_SIZE", default=1000)
    body_bytes_max: int = field(name="MAX_BODY_SIZE", default=64 * 1024 * 1024)
    compressed_bytes_max: int = field(name="MAX_GZIP_SIZE", default=10 * 1024 * 1024)


class _Root(Struct):
    limits: Limits


def verdict_of(content: bytes) -> Verdict | None:
    """The verdict in an answer's body; None if it holds none."""
    return _decoded(content, Verdict)


def problem_of(content: bytes) -> Problem:
    """The problem in an answer's body; an empty one if it holds none."""
    return _decoded(content, Problem) or Problem()


def limits_of(content: bytes) -> Limits | None:
    """The limits in the body of `GET /`; None if it holds none."""
    root = _decoded(content, _Root)
    return root.limits if root else None


def _decoded(content: bytes, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
