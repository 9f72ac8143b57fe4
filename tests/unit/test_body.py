"""A body is read as it arrives, up to its limits and no further, and is counted while it is held."""

import asyncio
import gzip
from collections.abc import Iterable, Iterator

import pytest
from starlette.requests import Request
from starlette.types import Message

from ingest import errors
from ingest.flow.admission import GIVES_WAY_SECONDS, Admission
from ingest.web import body, inflate
from ingest.web.body import BodyLimits

LIMITS = BodyLimits(compressed_bytes_max=1000, body_bytes_max=2000, timeout_seconds=10)
IMPATIENT = BodyLimits(compressed_bytes_max=1000, body_bytes_max=2000, timeout_seconds=0.01)
PLENTY = 10**9

GZIP = {"Content-Encoding": "gzip"}


class Client:
    """Sends a body chunk by chunk, as a server hands it on (ASGI's `receive`)."""

    def __init__(self, *chunks: bytes, then: str = "done") -> None:
        self._chunks = list(chunks)
        self._then = then
        self.chunks_sent = 0

    async def receive(self) -> Message:
        if self._chunks:
            self.chunks_sent += 1
            chunk = self._chunks.pop(0)
            return {"type": "http.request", "body": chunk, "more_body": bool(self._chunks) or self._then != "done"}
        if self._then == "hang up":
            return {"type": "http.disconnect"}
        if self._then == "end":
            self._then = "done"
            return {"type": "http.request", "body": b"", "more_body": False}
        await asyncio.Event().wait()  # stalls
        raise AssertionError


def request(client: Client, headers: dict[str, str] | None = None) -> Request:
    fields = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
    return Request({"type": "http", "method": "POST", "path": "/", "headers": fields}, client.receive)


async def read(
    client: Client, headers: dict[str, str] | None = None, limits: BodyLimits = LIMITS, admission: Admission | None = None
) -> bytes:
    with (admission or Admission(PLENTY)).reserve() as reservation:
        return bytes(await body.read(request(client, headers), limits, reservation))


def cut(data: bytes, size: int) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


@pytest.mark.parametrize("then", ["done", "end"])
@pytest.mark.parametrize("chunks", [[b"hello"], [b"he", b"llo"], [b"", b"h", b"", b"ello", b""], list(cut(b"hello", 1))])
async def test_the_chunks_of_a_body_are_put_together(chunks: Iterable[bytes], then: str) -> None:
    assert await read(Client(*chunks, then=then)) == b"hello"


@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "GZIP"])
async def test_a_compressed_body_is_inflated_as_it_comes(coding: str) -> None:
    content = b"hello " * 300

    assert await read(Client(*cut(gzip.compress(content), 3)), {"Content-Encoding": coding}) == content


async def test_a_body_of_nothing_is_empty() -> None:
    assert await read(Client(b"")) == b""


async def test_a_coding_that_is_not_known_is_refused_before_the_body_is_read() -> None:
    client = Client(b"hello")

    with pytest.raises(errors.EncodingUnsupported):
        await read(client, {"Content-Encoding": "br"})
    assert client.chunks_sent == 0


# --- limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk_bytes", [1, 999, 5000])
async def test_a_plain_body_may_have_as_many_bytes_as_the_limit(chunk_bytes: int) -> None:
    assert await read(Client(*cut(bytes(2000), chunk_bytes))) == bytes(2000)


@pytest.mark.parametrize("coding", [None, "identity"])
@pytest.mark.parametrize("chunk_bytes", [1, 667, 5000])
async def test_a_plain_body_of_a_byte_more_is_refused_at_that_byte(chunk_bytes: int, coding: str | None) -> None:
    client = Client(*cut(bytes(5000), chunk_bytes))

    with pytest.raises(errors.LimitExceeded) as caught:
        await read(client, {"Content-Encoding": coding} if coding else {})

    assert (caught.value.name, caught.value.limit) == ("MAX_BODY_SIZE", 2000)
    assert 2000 < caught.value.seen <= 2000 + chunk_bytes
    assert client.chunks_sent == 2000 // chunk_bytes + 1


def compressed(size: int) -> bytes:
    """A gzip stream of exactly this many bytes that stands for next to nothing: its header has a name (RFC 1952)."""
    plain = gzip.compress(b"{}", mtime=0)
    named = plain[:3] + b"\x08" + plain[4:10] + b"n" * (size - len(plain) - 1) + b"\0" + plain[10:]
    assert len(named) == size
    return named


