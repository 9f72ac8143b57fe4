"""Bodies for load: valid, fresh, and the same again."""

import gzip
from datetime import UTC, datetime, timedelta
from uuid import RFC_4122, UUID

import msgspec
import pytest

from benchmarks.bodies import TEMPLATES, Bodies
from ingest.events import USAGE_EVENTS, UsageEvent, Window
from ingest.web.decode import Media, decode

# A time at which the second, the minute and the upper bits of a UUIDv7's milliseconds change within the spread.
NOW = datetime.fromtimestamp((1_764_000_000_000 // 65_536 * 65_536 + 900) / 1000, UTC)


@pytest.fixture(scope="module", params=[4, 7])
def bodies(request) -> Bodies:
    return Bodies(11, 100, uuid_version=request.param)


def decoded(text: bytes) -> list[UsageEvent]:
    batch = decode(USAGE_EVENTS, text, Media.JSON, Window.around(NOW, 1, 0), items_max=10_000)
    assert not batch.rejections
    return list(batch.items)


def test_the_service_takes_every_event(bodies):
    body = bodies.make(0, NOW)
    events = decoded(gzip.decompress(body.content))
    assert len(events) == body.items == 100
    times = [event.event_time for event in events]
    assert times == sorted(times)
    assert NOW - timedelta(seconds=5) <= times[0] < times[-1] <= NOW
    assert len({time.second for time in times}) == 6


def test_ids_are_as_rfc_9562_has_them():
    for version in (4, 7):
        events = decoded(Bodies(3, 500, uuid_version=version).json(0, NOW))
        assert {event.event_id.version for event in events} == {version}
        assert {event.event_id.variant for event in events} == {RFC_4122}
        # The variant leaves two bits of its digit to chance, and all other digits four.
        digits = [event.event_id.hex for event in events]
        assert {digit[16] for digit in digits} == set("89ab")
        for place in set(range(12 if version == 7 else 0, 32)) - {12, 16}:
            assert len({digit[place] for digit in digits}) == 16


def test_a_uuid_of_version_7_holds_the_time_of_its_event():
    for event in decoded(Bodies(3, 500).json(0, NOW)):
        assert event.event_id.int >> 80 == int(event.event_time.timestamp() * 1000)


def test_the_same_numbers_make_the_same_bytes(bodies):
    again = Bodies(11, 100, uuid_version=UUID(bodies.event_ids(0, NOW)[0]).version or 0)
    assert again.make(4, NOW).content == bodies.make(4, NOW).content
    assert bodies.make(4, NOW).content != bodies.make(5, NOW).content


def test_a_body_tells_its_ids(bodies):
    body = bodies.make(7, NOW)
    assert body.event_ids == [str(event.event_id) for event in decoded(gzip.decompress(body.content))]


def test_no_id_comes_twice():
    ids = [
        event_id
        for seed in (1, 2)
        for version in (4, 7)
        for number in range(20)
        for event_id in Bodies(seed, 100, uuid_version=version).event_ids(number, NOW)
    ]
    assert len(set(ids)) == len(ids) == 8000


def test_events_differ_from_one_body_to_the_next(bodies):
    first, second = (decoded(bodies.json(number, NOW)) for number in (1, 2))
    assert [event.user_id for event in first] != [event.user_id for event in second]


@pytest.mark.parametrize("items", [1, 10, TEMPLATES + 7])
def test_any_number_of_items(bodies, items):
    body = bodies.make(0, NOW, items=items)
    assert len(decoded(gzip.decompress(body.content))) == body.items == len(body.event_ids) == items


def test_given_token_counts_belong_to_calls_that_were_served(bodies):
    counts = list(range(1000, 1000 + TEMPLATES))
    events = decoded(bodies.json(0, NOW, token_counts=counts))
    assert [event.total_tokens for event in events] == counts
    assert {event.error_type for event in events} == {None}


def test_given_times_are_kept(bodies):
    times = [NOW - timedelta(microseconds=k) for k in (7_000_000, 1_000_001, 1_000_000, 0)]
    body = bodies.make(0, NOW, times=times)
    events = decoded(gzip.decompress(body.content))
    assert [event.event_time for event in events] == times
    assert body.event_ids == [str(event.event_id) for event in events]


def test_a_template_keeps_its_fields(bodies):
    """Nothing but id and time is cut out: every field of the generator's events is there."""
    fields = {name for event in msgspec.json.decode(bodies.json(0, NOW, items=TEMPLATES)) for name in event}
    assert fields == {field.name for field in msgspec.structs.fields(UsageEvent)}


def test_other_versions_are_refused():
    with pytest.raises(ValueError, match="4 or 7"):
        Bodies(1, 10, uuid_version=1)
