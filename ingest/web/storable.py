"""Text and JSON that PostgreSQL can't hold: how it is found, and how it is mended on the way in.

PostgreSQL's text and jsonb have no U+0000, no half of a surrogate pair, no number past `numeric` and no nesting past the
server's stack. In a JSON body the first two can only stand as `\\uXXXX` escapes, so they are found and replaced there, before
anything is decoded: msgspec refuses a lone surrogate, and with it the whole batch.
"""

import re

# A suspect is what it seems only where its backslash is not escaped itself: `\\\\ud83d` is a backslash, then text.
_SUSPECT = re.compile(
    rb"\\u(?:"
    rb"(?P<pair>[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    rb"|(?P<replacement>[fF]{3}[dD])"  # what the client itself replaced
    rb"|0000|[dD][89a-fA-F][0-9a-fA-F]{2}"  # U+0000, or half a pair
    rb")"
)
_ESCAPE_BYTES = len(rb"\uXXXX")

# U+FFFD in two spellings: MARK is ours alone, because the client's own are respelled. Both have the length of what they
# replace.
MARK = rb"\uFfFd"
_PLAIN = rb"\ufffd"

JSON_DEPTH_MAX = 200

# While it parses, jsonb takes some 60 bytes for each value, in one piece of at most 1 GiB.
JSON_VALUES_MAX = 1_000_000

# An exponent of four digits on what may be a number and is no part of a word, or a thousand digits in a row: past what we
# promise, and well within what numeric holds (131072 digits before the point, 16383 after it).
DIGITS_MAX = 999
_LONG_EXPONENT = re.compile(rb"[:\[,\s]-?[0-9]+(?:\.[0-9]+)?[eE][-+]?[0-9]{4}")
_LONG_DIGITS = re.compile(rb"[0-9]{1000}")
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)  # possessive: no way back is kept for a string of 60 MiB


def needs_mending(body: bytes | bytearray) -> bool:
    """Whether the body may hold U+0000, which msgspec takes. (Half a surrogate pair it refuses by itself.)"""
    return rb"\u0000" in body


def mend(body: bytes | bytearray) -> bytes:
    """The JSON text with U+FFFD, spelled as MARK, for every escape that PostgreSQL can't hold."""
    if rb"\u" not in body:
        return bytes(body)
    mended = bytearray(body)
    position = 0
    # In place and one by one: re.sub would keep an object for every match of a body that may have millions.
    while suspect := _SUSPECT.search(mended, position):
        start = suspect.start()
        if _is_escaped(mended, start):
            position = start + 1
        elif suspect["pair"]:
            position = suspect.end()
        else:
            position = start + _ESCAPE_BYTES
            mended[start:position] = _PLAIN if suspect["replacement"] else MARK
    return bytes(mended)


def was_mended(mended: bytes) -> bool:
    """Whether `mend` changed something in this part of its result."""
    position = mended.find(MARK)
    while position >= 0:
        if not _is_escaped(mended, position):
            return True
        position = mended.find(MARK, position + 1)
    return False


def _is_escaped(text: bytes | bytearray, position: int) -> bool:
    """Whether the backslash at this position is itself behind an odd number of backslashes."""
    first = position
    while first > 0 and text[first - 1] == 0x5C:
        first -= 1
    return (position - first) % 2 == 1


def json_problem(text: bytes) -> str | None:
    """Why this JSON value, well-formed and mended, can't be stored as a jsonb object; None if it can."""
    if not text.startswith(b"{"):
        return "Expected `object`"
    if len(text) > 2 * JSON_DEPTH_MAX and _depth(text) > JSON_DEPTH_MAX:
        return f"Nested deeper than {JSON_DEPTH_MAX} levels"
    if text.count(b",") >= JSON_VALUES_MAX and _STRING.sub(b'""', text).count(b",") >= JSON_VALUES_MAX:
        return f"Holds more than {JSON_VALUES_MAX} values"
    if _may_hold_long_number(text) and _may_hold_long_number(_STRING.sub(b'""', text)):
        return f"Holds a number of more than {DIGITS_MAX} digits, or with an exponent past {DIGITS_MAX}"
    return None


def all_storable(texts: list[bytes]) -> bool:
    """Whether all of these well-formed JSON values are null, or objects that jsonb can hold.

    One look at all of them together clears the usual ones (0.2 µs a value); what it leaves is looked at one by one (2 µs).
    """
    together = b"\n".join(texts)
    try:
        together.decode()  # msgspec checks this where it makes a `str`, but not in what it keeps raw
    except UnicodeDecodeError:
        return False
    brief_bytes_max = 0 if _LONG_EXPONENT.search(together) else 2 * JSON_DEPTH_MAX
    return all(
        (len(text) <= brief_bytes_max and text.startswith(b"{")) or text == b"null" or json_problem(text) is None
        for text in texts
    )


def _may_hold_long_number(text: bytes) -> bool:
    """Whether there is one; strings that look like one count too."""
    return _LONG_EXPONENT.search(text) is not None or (len(text) > DIGITS_MAX and _LONG_DIGITS.search(text) is not None)


def _depth(text: bytes) -> int:
    if text.count(b"{") + text.count(b"[") <= JSON_DEPTH_MAX:
        return 0  # too few brackets to be past the limit
    depth = deepest = 0
    for bracket in re.finditer(rb"[\[\]{}]", _STRING.sub(b'""', text)):
        depth += 1 if bracket[0] in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest
