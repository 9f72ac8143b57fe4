"""The items of a body that is inflated, or why it is refused."""

from dataclasses import dataclass

from ingest.events import Stream, Window
from ingest.web.decode import Media
from tests.reference.items import Item, judge
from tests.reference.values import BLANKS, Object, first_value

UNREADABLE = "unreadable_body"
PAST_LIMIT = "limit_exceeded"


@dataclass(frozen=True)
class Body:
    """Either is empty, or both are."""

    refusals: frozenset[str] = frozenset()
    """Codes, each of which the refusal may have."""
    items: tuple[Item, ...] = ()


def read(stream: Stream, body: bytes, media: Media, window: Window, items_max: int) -> Body:
    """What the body is. Raises Unclear."""
    refusals = set()
    try:
        text = body.decode()
    except UnicodeDecodeError:
        refusals.add(UNREADABLE)  # and it may be past the limit besides, if that is all that is wrong with it
        text = body.decode(errors="replace")
    texts = split(stream, text, media)
    if texts is None:
        refusals.add(UNREADABLE)
    elif len(texts) > items_max:
        refusals.add(PAST_LIMIT)
    if texts is None or refusals:
        return Body(frozenset(refusals))
    return Body(items=tuple(judge(stream, text, window) for text in texts))


def split(stream: Stream, text: str, media: Media) -> list[str] | None:
    """The text of each item; None if the body can't be read."""
    if media is Media.NDJSON:
        return lines(text)
    found = first_value(text)
    if found is None:
        # NDJSON that says it is JSON, and whose first line is broken.
        first_two = lines(text)[:2]
        is_ndjson = len(first_two) == 2 and all(line.startswith("{") and line.endswith("}") for line in first_two)
        return lines(text) if is_ndjson else None
    value, behind = found
    if behind:
        return lines(text)
    if isinstance(value, list):
        return elements(text)
    if isinstance(value, Object):
        enveloped = [place for place, (name, _) in enumerate(value.members) if name == stream.envelope]
        if enveloped and isinstance(value.members[enveloped[-1]][1], list):
            return elements(member_text(text, enveloped[-1]))
        return [text]
    return None


def lines(text: str) -> list[str]:
    """The lines that are not blank."""
    return [line.strip(BLANKS) for line in text.split("\n") if line.strip(BLANKS)]


def elements(array: str) -> list[str]:
    """The text of each element of an array."""
    found: list[str] = []
    rest = array.strip(BLANKS).removeprefix("[").lstrip(BLANKS)
    while rest != "]":
        element, rest = _cut_value(rest)
        found.append(element)
        rest = rest.removeprefix(",").lstrip(BLANKS)
    return found


def member_text(text: str, place: int) -> str:
    """The text of the value of the member at this place of an object."""
    rest = text.strip(BLANKS).removeprefix("{").lstrip(BLANKS)
    for _ in range(place + 1):
        _, rest = _cut_value(rest)  # the name
        value, rest = _cut_value(rest.removeprefix(":").lstrip(BLANKS))
        rest = rest.removeprefix(",").lstrip(BLANKS)
    return value


def _cut_value(text: str) -> tuple[str, str]:
    """The text of the value at the beginning, and what stands behind it."""
    found = first_value(text)
    assert found is not None
    behind = found[1]
    # `behind` lacks the blanks at either end, and the text may have some at its end.
    text = text.rstrip(BLANKS)
    return text[: len(text) - len(behind)].rstrip(BLANKS), behind
