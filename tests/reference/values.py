"""JSON as RFC 8259 has it, and text that PostgreSQL can't hold."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

BLANKS = " \t\r\n"
"""RFC 8259, section 2: what may stand between values."""

DEPTH_MAX = 500
"""How deep a text may be nested to be judged here: past that it depends on the interpreter what can still be read."""

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

# What begins as a number and is none. (json takes `01` for a 0 that something stands behind.)
_NO_NUMBER = re.compile(r"-?(?:0\d|\d+\.(?!\d)|\d+(?:\.\d+)?[eE][-+]?+(?!\d))", re.ASCII)


class Unclear(Exception):
    """The text is past what is judged here."""


class Number(str):
    """A number, as it was spelled."""

    __slots__ = ()


@dataclass(frozen=True)
class Object:
    """An object, with all its members in their order; a name may stand twice."""

    members: list[tuple[str, Any]]

    def last_of_each(self) -> dict[str, Any]:
        """The members by name; of those with one name the last one counts."""
        return dict(self.members)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


_decoder = json.JSONDecoder(
    object_pairs_hook=Object, parse_int=Number, parse_float=Number, parse_constant=_no_constant
)  # objects as Object, numbers as Number, all else as json has it


def first_value(text: str) -> tuple[Any, str] | None:
    """The value at the beginning of the text and what stands behind it, without blanks; None if there is none.

    Raises Unclear.
    """
    text = text.strip(BLANKS)
    if depth(text) > DEPTH_MAX:
        raise Unclear(f"nested deeper than {DEPTH_MAX} levels")
    if _NO_NUMBER.match(text):
        return None
    try:
        value, end = _decoder.raw_decode(text)
    except ValueError:
        return None
    return value, text[end:].strip(BLANKS)


def only_value(text: str) -> tuple[Any] | None:
    """The value that the text is, in a tuple; None if it is none. Raises Unclear."""
    found = first_value(text)
    return (found[0],) if found is not None and not found[1] else None


def depth(text: str) -> int:
    """How deep the text is nested, were it JSON."""
    brackets = re.sub(r"[^][{}]", "", _STRING.sub("", text))
    return max(accumulate(1 if bracket in "[{" else -1 for bracket in brackets), default=0)


# --- text that can't be stored ----------------------------------------------------------------------------------------


def texts_in(value: Any) -> Iterator[str]:
    """Every string of a value, names of members included, whether or not it counts."""
    if isinstance(value, Number):
        return
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for element in value:
            yield from texts_in(element)
    elif isinstance(value, Object):
        for name, member in value.members:
            yield name
            yield from texts_in(member)


def is_storable(text: str) -> bool:
    """Whether PostgreSQL can hold the text: no U+0000, no half of a surrogate pair."""
    return not _UNSTORABLE.search(text)


def stored_text(text: str) -> str:
    """The text with U+FFFD for all that PostgreSQL can't hold."""
    return _UNSTORABLE.sub(_REPLACEMENT, text)


def stored(value: Any) -> Any:
    """The value as PostgreSQL's jsonb says it again: objects as dicts, numbers as Number, text made storable."""
    if isinstance(value, str) and not isinstance(value, Number):
        return stored_text(value)
    if isinstance(value, list):
        return [stored(element) for element in value]
    if isinstance(value, Object):
        return {stored_text(name): stored(member) for name, member in value.members}
    return value
