"""The client against a service that follows a script."""

import asyncio
import functools
import gzip
import json
import math
import random
import re
import textwrap
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import msgspec
import pytest
from zlib_ng import zlib_ng

import ingest.client
from ingest.client import Batcher, Buffer, Client, GivenUp, Outcome, Refused, SendError, backoff
from ingest.client.answers import Limits
from ingest.client.batching import batch_bytes_max
from tests.samples import wire_event

URL = "http://service.test"


class Service:
    """Answers with what `script` holds, one after the other, and then by `rule`."""

    def __init__(
        self, *script: httpx.Response | Exception, rule: Callable[[list[bytes]], dict[str, Any]] | None = None
    ) -> None:
        self.script = list(script)
        self.rule = rule or accepted
        self.requests: list[httpx.Request] = []
        self.waits: list[float] = []
        self.now = 0.0

    def items(self, number: int) -> list[bytes]:
        request = self.requests[number]
        text = zlib_ng.decompress(request.content, 31)
        if request.headers["Content-Type"] == "application/json":
            return [bytes(item) for item in msgspec.json.decode(text, type=list[msgspec.Raw])]
        return text.split(b"\n")

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if self.script:
            said = self.script.pop(0)
            if isinstance(said, Exception):
                raise said
            return said
        verdict = self.rule(self.items(-1))
        return httpx.Response(422 if verdict["rejected"] == verdict["received"] else 200, json=verdict)

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds

    def client(self, **options: Any) -> Client:
        transport = httpx.MockTransport(self.answer)
        return Client(
            URL, transport=transport, sleep=self.sleep, clock=lambda: self.now, random=random.Random(1).random, **options
        )


def accepted(items: Sequence[bytes]) -> dict[str, Any]:
    return verdict(items, bad=())


def verdict(items: Sequence[bytes], bad: Sequence[int], duplicates: int = 0) -> dict[str, Any]:
    """What the service says if the items at `bad` are rejected."""
    listed = [{"index": at, "event_id": None, "code": "invalid_json", "field": None, "message": "no"} for at in bad]
    stored = len(items) - len(bad) - duplicates
    return {
        "received": len(items), "accepted": stored, "duplicates": duplicates, "conflicts": 0, "rejected": len(bad),
        "sanitized": 0, "errors": listed[:100], "errors_truncated": len(listed) > 100,
    }  # fmt: skip


def problem(status: int, code: str = "", **headers: str) -> httpx.Response:
    body = {"code": code, "detail": f"It is {code}.", "status": status}
    return httpx.Response(status, json=body, headers={name.replace("_", "-"): value for name, value in headers.items()})


ITEMS = [b'{"n":%d}' % number for number in range(10)]


async def test_a_batch_goes_as_gzipped_lines_with_the_key() -> None:
    service = Service()
    async with service.client(api_key="lai_x_y") as client:
        outcome = await client.send(ITEMS)

    [request] = service.requests
    assert gzip.decompress(request.content) == b"\n".join(ITEMS)
    assert request.url == f"{URL}/api/v1/ingest/requests:bulk"
    assert request.headers["Content-Type"] == "application/x-ndjson"
    assert request.headers["Content-Encoding"] == "gzip"
    assert request.headers["Authorization"] == "Bearer lai_x_y"
    assert (outcome.received, outcome.accepted, outcome.requests) == (10, 10, 1)
    assert outcome.sent_bytes == len(request.content)


async def test_items_over_several_lines_go_as_an_array_as_they_are() -> None:
    service = Service()
    items = [b'{\n "n": 1.00\n}', b'{"n":2}']
    async with service.client() as client:
        assert (await client.send(items)).accepted == 2

    assert gzip.decompress(service.requests[0].content) == b"[" + b",".join(items) + b"]"


@pytest.mark.parametrize(
    "failure",
    [*(problem(status) for status in (408, 429, 500, 502, 503, 504)), httpx.ConnectError("refused"), httpx.ReadTimeout("")],
    ids=str,
)
async def test_what_may_pass_is_tried_again_with_the_same_bytes(failure: httpx.Response | Exception) -> None:
    service = Service(failure, failure, failure)
    async with service.client() as client:
        outcome = await client.send(ITEMS)

    assert (outcome.accepted, outcome.requests) == (10, 4)
    assert len({request.content for request in service.requests}) == 1
    low = [0.25, 0.5, 1.0]
    assert all(least <= wait <= 2 * least for least, wait in zip(low, service.waits, strict=True)), service.waits


