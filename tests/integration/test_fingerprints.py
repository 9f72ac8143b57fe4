"""What tells a duplicate from a conflict: it agrees with PostgreSQL, and with what the first releases wrote."""

import json
import random
import uuid
from datetime import datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import Raw
from msgspec.structs import replace

from ingest.events import MESSAGE_ARCHIVES, USAGE_EVENTS
from ingest.settings import DatabaseUrl
from ingest.store import rows
from ingest.store.writer import BatchWriter
from ingest.verdict import Outcome
from tests import servers
from tests.samples import archive, event
from tests.storing import make_cautious, store

# --- JSON that PostgreSQL holds equal ---------------------------------------------------------------------------------


# Few of each, so that two values are often the same, or nearly.
# Whole numbers only: others count as doubles, and not as PostgreSQL's numeric (ingest.store.rows).
numbers = st.sampled_from(
    [0, 0, 1, -1, 2, 10, 15, 100, -1500, 2**53 + 1, 2**63, 2**64, -(10**20), 123456789012345678901234567890]
) | st.integers(-(10**45), 10**45)
texts = st.text(st.sampled_from('ab1é\u0301e/"\\\n\x7f\u2028😀'), max_size=3)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
objects = st.dictionaries(texts, values, max_size=3)


class Hand:
    """Writes JSON in one of its many ways; each seed has its own."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def write(self, value: object) -> str:
        return self._blank() + self._value(value) + self._blank()

    def _value(self, value: object) -> str:
        match value:
            case dict():
                return f"{{{','.join(self._pairs(value))}{self._blank() if not value else ''}}}"
            case list():
                return f"[{','.join(map(self.write, value)) or self._blank()}]"
            case str():
                return self._text(value)
            case _:
                return json.dumps(value)

    def _pairs(self, value: dict[str, object]) -> list[str]:
        pairs = list(value.items())
        self._random.shuffle(pairs)
        if pairs and self._random.random() < 0.2:  # the last of a key counts
            pairs.insert(0, (pairs[-1][0], [None, "another"]))
        return [f"{self._blank()}{self._text(key)}{self._blank()}:{self.write(inner)}" for key, inner in pairs]

    def _text(self, text: str) -> str:
        way = self._random.randrange(4)
        if way == 0:
            units = text.encode("utf-16-be")
            return '"' + "".join(f"\\u{units[k : k + 2].hex()}" for k in range(0, len(units), 2)) + '"'
        return json.dumps(text, ensure_ascii=way == 1).replace("/", r"\/" if way == 2 else "/")

    def _blank(self) -> str:
        return self._random.choice(["", "", "", " ", "\n\t", "\r"])


ONE = event(event_id=uuid.UUID(int=1))


def fingerprint_of(extra: str) -> bytes:
    file = b"".join(rows.to_claim([rows.encode(USAGE_EVENTS, [replace(ONE, extra=Raw(extra.encode()))])]))
    return file[-10:-2]  # the last field before the trailer


def changed(value: Any, hand: random.Random) -> Any:
    """The same but for one leaf, or the order of a list."""
    match value:
        case dict() if value:
            key = hand.choice(sorted(value))
            return {**value, key: changed(value[key], hand)}
        case list() if value:
            place = hand.randrange(len(value))
            return [changed(inner, hand) if k == place else inner for k, inner in enumerate(value)]
        case int() if not isinstance(value, bool):
            return hand.choice([value + 1, value * 10 + 1, f"{value}"])
        case str():
            return value + "a"
        case _:
            return hand.choice([0, 1, "null", [], {}])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pairs=st.lists(
        st.tuples(objects, st.none() | st.integers(0, 10**6) | objects, st.integers(0, 10**6)), min_size=5, max_size=60
    )
)
def test_fingerprints_are_equal_where_jsonb_is(
    shared_database_url: DatabaseUrl, pairs: list[tuple[dict[str, Any], int | dict[str, Any] | None, int]]
) -> None:
    """None: the same in another hand; a number: nearly the same; else another."""
    ones = [Hand(seed).write(one) for one, _, seed in pairs]
    others = [
        Hand(seed + 1).write(
            one if other is None else changed(one, random.Random(other)) if isinstance(other, int) else other
        )
        for one, other, seed in pairs
    ]

    compared = servers.query(
        shared_database_url,
        "SELECT a::jsonb = b::jsonb FROM unnest(%s::text[], %s::text[]) WITH ORDINALITY AS pair (a, b, k) ORDER BY k",
        ones,
        others,
    )

    for one, other, (is_equal,) in zip(ones, others, compared, strict=True):
        assert (fingerprint_of(one) == fingerprint_of(other)) is is_equal, (one, other)
    assert all(is_equal for (_, other, _), (is_equal,) in zip(pairs, compared, strict=True) if other is None)


# --- what the first releases wrote ------------------------------------------------------------------------------------

AS_FIRST_RELEASED = {
    "usage_events": "UPDATE analytics.usage_event_ids ledger SET fingerprint = hash_record_extended(ROW (event.event_time,"
    " user_id, team, service, provider, model, total_tokens, latency_ms, status_code, error_type, prompt, extra), 0)"
    " FROM analytics.usage_events event WHERE event.event_id = ledger.event_id",
    "message_archives": "UPDATE analytics.message_archive_ids ledger SET fingerprint = hash_record_extended("
    "ROW (user_id, service, prompt_full, response_full, {stored_at}), 0)"
    " FROM analytics.message_archives archive WHERE archive.event_id = ledger.event_id",
}


@pytest.mark.parametrize("way", ["new ids", "any ids"])
async def test_events_of_the_first_releases_are_recognised(
    writer: BatchWriter, database_url: DatabaseUrl, now: datetime, way: str
) -> None:
    full = event(
        event_time=now,
        latency_ms=17,
        status_code=503,
        error_type="overloaded",
        prompt="naïve 😀",
        extra={"region": "eu", "nested": [1.5, {"a": None}]},
    )
    known = [full, event(event_time=now, total_tokens=None), event(event_time=now, extra={})]
    await store(writer, USAGE_EVENTS, known)
    servers.execute(database_url, AS_FIRST_RELEASED["usage_events"])
    respelled = replace(full, extra=Raw(b'{ "nested": [15e-1, {"a": null}], "region": "\\u0065u" }'))
    others = [
        replace(known[0], prompt="naive"),
        replace(known[0], extra=Raw(b"{}")),
        replace(known[1], total_tokens=1),
        replace(known[2], extra=Raw(b'{"a":1}')),
    ]
    if way == "any ids":
        await make_cautious(writer)

    assert (await store(writer, USAGE_EVENTS, [*known, respelled])).outcomes == dict.fromkeys(range(4), Outcome.DUPLICATE)
    assert (await store(writer, USAGE_EVENTS, others)).outcomes == dict.fromkeys(range(4), Outcome.CONFLICT)
    assert servers.query(database_url, "SELECT count(*) FROM analytics.usage_events WHERE team <> 'before'") == [(3,)]


@pytest.mark.parametrize("has_time", [True, False], ids=["stored_at", "no stored_at"])
async def test_archives_of_the_first_releases_are_recognised(
    writer: BatchWriter, database_url: DatabaseUrl, now: datetime, has_time: bool
) -> None:
    events = [event() for _ in range(2)]
    await store(writer, USAGE_EVENTS, events)
    time = now if has_time else None
    known = [
        archive(events[0].event_id, stored_at=time),
        archive(events[1].event_id, stored_at=time, prompt_full=None, response_full=None),
    ]
    await store(writer, MESSAGE_ARCHIVES, known)
    # The fingerprint was over the time as it was sent.
    stored_at = "archive.stored_at" if has_time else "NULL::timestamptz"
    servers.execute(database_url, AS_FIRST_RELEASED["message_archives"].format(stored_at=stored_at))

    again = await store(writer, MESSAGE_ARCHIVES, [*known, replace(known[0], response_full="Other."), known[1]])

    assert again.outcomes == {0: Outcome.DUPLICATE, 1: Outcome.DUPLICATE, 2: Outcome.CONFLICT, 3: Outcome.DUPLICATE}