async def test_a_compressed_body_may_have_as_many_bytes_as_the_limit() -> None:
    assert await read(Client(compressed(1000)), GZIP) == b"{}"


@pytest.mark.parametrize("chunk_bytes", [1, 2000])
async def test_a_compressed_body_of_a_byte_more_is_refused(chunk_bytes: int) -> None:
    with pytest.raises(errors.LimitExceeded) as caught:
        await read(Client(*cut(compressed(1001), chunk_bytes)), GZIP)

    assert (caught.value.name, caught.value.limit, caught.value.seen) == ("MAX_GZIP_SIZE", 1000, 1001)


async def test_a_body_may_inflate_to_as_many_bytes_as_the_limit() -> None:
    assert await read(Client(gzip.compress(bytes(2000))), GZIP) == bytes(2000)


async def test_a_body_that_inflates_to_a_byte_more_is_refused() -> None:
    with pytest.raises(errors.LimitExceeded) as caught:
        await read(Client(gzip.compress(bytes(2001))), GZIP)

    assert (caught.value.name, caught.value.limit, caught.value.seen) == ("MAX_BODY_SIZE", 2000, 2001)


async def test_a_bomb_is_left_after_the_piece_that_is_past_the_limit() -> None:
    bomb = gzip.compress(bytes(100 * 1024 * 1024))
    limits = BodyLimits(compressed_bytes_max=len(bomb), body_bytes_max=2000, timeout_seconds=10)

    with pytest.raises(errors.LimitExceeded) as caught:
        await read(Client(bomb), GZIP, limits)

    assert 2000 < caught.value.seen <= inflate.PIECE_BYTES


@pytest.mark.parametrize(
    ("headers", "length", "limit"),
    [({}, 2001, "MAX_BODY_SIZE"), (GZIP, 1001, "MAX_GZIP_SIZE"), ({}, 10**17, "MAX_BODY_SIZE")],
)
async def test_a_body_that_is_announced_too_big_is_refused_before_it_is_read(
    headers: dict[str, str], length: int, limit: str
) -> None:
    client = Client(b"{}")

    with pytest.raises(errors.LimitExceeded) as caught:
        await read(client, {**headers, "Content-Length": str(length)})

    assert (caught.value.name, caught.value.seen) == (limit, length)
    assert client.chunks_sent == 0


@pytest.mark.parametrize("length", ["2000", "5", "0", "-1", "many", "", "²"])
async def test_a_length_that_is_no_excess_changes_nothing(length: str) -> None:
    fields = [(b"content-length", length.encode("latin-1"))]
    asking = Request({"type": "http", "method": "POST", "path": "/", "headers": fields}, Client(b"{}").receive)

    with Admission(PLENTY).reserve() as reservation:
        assert await body.read(asking, LIMITS, reservation) == b"{}"


async def test_a_length_of_very_many_digits_is_too_big_as_well() -> None:
    with pytest.raises(errors.LimitExceeded):
        await read(Client(b"{}"), {"Content-Length": "9" * 5000})


# --- clients that stall, go, or send what they should not -------------------------------------------------------------


@pytest.mark.parametrize("chunks", [[], [b"{"], [gzip.compress(b"{}")[:5]]])
async def test_a_body_that_stalls_is_given_up(chunks: list[bytes]) -> None:
    headers = GZIP if chunks and chunks[0][:1] == b"\x1f" else {}

    with pytest.raises(errors.BodyTimeout, match=r"0\.01 s"):
        await read(Client(*chunks, then="stall"), headers, IMPATIENT)


async def test_a_body_that_drips_is_given_up() -> None:
    class Dripping(Client):
        async def receive(self) -> Message:
            await asyncio.sleep(0.02)
            return {"type": "http.request", "body": b" ", "more_body": True}

    limits = BodyLimits(compressed_bytes_max=1000, body_bytes_max=2000, timeout_seconds=0.1)
    async with asyncio.timeout(2):
        with pytest.raises(errors.BodyTimeout, match="1024 bytes a second"):
            await read(Dripping(), limits=limits)


