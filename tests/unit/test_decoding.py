"""Bodies of any size become the same batch: in the event loop or in the process beside it, which may end at any time."""

import asyncio
import itertools
import os
import signal
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import psutil
import pytest

from ingest import errors
from ingest.events import MESSAGE_ARCHIVES, USAGE_EVENTS, Stream, Window
from ingest.flow.batch import Batch
from ingest.store import rows
from ingest.web import decoder_process, decoding
from ingest.web.decode import Media, decode
from ingest.web.decoder_process import DecoderProcess
from ingest.web.decoding import Decoding
from tests import samples

ITEMS_MAX = 100
WINDOW = Window.around(datetime.now(UTC), 180, 86_400)
"""As wide into the future as a run of all tests may take: it is made when pytest collects this file."""
ENCODE_AT = "ingest.store.rows:encode"


def events(count: int, **fields: object) -> list[dict[str, object]]:
    return [samples.wire_event(**fields) for _ in range(count)]


BODIES = {
    "usual": events(5, prompt="naïve 😀", extra={"b": 1, "a": [1.5]}, latency_ms=3, status_code=200),
    "one is bad": [*events(2), {"event_id": "no id"}, *events(1, team=7)],
    "unknown fields": events(3, region="eu"),
    "to be mended": events(2, prompt="a\0b"),
    "none": [],
    "large": events(20, prompt="x" * 100_000),
    "one large": events(1, prompt="y" * 3_000_000),
}


@pytest.fixture
async def process() -> AsyncIterator[DecoderProcess]:
    process = DecoderProcess(ENCODE_AT)
    yield process
    await process.close()


def same(one: Batch, other: Batch) -> bool:
    return (
        one.stream is other.stream
        and one.received == other.received
        and one.rows.claims == other.rows.claims
        and one.rows.times == other.rows.times
        and bytes(one.rows.fields) == bytes(other.rows.fields)
        and list(one.rows.ends) == list(other.rows.ends)
        and list(one.indices) == list(other.indices)
        and one.sanitized == other.sanitized
        and list(one.rejections) == list(other.rejections)
        and one.strict == other.strict
    )


def here(body: bytes, stream: Stream = USAGE_EVENTS, *, strict: bool = False) -> Batch:
    return decode(stream, body, Media.JSON, WINDOW, items_max=ITEMS_MAX, strict=strict).encoded(rows.encode)


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "ingest.web.decoder_process" in child.cmdline()]


async def ask(process: DecoderProcess, body: bytes, stream: Stream = USAGE_EVENTS, *, strict: bool = False) -> Batch:
    return await process.decode(stream, body, Media.JSON, WINDOW, items_max=ITEMS_MAX, strict=strict)


@pytest.mark.parametrize("strict", [True, False])
async def test_the_process_makes_the_same_batch(process: DecoderProcess, strict: bool) -> None:
    for name, items in BODIES.items():
        body = msgspec.json.encode(items)
        assert same(await ask(process, body, strict=strict), here(body, strict=strict)), name


async def test_the_process_takes_archives_too(process: DecoderProcess) -> None:
    event_id = samples.event().event_id
    items = [samples.wire_archive(event_id), samples.wire_archive(event_id, stored_at=datetime.now(UTC).isoformat())]
    body = msgspec.json.encode(items)

    batch = await ask(process, body, MESSAGE_ARCHIVES)

    assert same(batch, here(body, MESSAGE_ARCHIVES))
    assert [time is None for time in batch.rows.times] == [True, False]


async def test_errors_of_the_process_arrive_as_they_are(process: DecoderProcess) -> None:
    with pytest.raises(errors.LimitExceeded) as limit:
        await ask(process, msgspec.json.encode(events(ITEMS_MAX + 1)))
    assert (limit.value.name, limit.value.limit, limit.value.seen) == ("MAX_BULK_SIZE", ITEMS_MAX, ITEMS_MAX + 1)
    with pytest.raises(errors.BodyUnreadable, match="not JSON") as unreadable:
        await ask(process, b"[nonsense")
    with pytest.raises(errors.BodyUnreadable) as inline:
        here(b"[nonsense")
    assert str(unreadable.value) == str(inline.value)
    assert len((await ask(process, msgspec.json.encode(events(1)))).rows) == 1


async def test_one_process_takes_all_bodies_one_after_the_other(process: DecoderProcess) -> None:
    bodies = [msgspec.json.encode(events(k)) for k in range(1, 9)]

    batches = await asyncio.gather(*(ask(process, body) for body in bodies))

    assert [len(batch.rows) for batch in batches] == list(range(1, 9))
    assert len(children()) == 1


