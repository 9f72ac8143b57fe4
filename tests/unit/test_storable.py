"""Text and JSON that PostgreSQL can't hold are found and mended, and nothing else is touched."""

import json
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ingest.web import storable

FFFD = "\N{REPLACEMENT CHARACTER}"
DEPTH_MAX = storable.JSON_DEPTH_MAX

UNSTORABLE = re.compile("[\0\ud800-\udfff]")
"""What a Python string may hold and PostgreSQL's text can't."""

PIECES = [
    "a", "é", "😀", " ", "/", "0", "u0000", "ud83d", "uFfFd",
    *(r"\"", r"\\", r"\/", r"\n", r"\t"),
    *(r"\u0041", r"\u00e9", r"\u0001", r"\u0000"),
    *(r"\ud83d", r"\uD83D", r"\udbff", r"\ude00", r"\uDE00", r"\udfff", r"\ud83d\ude00", r"\ud7ff", r"\ue000"),
    *(r"\ufffd", r"\uFFFD", r"\uFfFd", r"\ufffe", r"\\u0000", r"\\ud83d"),
]  # fmt: skip

json_strings = st.lists(st.sampled_from(PIECES), max_size=12).map(lambda pieces: '"' + "".join(pieces) + '"')
"""JSON texts of strings that are full of escapes."""


def mended(text: str) -> str:
    return storable.mend(text.encode()).decode()


@given(text=json_strings)
@example(text=r'"\ud83d\ud83d\ude00"')
@example(text=r'"\ude00\ud83d"')
@example(text=r'"\\\ud83d\\ude00"')
@settings(max_examples=400, deadline=None)
def test_mending_puts_a_replacement_where_text_is_unstorable_and_changes_nothing_else(text: str) -> None:
    # The standard library lets half a pair stand, so it knows what the text meant.
    meant: str = json.loads(text)

    result = mended(text)

    assert msgspec.json.decode(result) == UNSTORABLE.sub(FFFD, meant)
    assert len(result) == len(text)
    assert storable.was_mended(result.encode()) == bool(UNSTORABLE.search(meant))


@given(text=json_strings)
@settings(max_examples=200, deadline=None)
def test_mending_twice_is_mending_once_but_for_the_mark(text: str) -> None:
    once = mended(text)

    twice = mended(once)

    assert msgspec.json.decode(twice) == msgspec.json.decode(once)
    assert not storable.was_mended(twice.encode())


@given(text=json_strings.filter(lambda text: not re.search("u(0000|[dD][89a-fA-F]|[fF]{3}[dD])", text)))
@settings(max_examples=200, deadline=None)
def test_text_without_such_escapes_is_left_as_it_is(text: str) -> None:
    assert mended(text) == text


@given(body=st.binary(max_size=100))
@settings(max_examples=200, deadline=None)
def test_any_bytes_can_be_mended_and_keep_their_length(body: bytes) -> None:
    assert len(storable.mend(body)) == len(body)


@pytest.mark.parametrize("backslashes", range(1, 12))
@pytest.mark.parametrize("escape", ["u0000", "ud83d", "uDE00"])
def test_an_escape_counts_only_behind_an_odd_run_of_backslashes(escape: str, backslashes: int) -> None:
    text = '"' + "\\" * backslashes + escape + '"'

    is_escape = backslashes % 2 == 1
    assert (mended(text) != text) == is_escape
    assert storable.was_mended(mended(text).encode()) == is_escape


@pytest.mark.parametrize(
    ("text", "result"),
    [
        (r'"\u0000"', FFFD),
        (r'"\ud83d"', FFFD),
        (r'"\ude00"', FFFD),
        (r'"\ud83d\ude00"', "😀"),
        (r'"\ude00\ud83d"', FFFD + FFFD),
        (r'"\ud83d\ud83d\ude00"', FFFD + "😀"),
        (r'"\ud83d\ude00\ude00"', "😀" + FFFD),
        (r'"\ud83d\u0041"', FFFD + "A"),
        (r'"\ud83d\\ude00"', FFFD + r"\ude00"),
        (r'"\ud83dude00"', FFFD + "ude00"),
        (r'"\ud83d\u0000\ude00"', FFFD * 3),
        (r'"\\u0000\u0000"', r"\u0000" + FFFD),
        (r'"\"\u0000"', '"' + FFFD),
    ],
)
def test_halves_and_pairs_are_told_apart(text: str, result: str) -> None:
    assert msgspec.json.decode(mended(text)) == result


@pytest.mark.parametrize("escape", [r"\ufffd", r"\uFFFD", r"\uFfFd", r"\uFFfd"])
def test_what_the_client_replaced_itself_is_not_taken_for_ours(escape: str) -> None:
    assert not storable.was_mended(mended(f'"{escape}"').encode())


def test_the_mark_is_not_found_in_text_that_only_looks_like_it() -> None:
    assert not storable.was_mended(rb'"\\uFfFd"')
    assert storable.was_mended(rb'"\\\uFfFd"')


@pytest.mark.parametrize(("body", "needed"), [(rb'"\u0000"', True), (rb'"\\u0000"', True), (b'"0000"', False), (b"", False)])
def test_a_body_that_may_hold_u0000_is_noticed(body: bytes, needed: bool) -> None:
    assert storable.needs_mending(body) is needed
    assert storable.needs_mending(bytearray(body)) is needed


@pytest.mark.parametrize("escape", [r"\n", r"\u4e2d", r"\\"])
def test_mending_costs_little_more_memory_than_the_text(escape: str) -> None:
    body = b'"' + escape.encode() * 100_000 + rb'\u0000"'

    tracemalloc.start()
    try:
        storable.mend(body)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak_bytes < 6 * len(body)