async def test_retry_after_is_honoured() -> None:
    date = f"{datetime.now(UTC) + timedelta(seconds=30):%a, %d %b %Y %H:%M:%S GMT}"
    service = Service(problem(503, Retry_After="3"), problem(429, Retry_After=date), problem(503, Retry_After="soon"))
    async with service.client() as client:
        await client.send(ITEMS)

    first, second, third = service.waits
    assert 3 <= first <= 4.5
    assert 28 <= second <= 32
    assert 1 <= third <= 2


async def test_it_is_given_up_in_time_and_not_waited_for_what_is_too_far() -> None:
    service = Service(*(problem(503, "draining") for _ in range(100)))
    async with service.client(give_up_after_seconds=60) as client:
        with pytest.raises(GivenUp, match="answers 503: It is draining"):
            await client.send(ITEMS)
        assert 30 < service.now <= 60

        service.script = [problem(429, Retry_After="3600")]
        waited = len(service.waits)
        with pytest.raises(GivenUp):
            await client.send(ITEMS)
        assert len(service.waits) == waited


@pytest.mark.parametrize("status", [401, 403, 404, 405, 415, 501, 301])
async def test_what_will_not_pass_is_not_tried_again(status: int) -> None:
    service = Service(problem(status, "no"))
    async with service.client() as client:
        with pytest.raises(Refused, match=rf"answers {status}: It is no") as refused:
            await client.send(ITEMS)

    assert refused.value.status == status
    assert len(service.requests) == 1


async def test_an_answer_that_is_not_of_the_service_is_refused() -> None:
    for answer in (httpx.Response(200, text="<html>"), httpx.Response(200, json=accepted(ITEMS[:3]))):
        async with Service(answer).client() as client:
            with pytest.raises(Refused):
                await client.send(ITEMS)


@pytest.mark.parametrize(("status", "code"), [(413, "limit_exceeded"), (400, "unreadable_body")])
async def test_a_batch_that_is_too_large_or_has_an_item_that_spoils_it_is_halved(status: int, code: str) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        said = Service.answer(service, request)
        return problem(status, code) if ITEMS[7] in service.items(-1) else said

    service = Service()
    async with Client(URL, transport=httpx.MockTransport(answer)) as client:
        outcome = await client.send(ITEMS)

    assert (outcome.received, outcome.accepted, outcome.rejected) == (10, 9, 1)
    assert [(error.index, error.code) for error in outcome.errors] == [(7, code)]
    assert outcome.requests == len(service.requests) <= 9


async def test_all_errors_are_found_where_the_answer_lists_a_hundred() -> None:
    bad = {b'{"n":%d}' % number for number in range(1000) if number % 4}
    stored: set[bytes] = set()

    def rule(items: list[bytes]) -> dict[str, Any]:
        again = sum(item in stored for item in items)
        stored.update(item for item in items if item not in bad)
        return verdict(items, [at for at, item in enumerate(items) if item in bad], again)

    service = Service(rule=rule)
    items = [b'{"n":%d}' % number for number in range(1000)]
    async with service.client() as client:
        outcome = await client.send(items)

    assert (outcome.received, outcome.accepted, outcome.duplicates, outcome.rejected) == (1000, 250, 0, 750)
    assert [error.index for error in outcome.errors] == [number for number in range(1000) if number % 4]
    assert all(len(service.items(number)) <= 100 for number in range(1, len(service.requests)))
    assert len(service.requests) == 10  # the first lists up to item 133


async def test_what_is_not_utf8_is_rejected_here_and_costs_nobody_else() -> None:
    service = Service()
    async with service.client() as client:
        outcome = await client.send([ITEMS[0], b'{"n":"\xff"}', ITEMS[1]])

    assert service.items(0) == ITEMS[:2]
    assert (outcome.received, outcome.accepted, outcome.rejected) == (3, 2, 1)
    assert [(error.index, error.code) for error in outcome.errors] == [(1, "invalid_json")]