async def test_a_body_whose_turn_does_not_come_is_refused_for_now(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("import time\ndef encode(stream, items):\n    time.sleep(1000)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(decoder_process, "TURN_SECONDS_MAX", 0.2)
    process = DecoderProcess("slow:encode")
    first = asyncio.create_task(ask(process, msgspec.json.encode(events(1))))
    await asyncio.sleep(0.1)

    with pytest.raises(errors.QueueFull):
        await ask(process, msgspec.json.encode(events(1)))

    first.cancel()
    await asyncio.wait([first])
    await process.close()


async def test_a_body_that_is_not_very_large_does_not_wait_for_one_that_is() -> None:
    bodies = Decoding(rows.encode, ENCODE_AT, items_max=1000)

    async def read(body: bytes) -> Batch:
        return await bodies.read(USAGE_EVENTS, body, Media.JSON, WINDOW)

    large = asyncio.create_task(read(msgspec.json.encode(events(1000, prompt="z" * 20_000, region="eu"))))
    await asyncio.sleep(0)
    middle = await read(msgspec.json.encode(events(10, prompt="z" * 10_000, region="eu")))

    assert len(middle.rows) == 10
    assert not large.done()
    assert len((await large).rows) == 1000
    assert len(children()) == 2
    await bodies.close()
    assert children() == []


async def test_a_process_that_was_killed_is_replaced(process: DecoderProcess) -> None:
    body = msgspec.json.encode(events(2))
    await ask(process, body)
    (child,) = children()

    child.send_signal(signal.SIGKILL)
    child.wait(10)

    assert same(await ask(process, body), here(body))
    assert [other.pid for other in children()] != [child.pid]


async def test_a_body_over_which_the_process_always_ends_is_refused_for_now(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "deadly.py").write_text("import os\ndef encode(stream, items):\n    os._exit(9)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    process = DecoderProcess("deadly:encode")

    with pytest.raises(errors.DecoderGone):
        await ask(process, msgspec.json.encode(events(1)))

    assert children() == []
    await process.close()


async def test_a_process_that_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "endless.py").write_text("import time\ndef encode(stream, items):\n    time.sleep(1000)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(decoder_process, "DECODE_SECONDS_MAX", 1.0)
    process = DecoderProcess("endless:encode")

    with pytest.raises(errors.DecoderGone):
        await ask(process, msgspec.json.encode(events(1)))

    assert children() == []
    await process.close()


async def test_a_mistake_in_the_process_is_a_mistake_here_and_costs_no_other_body(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "picky.py").write_text(
        "from ingest.store import rows\n"
        "def encode(stream, items):\n"
        "    if len(items) == 2:\n"
        "        raise KeyError('secret')\n"
        "    return rows.encode(stream, items)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    process = DecoderProcess("picky:encode")

    with pytest.raises(RuntimeError, match=r"^KeyError in the process") as mistake:
        await ask(process, msgspec.json.encode(events(2)))
    assert "secret" not in str(mistake.value)
    assert len((await ask(process, msgspec.json.encode(events(3)))).rows) == 3
    await process.close()


async def test_a_body_that_is_given_up_leaves_nothing_for_the_next(process: DecoderProcess) -> None:
    large = asyncio.create_task(ask(process, msgspec.json.encode(events(40, prompt="z" * 200_000))))
    await asyncio.sleep(0.5)
    large.cancel()
    await asyncio.gather(large, return_exceptions=True)
    body = msgspec.json.encode(events(3))

    assert same(await ask(process, body), here(body))


async def test_a_process_that_is_killed_while_it_has_nothing_to_do_costs_nothing(process: DecoderProcess) -> None:
    body = msgspec.json.encode(events(3))
    for seconds in (0.2, 0.0):  # so that the event loop knows; and so soon that it can't
        await ask(process, body)
        [child] = children()
        child.kill()
        child.wait()
        await asyncio.sleep(seconds)

        assert same(await ask(process, body), here(body))


async def test_a_closed_process_is_gone() -> None:
    process = DecoderProcess(ENCODE_AT)
    await ask(process, msgspec.json.encode(events(1)))
    assert len(children()) == 1

    await process.close()

    assert children() == []


@pytest.mark.parametrize(
    ("items", "beside"),
    [
        (events(5), False),
        (events(5, region="eu"), False),
        (events(3, prompt="x" * 100_000), False),
        (events(3, prompt="x" * 100_000, region="eu"), True),
        (events(3, extra={"a": [1] * 50_000}), True),
        (events(6, prompt="x" * 100_000), True),
    ],
    ids=["small", "small, item by item", "middling", "middling, item by item", "middling, much in extra", "large"],
)
async def test_only_what_takes_long_goes_to_the_process(items: list[dict[str, object]], beside: bool) -> None:
    decoder = Decoding(rows.encode, ENCODE_AT, items_max=ITEMS_MAX)
    body = msgspec.json.encode(items)

    batch = await decoder.read(USAGE_EVENTS, body, Media.JSON, WINDOW, strict=True)

    assert same(batch, here(body, strict=True))
    assert (len(children()) == 1) is beside
    await decoder.close()


def test_the_bounds_are_in_order() -> None:
    assert decoding.YIELD_BYTES < decoding.ITEMS_BYTES_MAX < decoding.WHOLE_BYTES_MAX


async def test_others_have_their_turn_between_bodies_that_come_at_once() -> None:
    decoder = Decoding(rows.encode, ENCODE_AT, items_max=ITEMS_MAX)
    body = msgspec.json.encode(events(5, prompt="x" * 10_000))
    reading = [asyncio.create_task(decoder.read(USAGE_EVENTS, body, Media.JSON, WINDOW)) for _ in range(20)]
    done_at_turns = []

    while not all(task.done() for task in reading):
        await asyncio.sleep(0)
        done_at_turns.append(sum(task.done() for task in reading))

    assert max(after - before for before, after in itertools.pairwise([0, *done_at_turns])) == 1
