"""A batch to the service, for sure: compressed, tried again, split where it is too large, its errors all found."""

import asyncio
import math
import random as stdlib_random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from types import TracebackType
from typing import NamedTuple
from urllib.parse import urlsplit

import httpx
import msgspec

from ingest.client import answers, backoff, batching
from ingest.client.answers import Counts, ItemError, Limits, Problem, Verdict
from ingest.client.failures import GivenUp, Refused

PATHS = {
    "usage-events": "/api/v1/ingest/requests:bulk",
    "message-archives": "/api/v1/ingest/archives:bulk",
}
"""By the stream's name."""

RETRIED = frozenset(
    {
        HTTPStatus.REQUEST_TIMEOUT,
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.INTERNAL_SERVER_ERROR,
        HTTPStatus.BAD_GATEWAY,
        HTTPStatus.SERVICE_UNAVAILABLE,
        HTTPStatus.GATEWAY_TIMEOUT,
    }
)
"""Statuses after which the same batch is sent again. 500, 502 and 504 leave open whether it was stored: that does no harm."""

GIVE_UP_AFTER_SECONDS = 300.0
# The service may wait 5 s for a writer and 30 s for a statement before it answers.
TIMEOUT = httpx.Timeout(90, connect=10)
ANSWER_BYTES_MAX = 1024 * 1024
ERRORS_LISTED = 100
"""How many errors an answer lists; of a piece of that many items it lists all."""

_UNREADABLE = "unreadable_body"


class Outcome(Counts, kw_only=True):
    """What became of the items of one batch."""

    errors: list[ItemError] = msgspec.field(default_factory=list)
    """All that were rejected and all conflicts, in order; `index` is the item's place in the batch."""
    requests: int = 0
    sent_bytes: int = 0
    """As sent, compressed, every try counted."""

    def list_errors(self, errors: Sequence[ItemError], places: Sequence[int]) -> None:
        """Adds errors; places: where in the batch the items stand that the answer was about."""
        for error in errors:
            self.errors.append(
                ItemError(
                    index=places[error.index],
                    code=error.code,
                    message=error.message,
                    event_id=error.event_id,
                    field=error.field,
                )
            )


class _Answer(NamedTuple):
    status: int
    content: bytes
    headers: httpx.Headers


