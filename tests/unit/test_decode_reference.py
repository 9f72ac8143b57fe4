"""Every body gets the verdict of the reference (tests/reference), item by item: what is right, said again with no thought of
speed. The fast path, the bounded arrays and the slow path have to agree with it, and so has what comes in a coding."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from ingest import errors
from ingest.flow.admission import Admission
from ingest.web import body as receiving
from ingest.web.body import BodyLimits
from tests import bodies
from tests.bodies import Coded, Sent
from tests.reference import codings
from tests.reference.comparison import compare
from tests.reliability import Figures
from tests.unit.test_body import Client, request
from tests.unit.wire import ITEMS_MAX, WINDOW

LIMITS = BodyLimits(compressed_bytes_max=3000, body_bytes_max=6000, timeout_seconds=60)


def examined(figures: Figures, examples: int, strategy: st.SearchStrategy[Any], examine: Callable[[Any], bool]) -> float:
    """Examines so many examples, counts them, and returns which part of them `examine` called good."""
    seen = good = 0

    @settings(max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
    @given(example=strategy)
    def each(example: Any) -> None:
        nonlocal seen, good
        note(repr(example))
        seen += 1
        good += examine(example)

    start = time.perf_counter()
    each()
    figures.fuzzed_inputs += seen
    figures.fuzzed_seconds += time.perf_counter() - start
    return good / seen


@pytest.mark.reliability
@pytest.mark.timeout(3600)
def test_every_body_gets_the_verdict_of_the_reference(figures: Figures, is_long: bool) -> None:
    def has_good_items(sent: Sent) -> bool:
        read = compare(sent.stream, sent.body, sent.media, WINDOW, ITEMS_MAX)
        return read is not None and any(not item.faults for item in read.items)

    # Were hardly one taken, this would say nothing of what is taken.
    assert examined(figures, 600 * (50 if is_long else 1), bodies.bodies(), has_good_items) > 0.3


def received(coded: Coded) -> bytes | errors.RequestRefused:
    """What the service makes of a body on the wire."""

    async def read() -> bytearray:
        with Admission(10**9).reserve() as reservation:
            client = Client(*coded.chunks)
            return await receiving.read(request(client, {"Content-Encoding": coded.coding}), LIMITS, reservation)

    try:
        return bytes(asyncio.run(read()))
    except errors.RequestRefused as refusal:
        return refusal


@pytest.mark.reliability
@pytest.mark.timeout(3600)
def test_every_body_in_a_coding_gets_the_verdict_of_the_reference(figures: Figures, is_long: bool) -> None:
    def is_read(example: tuple[Sent, Coded]) -> bool:
        sent, coded = example
        expected = codings.inflate(coded.coding, coded.wire)
        wire_max = LIMITS.body_bytes_max if coded.coding == "identity" else LIMITS.compressed_bytes_max
        is_past_limit = len(coded.wire) > wire_max or len(expected.content) > LIMITS.body_bytes_max
        came = received(coded)
        if isinstance(came, errors.LimitExceeded):
            assert is_past_limit, coded
        elif isinstance(came, errors.BodyUnreadable):
            assert not expected.is_whole, (came, coded)
        else:
            assert not isinstance(came, errors.RequestRefused)
            assert expected.is_whole, coded
            assert not is_past_limit, coded
            assert came == expected.content
            compare(sent.stream, came, sent.media, WINDOW, ITEMS_MAX)
            return True
        return False

    examples = bodies.bodies().flatmap(lambda sent: st.tuples(st.just(sent), bodies.coded(sent.body)))
    assert examined(figures, 300 * (50 if is_long else 1), examples, is_read) > 0.3
