"""Text and JSON that PostgreSQL can't hold: how it is found, and how it is mended on the way in.

PostgreSQL's text and jsonb have no U+0000, no half of a surrogate pair, no number past `numeric` and no nesting past the
server's stack. In a JSON body the first two can only stand as `\\uXXXX` escapes, so they are found and replaced there, before
anything is decoded: msgspec refuses a lone surrogate, and with it the whole batch.
"""

import re
from array import array
from itertools import accumulate

_HEX2 = rb"[0-9a-fA-F]{2}"
_LOW = rb"\\u[dD][c-fC-F]" + _HEX2
_PAIR = rb"\\u[dD][89abAB]" + _HEX2 + _LOW
_UNSTORABLE = rb"\\u0000|\\u[dD][89abAB]" + _HEX2 + rb"(?!" + _LOW + rb")|" + _LOW

# Escape by escape and so from the left: only so is `\\ud83d` (an escaped backslash, then text) not taken for a surrogate.
# Something matches wherever there is no match yet, and so nothing is ever tried another way. A thousand at one go, because a
# greedy group keeps a way back for each; a possessive one, which would keep none, matches wrongly before Python 3.11.5.
_RUNS = re.compile(
    rb"(?:[^\\]+|" + _PAIR + rb"|\\(?!u0000|u[dD][89a-fA-F]" + _HEX2 + rb"|u[fF]{3}[dD]).){1,1000}"
    rb"|(?P<unstorable>(?:" + _UNSTORABLE + rb"){1,1000})|(?P<replacement>(?:\\u[fF]{3}[dD]){1,1000})",
    re.DOTALL,
)
_ESCAPE_BYTES = len(rb"\uXXXX")

# U+FFFD in two spellings: MARK is ours alone, because the client's own are respelled. Both have the length of what they
# replace.
MARK = rb"\uFfFd"
_PLAIN = rb"\ufffd"

_MARKED = re.compile(rb"(?<!\\)(\\+)uFfFd")  # an escape where the backslashes are odd in number

JSON_DEPTH_MAX = 200

# What separates values, in strings too. jsonb takes 32 bytes for a value while it is parsed, doubling, and 1 GiB at most:
# 16.7 million values in one array end as XX000. Far below that, so that looking through one stays cheap too.
JSON_SEPARATORS_MAX = 500_000

# An exponent past 999 on what may be a number and is no part of a word, or a thousand digits in a row: past what we promise,
# and well within what numeric holds (131072 digits before the point, 16383 after it). 1e0001 is a ten.
DIGITS_MAX = 999
_LONG_EXPONENT = re.compile(rb"[:\[,\s]-?[0-9]+(?:\.[0-9]+)?[eE][-+]?0*[1-9][0-9]{3}")
_LONG_DIGITS = re.compile(rb"(?<![0-9])[0-9]{1000}")  # tried once a run of digits
_STRING = re.compile(rb'"[^"]*"')


def needs_mending(body: bytes | bytearray) -> bool:
    """Whether the body may hold U+0000, which msgspec takes. (Half a surrogate pair it refuses by itself.)"""
    return rb"\u0000" in body


def mend(body: bytes | bytearray) -> bytes:
    """The JSON text with U+FFFD, spelled as MARK, for every escape that PostgreSQL can't hold."""
    if rb"\u" not in body:
        return bytes(body)
    mended = bytearray(body)
    for found in _RUNS.finditer(body):  # in place: re.sub would keep an object for every match
        if group := found.lastgroup:
            start, end = found.span(group)
            mended[start:end] = (MARK if group == "unstorable" else _PLAIN) * ((end - start) // _ESCAPE_BYTES)
    return bytes(mended)


def was_mended(mended: bytes) -> bool:
    """Whether `mend` changed something in this part of its result."""
    return MARK in mended and any((found.end(1) - found.start(1)) % 2 for found in _MARKED.finditer(mended))


def json_problem(text: bytes) -> str | None:
    """Why this JSON value, well-formed and mended, can't be stored as a jsonb object; None if it can."""
    if not text.startswith(b"{"):
        return "Expected `object`"
    if len(text) > JSON_SEPARATORS_MAX and text.count(b",") + text.count(b":") > JSON_SEPARATORS_MAX:
        return f"Holds more than {JSON_SEPARATORS_MAX} commas and colons"
    if len(text) > 2 * JSON_DEPTH_MAX and _depth(text) > JSON_DEPTH_MAX:
        return f"Nested deeper than {JSON_DEPTH_MAX} levels"
    if _may_hold_long_number(text) and _may_hold_long_number(_without_strings(text)):
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


def _without_strings(text: bytes) -> bytes:
    """Well-formed JSON with its strings emptied."""
    return _STRING.sub(b'""', text.replace(rb"\\", b"").replace(rb"\"", b""))


_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[{]}"))


def _depth(text: bytes) -> int:
    if text.count(b"{") + text.count(b"[") <= JSON_DEPTH_MAX:
        return 0  # too few brackets to be past the limit
    steps = _without_strings(text).translate(_STEPS, _NO_BRACKETS)
    return max(accumulate(array("b", steps)), default=0)