class Client:
    """Sends batches of one stream to one service. Many `send` may run at once; each uses one connection.

    url: of the service, without a path of an endpoint. stream: a key of PATHS. api_key: sent as a Bearer token (RFC 6750).
    give_up_after_seconds: how long after its first failure a batch is tried. on_retry: called with a sentence and the
    seconds until the next try. transport, sleep, clock (monotonic seconds) and random (0 to 1) are there for tests.

    Raises ValueError if url, stream or key are none, or the environment names a proxy or certificates that can't be used.
    """

    def __init__(
        self,
        url: str,
        stream: str = "usage-events",
        *,
        api_key: str | None = None,
        give_up_after_seconds: float = GIVE_UP_AFTER_SECONDS,
        on_retry: Callable[[str, float], None] | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = stdlib_random.random,
    ) -> None:
        parts = urlsplit(url)
        if not url.isprintable() or " " in url:
            raise ValueError("The URL has characters that no URL has.")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("The URL must begin with http:// or https:// and name a host.")
        if parts.query or parts.fragment or parts.username:
            raise ValueError("The URL must not have a user, a query or a fragment.")
        if stream not in PATHS:
            raise ValueError(f"There is no stream {stream!r}: {' or '.join(PATHS)}.")
        if api_key is not None and not (api_key.isascii() and api_key.isprintable() and api_key and " " not in api_key):
            raise ValueError("The API key has characters that no key has.")
        self.url = url.rstrip("/")
        self.stream = stream
        self._give_up_after_seconds = give_up_after_seconds
        self._on_retry = on_retry
        self._sleep = sleep
        self._clock = clock
        self._random = random
        headers = {"User-Agent": "llm-analytics-ingest"}
        if api_key is not None:
            headers["Authorization"] = f"Bearer {api_key}"
        self.requests = 0
        """How many batches were sent, every try counted."""
        self.sent_bytes = 0
        """Of these, compressed."""
        try:
            httpx.URL(url).host.encode()  # where a name is looked at that is not ASCII
            self._http = httpx.AsyncClient(
                headers=headers,
                timeout=TIMEOUT,
                transport=transport,
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=32, keepalive_expiry=4),
            )
        except (httpx.InvalidURL, UnicodeError) as error:
            raise ValueError(f"The URL can't be used: {error}") from None
        except (ImportError, OSError) as error:
            raise ValueError(
                f"The proxy or the certificates that the environment names (ALL_PROXY, SSL_CERT_FILE) can't be used: {error}"
            ) from None

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections. A `send` that still runs fails."""
        await self._http.aclose()

    async def limits(self, *, give_up_after_seconds: float | None = None) -> Limits:
        """How large a batch may be, by `GET /`; the defaults where the service does not say.

        Raises Refused if the API key is missing or not known, GivenUp.
        """
        patience = self._give_up_after_seconds if give_up_after_seconds is None else give_up_after_seconds
        answer = await self._until_answered("GET", "/", None, patience, Outcome())
        if answer.status == HTTPStatus.UNAUTHORIZED:
            raise self._refusal(answer)
        return answers.limits_of(answer.content) or Limits()

    async def send(self, items: Sequence[bytes]) -> Outcome:
        """Sends a batch; returns when the service has committed it. Each item is the JSON text of one object, UTF-8.

        413 halves the batch, until an item that is too large by itself counts as rejected. A 400 that says the body can't be
        read does so too: then one of the items is no JSON. Sent again after a lost answer, items count as duplicates.

        Raises Refused, GivenUp; ValueError if an item is blank.
        """
        if not all(map(bytes.strip, items)):
            raise ValueError("An item is blank.")
        outcome = Outcome()
        broken = batching.not_utf8(items)
        outcome.add(_all_rejected(len(broken)))
        outcome.list_errors(broken, range(len(items)))
        bad = {error.index for error in broken}
        places = [place for place in range(len(items)) if place not in bad]
        waiting = deque([places] if places else [])
        while waiting:
            places = waiting.popleft()
            said = await self._post([items[place] for place in places], outcome)
            if isinstance(said, Verdict):
                outcome.add(said)
                outcome.list_errors(said.errors, places)
                if said.errors_truncated:
                    await self._find_other_errors(items, places, said, outcome)
            elif len(places) == 1:
                outcome.add(_all_rejected(1))
                outcome.list_errors([ItemError(index=0, code=said.code, message=said.sentence)], places)
            else:
                middle = len(places) // 2
                waiting.extendleft([places[middle:], places[:middle]])
        outcome.errors.sort(key=lambda error: error.index)
        return outcome

    async def _find_other_errors(self, items: Sequence[bytes], places: list[int], first: Verdict, outcome: Outcome) -> None:
        """Sends what stands behind the last listed error again, in pieces small enough that all their errors are listed.

        What was stored comes back as a duplicate. What is accepted now was rejected the first time (an archive, the event of
        which came meanwhile), and counts as accepted.
        """
        missing = first.rejected + first.conflicts - len(first.errors)
        start = first.errors[-1].index + 1 if first.errors else 0
        while missing > 0 and start < len(places):
            piece = places[start : start + ERRORS_LISTED]
            start += len(piece)
            said = await self._post([items[place] for place in piece], outcome)
            if isinstance(said, Problem):
                raise Refused(f"The service took a batch, and not a part of it: {said.sentence}")
            outcome.list_errors(said.errors, piece)
            outcome.accepted += said.accepted
            outcome.rejected -= said.accepted
            missing -= len(said.errors) + said.accepted

    async def _post(self, items: Sequence[bytes], outcome: Outcome) -> Verdict | Problem:
        """Sends items until there is a verdict, or a problem that a smaller batch may not have."""
        body = await asyncio.to_thread(batching.body_of, items)
        answer = await self._until_answered("POST", PATHS[self.stream], body, self._give_up_after_seconds, outcome)
        problem = answers.problem_of(answer.content)
        if answer.status in (HTTPStatus.OK, HTTPStatus.UNPROCESSABLE_ENTITY):
            verdict = answers.verdict_of(answer.content)
            if verdict is None:
                raise Refused(f"{self.url} answers {answer.status} without counts: is this the service?", answer.status)
            if verdict.received != len(items):
                raise Refused(f"{len(items)} items were sent, and the service counted {verdict.received}.", answer.status)
            if not verdict.adds_up:
                raise Refused(f"{self.url} answers with counts that don't add up: is this the service?", answer.status)
            return verdict
        if answer.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            return Problem(code=problem.code or "limit_exceeded", detail=problem.sentence)
        if answer.status == HTTPStatus.BAD_REQUEST and problem.code == _UNREADABLE:
            return problem
        raise self._refusal(answer)

    def _refusal(self, answer: _Answer) -> Refused:
        sentence = answers.problem_of(answer.content).sentence
        location = answer.headers.get("Location")
        where = f" (to {location})" if location else ""
        request_id = answer.headers.get("X-Request-ID")
        named = f" (request {request_id})" if request_id else ""
        return Refused(f"{self.url} answers {answer.status}{where}: {sentence}{named}", answer.status)

    async def _until_answered(
        self, method: str, path: str, body: batching.Body | None, give_up_after_seconds: float, outcome: Outcome
    ) -> _Answer:
        """The first answer that does not ask to try again."""
        give_up_at = math.inf
        attempt = 0
        while True:
            asked_seconds: float | None = None
            if body:
                self._count(body, outcome)
            try:
                answer = await self._once(method, path, body)
            except httpx.UnsupportedProtocol as error:
                raise Refused(f"{self.url}: {error}") from None
            except RuntimeError as error:
                if not self._http.is_closed:
                    raise
                raise GivenUp(f"{self.url}: the client was closed.") from error
            except httpx.RequestError as error:
                reason = f"{self.url} gives no answer: {str(error) or type(error).__name__}"
            else:
                if answer.status not in RETRIED:
                    return answer
                asked_seconds = backoff.retry_after_seconds(answer.headers.get("Retry-After"), datetime.now(UTC))
                reason = f"{self.url} answers {answer.status}: {answers.problem_of(answer.content).sentence}"
            now = self._clock()
            give_up_at = min(give_up_at, now + give_up_after_seconds)
            delay = backoff.delay_seconds(attempt, asked_seconds, self._random)
            if now + delay > give_up_at:
                raise GivenUp(f"{reason} (given up after {attempt + 1} {'try' if attempt == 0 else 'tries'})")
            if self._on_retry:
                self._on_retry(reason, delay)
            await self._sleep(delay)
            attempt += 1

    def _count(self, body: batching.Body, outcome: Outcome) -> None:
        self.requests += 1
        self.sent_bytes += len(body.content)
        outcome.requests += 1
        outcome.sent_bytes += len(body.content)

    async def _once(self, method: str, path: str, body: batching.Body | None) -> _Answer:
        headers = {"Content-Type": body.content_type, "Content-Encoding": "gzip"} if body else {}
        content = body.content if body else None
        async with self._http.stream(method, self.url + path, headers=headers, content=content) as response:
            received = bytearray()
            async for chunk in response.aiter_bytes():
                received += chunk
                if len(received) > ANSWER_BYTES_MAX:
                    raise Refused(f"{self.url} answers with more than any answer has.", response.status_code)
            return _Answer(response.status_code, bytes(received), response.headers)


def _all_rejected(items: int) -> Counts:
    return Counts(received=items, rejected=items)