def nested(levels: int) -> bytes:
    """An object `levels` deep."""
    return b'{"a":' * (levels - 1) + b"{}" + b"}" * (levels - 1)


@pytest.mark.parametrize(
    "text",
    [
        b"{}",
        b'{"a": 1e999, "b": -1.5E-999, "c": 1E+099}',
        b'{"a": 1e0001, "b": -1.5E-00000999, "c": 1E+0000}',
        b'{"a": ' + b"1" * 999 + b"}",
        b'{"a": 0.' + b"1" * 999 + b"}",
        b'{"a": "1e9999", "b": "' + b"1" * 5000 + b'"}',
        rb'{"a": "\"1e9999"}',
        b'{"1e9999": 1}',
        nested(DEPTH_MAX),
        b'{"a": ' + b"[" * (DEPTH_MAX - 1) + b"]" * (DEPTH_MAX - 1) + b"}",
        b'{"a": [' + b"[], " * 500 + b"{}]}",
        b'{"a": "' + b"[" * 500 + b'"}',
        rb'{"a": "\"' + b"[" * 500 + b'"}',
        rb'{"a\\": "' + b"{" * 500 + b'"}',
    ],
)
def test_json_that_jsonb_can_hold_is_no_problem(text: bytes) -> None:
    assert storable.json_problem(text) is None
    assert msgspec.json.decode(text, type=msgspec.Raw)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"[]", "Expected `object`"),
        (b'"{}"', "Expected `object`"),
        (b"5", "Expected `object`"),
        (b"null", "Expected `object`"),
        (b'{"a": 1e1000}', "number"),
        (b'{"a": 1e-0001000}', "number"),
        (b'{"a": 1e' + b"0" * 999 + b"1}", "number"),
        (b'{"a": 1e10000}', "number"),
        (b'{"a": 1E+99999}', "number"),
        (b'{"a": 1e-16384}', "number"),
        (b'{"a": [[1, 2.5e131072]]}', "number"),
        (b'{"a": ' + b"1" * 1000 + b"}", "number"),
        (b'{"a": -0.' + b"1" * 1000 + b"}", "number"),
        (b'{"a": "' + b"x" * 1000 + b'", "b": ' + b"1" * 1000 + b"}", "number"),
        (rb'{"a": "\"", "b": 1e9999}', "number"),
        (rb'{"a": "\\", "b": 1e9999}', "number"),
        (nested(DEPTH_MAX + 1), "Nested deeper than 200 levels"),
        (b'{"a": ' + b"[" * DEPTH_MAX + b"]" * DEPTH_MAX + b"}", "Nested"),
        (b'{"a": [], "b": ' + nested(DEPTH_MAX) + b"}", "Nested"),
        (rb'{"a": "]]]]\"]]]", "b": ' + nested(DEPTH_MAX) + b"}", "Nested"),
    ],
)
def test_json_that_jsonb_can_not_hold_is_named(text: bytes, problem: str) -> None:
    found = storable.json_problem(text)

    assert found is not None
    assert problem in found


def test_more_values_than_jsonb_has_memory_for_are_a_problem() -> None:
    assert storable.json_problem(b'{"a": [' + b"1," * 2**24 + b"1]}") is not None


def is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**6), 10**6)
    | st.sampled_from(["", "x", "1e9999", "[[[", '"', "\\", '\\"{', "9" * 1200, "e2024"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["a", "1E9999", "{"]), inner, max_size=3),
    max_leaves=12,
)


@given(value=st.dictionaries(st.text(max_size=3), json_values, max_size=4))
@settings(max_examples=200, deadline=None)
def test_whatever_stands_in_strings_is_no_problem(value: object) -> None:
    text = json.dumps(value).encode()

    assert storable.json_problem(text) is None


@given(
    texts=st.lists(
        st.sampled_from(
            [
                *(b"{}", b"null", b"[]", b'{"a": "\xc3\xa9"}', b'{"a": "\xff"}', b'{"a": 1e9999}', b'{"a": "1e9999"}'),
                *(b'{"a": ' + b"1" * 1000 + b"}", nested(DEPTH_MAX), nested(DEPTH_MAX + 1)),
            ]
        ),
        max_size=5,
    )
)
@settings(max_examples=200, deadline=None)
def test_all_are_storable_if_each_is(texts: list[bytes]) -> None:
    each = all(is_utf8(text) and (text == b"null" or storable.json_problem(text) is None) for text in texts)

    assert storable.all_storable(texts) == each


PEAK = Path("/proc/self/status")

MEASURE = f"""
import re
from pathlib import Path
from ingest.web import storable

def peak():
    return int(re.search(r"VmHWM:\\s*(\\d+)", Path("{PEAK}").read_text())[1])

text = b'{{"a": "' + b"x" * 2**21 + b'", "b": 1e9999}}'
before = peak()
assert storable.json_problem(text) is not None
print(peak() - before)
"""
"""Prints by how many kilobytes the peak of a process's memory rises."""


@pytest.mark.skipif(not PEAK.exists(), reason="There is no /proc to read the peak of a process's memory from.")
def test_looking_past_a_long_string_costs_little_memory() -> None:
    # A process of its own, because the stack of `re` is not traced by tracemalloc and a peak is never taken back.
    kilobytes = int(subprocess.run([sys.executable, "-c", MEASURE], check=True, capture_output=True).stdout)

    assert kilobytes < 50 * 1024