async def test_limits_are_asked_for_and_guessed_where_that_is_not_allowed() -> None:
    shown = {"limits": {"MAX_BULK_SIZE": 7, "MAX_BODY_SIZE": 3000, "MAX_GZIP_SIZE": 2000, "RETENTION_DAYS": 1}}
    service = Service(httpx.Response(200, json=shown), problem(403, "scope_forbidden"), problem(401, "key_refused"))
    async with service.client() as client:
        limits = await client.limits()
        assert (limits.batch_items_max, limits.body_bytes_max, limits.compressed_bytes_max) == (7, 3000, 2000)
        assert batch_bytes_max(limits) == 1000
        assert await client.limits() == Limits()
        with pytest.raises(Refused, match="401"):
            await client.limits()


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://x", "http://", "http://a:b@c", "http://x?y=1", ""])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="The URL must"):
        Client(url)


@pytest.mark.parametrize("url", ["http://h:abc", r"http://xn--\u", "http://a\nb", "http://a b", "http://[::1"])
def test_a_url_that_can_not_be_used_is_refused_in_the_same_way(url: str) -> None:
    with pytest.raises(ValueError, match="URL"):
        Client(url)


@pytest.mark.parametrize(("name", "value"), [("ALL_PROXY", "socks5://x"), ("SSL_CERT_FILE", "/nonexistent")])
def test_what_the_environment_asks_for_in_vain_is_a_sentence(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(ValueError, match=name):
        Client("https://service.test")


@pytest.mark.parametrize(
    "said",
    [
        {"received": 3, "accepted": 4, "rejected": -1},
        {"received": 3, "accepted": 1, "rejected": 1},
        {"received": 3, "accepted": 2, "rejected": 1, "errors": [{"index": 3, "code": "x", "message": "x"}]},
        {"received": 3, "accepted": 2, "rejected": 1, "errors": [{"index": -1, "code": "x", "message": "x"}]},
    ],
)
async def test_counts_that_do_not_add_up_are_no_answer_of_the_service(said: dict[str, Any]) -> None:
    service = Service(httpx.Response(200, json={"duplicates": 0, "conflicts": 0, **said}))
    async with service.client() as client:
        with pytest.raises(Refused, match="don't add up"):
            await client.send(ITEMS[:3])


async def test_what_a_server_says_is_one_line_without_commands_for_a_terminal() -> None:
    body = {"detail": "\x1b[31mevil\nsecond line" + 10_000 * "x"}
    async with Service(httpx.Response(403, json=body)).client() as client:
        with pytest.raises(Refused) as refused:
            await client.send(ITEMS)

    assert "?[31mevil second line" in str(refused.value)
    assert len(str(refused.value)) < 700
    assert str(refused.value).isprintable()


async def test_what_failed_was_sent_too() -> None:
    service = Service(*(problem(503) for _ in range(50)))
    async with service.client(give_up_after_seconds=2) as client:
        with pytest.raises(GivenUp):
            await client.send(ITEMS)

        assert client.requests == len(service.requests) > 1
        assert client.sent_bytes == sum(len(request.content) for request in service.requests)


@pytest.mark.parametrize("key", ["", "two words", "new\nline", "ключ"])
def test_a_key_that_can_not_be_sent_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(ValueError, match="API key") as refused:
        Client(URL, api_key=key)
    assert not key or key not in str(refused.value)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        *(("3", 3), ("0", 0), ("1.5", None), ("1_0", None), ("1e3", None), ("²", None)),
        *(("-1", None), ("nan", None), ("inf", None), ("", None), (None, None), ("x", None)),
    ],
)
def test_retry_after_is_read(value: str | None, seconds: float | None) -> None:
    assert backoff.retry_after_seconds(value, datetime.now(UTC)) == seconds


def test_a_retry_after_that_is_past_is_now() -> None:
    assert backoff.retry_after_seconds("Wed, 21 Oct 2015 07:28:00 GMT", datetime.now(UTC)) == 0


def test_waits_grow_to_their_limit_and_are_spread() -> None:
    for attempt in range(40):
        grown = min(30.0, 0.5 * 2**attempt)
        assert backoff.delay_seconds(attempt, None, lambda: 0.0) == pytest.approx(grown / 2)
        assert backoff.delay_seconds(attempt, None, lambda: 1.0) == pytest.approx(grown)
    assert math.isfinite(backoff.delay_seconds(10**6, None, lambda: 1.0))


def test_a_batcher_keeps_both_limits_and_every_item() -> None:
    draw = random.Random(3)
    batcher = Batcher(5, 100)
    items = [b"x" * draw.choice([1, 20, 60, 99, 100, 300]) for _ in range(500)]
    batches = [full for item in items if (full := batcher.add(item))]
    batches.append(batcher.take())

    assert [item for batch in batches for item in batch] == items
    assert all(len(batch) <= 5 for batch in batches)
    assert all(sum(len(item) + 1 for item in batch) <= 100 for batch in batches if len(batch) > 1)