async def test_a_body_may_take_its_time_if_it_is_large_enough_for_it() -> None:
    class Steady(Client):
        async def receive(self) -> Message:
            await asyncio.sleep(0.02)
            return await super().receive()

    limits = BodyLimits(compressed_bytes_max=1000, body_bytes_max=20_000, timeout_seconds=0.1)

    assert await read(Steady(*cut(bytes(10_000), 500)), limits=limits) == bytes(10_000)


async def test_a_body_that_is_waited_for_gives_way_to_others() -> None:
    admission = Admission(bytes_max=3000)
    client = Client(bytes(1900), then="stall")
    waiting = asyncio.create_task(read(client, admission=admission))
    await asyncio.sleep(GIVES_WAY_SECONDS + 0.05)
    assert admission.bytes_held == 1900

    assert await read(Client(bytes(2000)), admission=admission) == bytes(2000)

    with pytest.raises(errors.QueueFull, match="slowly"):
        await waiting
    assert admission.bytes_held == 0


@pytest.mark.parametrize("chunks", [[], [b"{"]])
async def test_a_client_that_hangs_up_is_gone(chunks: list[bytes]) -> None:
    with pytest.raises(errors.ClientGone):
        await read(Client(*chunks, then="hang up"))


async def test_a_compressed_body_that_is_cut_short_is_refused() -> None:
    with pytest.raises(errors.BodyUnreadable, match="cut short"):
        await read(Client(gzip.compress(b"{}")[:-1]), GZIP)


async def test_garbage_is_refused_at_the_chunk_where_it_stands() -> None:
    client = Client(b"garbage that is no gzip", b"more", b"more")

    with pytest.raises(errors.BodyUnreadable):
        await read(client, GZIP)
    assert client.chunks_sent == 1


# --- what is held is counted ------------------------------------------------------------------------------------------


async def test_the_inflated_bytes_are_held_until_the_request_is_over() -> None:
    admission = Admission(PLENTY)

    with admission.reserve() as reservation:
        await body.read(request(Client(gzip.compress(bytes(2000))), GZIP), LIMITS, reservation)
        assert admission.bytes_held == 2000

    assert admission.bytes_held == 0


@pytest.mark.parametrize(
    ("client", "limits"),
    [
        (Client(bytes(1500), bytes(1500)), LIMITS),
        (Client(bytes(1500), then="hang up"), LIMITS),
        (Client(bytes(1500), then="stall"), IMPATIENT),
    ],
    ids=["past a limit", "gone", "stalled"],
)
async def test_a_body_that_fails_is_held_no_longer(client: Client, limits: BodyLimits) -> None:
    admission = Admission(PLENTY)

    with pytest.raises(errors.IngestError):
        await read(client, limits=limits, admission=admission)

    assert admission.bytes_held == 0


async def test_a_body_that_does_not_fit_beside_the_others_is_refused_where_it_stops_fitting() -> None:
    admission = Admission(bytes_max=3000)
    client = Client(*cut(bytes(2000), 100))

    with admission.reserve() as other:
        other.grow(2000)
        with pytest.raises(errors.QueueFull):
            await read(client, admission=admission)
        assert admission.bytes_held == 2000

    assert client.chunks_sent == 11


async def test_others_get_their_turn_while_a_bomb_is_inflated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "YIELD_BYTES", 500)
    monkeypatch.setattr(inflate, "PIECE_BYTES", 100)
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(count_turns())
    await read(Client(gzip.compress(bytes(2000))), GZIP)
    other.cancel()

    assert turns >= 4


# --- what still comes after a refusal ---------------------------------------------------------------------------------


@pytest.mark.parametrize("then", ["done", "end", "hang up"])
async def test_what_still_comes_is_thrown_away_until_it_ends(then: str) -> None:
    client = Client(b"x" * 100, b"y" * 100, b"z", then=then)

    async with asyncio.timeout(1):
        await body.linger(request(client))

    assert client.chunks_sent == 3


async def test_a_client_that_stalls_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "LINGER_SECONDS", 0.01)

    async with asyncio.timeout(1):
        asking = request(Client(b"x", then="stall"))
        await body.linger(asking)

    assert not body.is_whole(asking)


async def test_nothing_is_waited_for_once_the_body_was_whole() -> None:
    asking = request(Client(b"{}"))
    with Admission(PLENTY).reserve() as reservation:
        await body.read(asking, LIMITS, reservation)

    async with asyncio.timeout(0.1):
        await body.linger(asking)
    assert body.is_whole(asking)