class Slow:
    """A sender that can be held up."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.began: list[list[bytes]] = []
        self.fails = False

    async def send(self, items: Sequence[bytes]) -> Outcome:
        self.began.append(list(items))
        await self.open.wait()
        if self.fails:
            raise GivenUp("no")
        return Outcome(received=len(items), accepted=len(items))


async def test_a_buffer_sends_full_batches_then_waits_and_ends_with_all_sent() -> None:
    slow = Slow()
    done: list[tuple[int, Outcome | SendError]] = []
    buffer = Buffer(slow, lambda items, said: done.append((len(items), said)), items_max=2, in_flight_max=2)
    adding = asyncio.create_task(_add(buffer, ITEMS))
    await asyncio.sleep(0.01)

    assert len(slow.began) == 2
    assert not adding.done()
    slow.open.set()
    await adding
    await buffer.flush()

    assert sorted(item for batch in slow.began for item in batch) == ITEMS
    assert [count for count, _ in done] == [2, 2, 2, 2, 2]


async def test_a_buffer_sends_what_lingers_and_hands_back_what_failed() -> None:
    slow = Slow()
    slow.open.set()
    slow.fails = True
    done: list[tuple[int, Outcome | SendError]] = []
    async with Buffer(slow, lambda items, said: done.append((len(items), said)), linger_seconds=0.01) as buffer:
        await _add(buffer, ITEMS[:3])
        await asyncio.sleep(0.1)
        assert [count for count, _ in done] == [3]
        assert isinstance(done[0][1], GivenUp)
        await _add(buffer, ITEMS[:1])

    assert [count for count, _ in done] == [3, 1]


class Broken:
    async def send(self, items: Sequence[bytes]) -> Outcome:
        raise RuntimeError("a mistake")


async def test_a_buffer_hands_back_what_fails_in_a_way_that_nobody_foresaw() -> None:
    done: list[tuple[int, Outcome | SendError]] = []
    async with Buffer(Broken(), lambda items, said: done.append((len(items), said)), items_max=2) as buffer:
        await _add(buffer, ITEMS)

    assert [count for count, _ in done] == [2, 2, 2, 2, 2]
    assert all(isinstance(said, GivenUp) and "a mistake" in str(said) for _, said in done)


async def test_a_buffer_that_is_cancelled_hands_back_what_it_has_and_leaves_nothing_behind() -> None:
    done: list[tuple[int, Outcome | SendError]] = []
    tasks = asyncio.all_tasks()
    with pytest.raises(TimeoutError):
        async with (
            asyncio.timeout(0.05),
            Buffer(Slow(), lambda items, said: done.append((len(items), said)), items_max=4, in_flight_max=2) as buffer,
        ):
            await _add(buffer, ITEMS)

    assert sorted(count for count, _ in done) == [2, 4, 4]
    assert all(isinstance(said, GivenUp) for _, said in done)
    assert asyncio.all_tasks() == tasks


async def test_a_client_that_was_closed_gives_up() -> None:
    client = Service().client()
    await client.close()

    with pytest.raises(GivenUp, match="closed"):
        await client.send(ITEMS)


async def test_a_buffer_takes_no_blank_item() -> None:
    async with Buffer(Slow(), lambda _items, _said: None) as buffer:
        with pytest.raises(ValueError, match="blank"):
            await buffer.add(b" ")


async def _add(buffer: Buffer, items: Sequence[bytes]) -> None:
    for item in items:
        await buffer.add(item)


def test_the_example_works_as_it_stands(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    text = ingest.client.__doc__ or ""
    example = re.search(r"Example:\n\n(.*?)\n\nWhat an SDK", text, re.DOTALL)
    assert example
    service = Service(rule=lambda items: verdict(items, [1]))
    offline = functools.partial(Client, transport=httpx.MockTransport(service.answer))
    monkeypatch.setattr(ingest.client, "Client", offline)

    exec(compile(textwrap.dedent(example[1]), "example", "exec"), {"URL": URL, "API_KEY": None})

    sent = [json.loads(item) for item in service.items(0)]
    assert [event["total_tokens"] for event in sent] == [120, 4511, 38]
    assert sent[0].keys() <= {*wire_event(), "total_tokens"}
    assert capsys.readouterr().out == "invalid_json: no\n"
