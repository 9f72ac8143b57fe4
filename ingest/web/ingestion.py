"""The two bulk endpoints: a request's bytes to a batch, the batch's verdict to an answer."""

import asyncio
import time
from collections.abc import Callable
from datetime import datetime
from http import HTTPStatus

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ingest import errors, metrics
from ingest.events import Stream, Window
from ingest.flow import api_keys
from ingest.flow.intake import Intake
from ingest.verdict import Verdict
from ingest.web import body, headers, problems, request_log
from ingest.web.access import Access
from ingest.web.body import BodyLimits
from ingest.web.decode import prepare
from ingest.web.decoding import Decoding
from ingest.web.request_log import Entry

BATCH_REJECTED = "batch_rejected"
"""The code of an answer of 422."""


class BatchLimits(Struct, frozen=True):
    """What one batch may be."""

    body: BodyLimits
    items_max: int
    event_age_days_max: int
    clock_skew_seconds_max: int


class BulkEndpoint:
    """Takes batches of one stream. An ASGI application, to be mounted as a route.

    now: tells the time, aware.
    """

    def __init__(
        self,
        stream: Stream,
        intake: Intake,
        decoding: Decoding,
        limits: BatchLimits,
        access: Access,
        now: Callable[[], datetime],
    ) -> None:
        self._stream = stream
        self._access = access
        self._intake = intake
        self._decoding = decoding
        self._limits = limits
        self._now = now
        self._counts = _Counts(stream)
        prepare(stream, limits.items_max)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        entry = request_log.entry_of(request)
        try:
            answer = await self._answer(request, entry)
        except errors.IngestError as error:
            refusal = problems.problem_of(error)
            entry.note(error)
        except asyncio.CancelledError:  # SHUTDOWN_SECONDS are over, and the server waits no longer
            away = errors.Draining("The service stops. Send this batch again: whatever became of it, it is stored once.")
            entry.code = away.code
            await problems.problem_of(away)(scope, receive, send)
            return
        else:
            await answer(scope, receive, send)
            return
        # Not where the error is still at hand, and with it the frames that it came from, and the body in them.
        await _refuse(request, refusal, send)

    async def _answer(self, request: Request, entry: Entry) -> Response:
        key = await self._access.check(request, api_keys.Scope.INGEST)
        teams = key.teams if key else None
        media = headers.media_of(request)
        strict = headers.is_strict(request)
        with self._intake.admit() as reservation:
            begun = time.perf_counter()
            try:
                inflated = await body.read(request, self._limits.body, reservation)
            finally:
                entry.compressed_bytes = body.received_bytes(request)
                self._counts.compressed_bytes.inc(entry.compressed_bytes)
            entry.decompressed_bytes = len(inflated)
            received = time.perf_counter()
            await self._access.confirm(key)
            window = Window.around(
                self._now(),
                self._limits.event_age_days_max,
                self._limits.clock_skew_seconds_max,
                self._intake.events_from(),
            )
            batch = await self._decoding.read(self._stream, inflated, media, window, strict=strict, teams=teams)
            del inflated  # the rows are all that is kept while the batch waits
            decoded = time.perf_counter()
            verdict = await self._intake.take(batch, teams)
            entry.receive_ms, entry.decode_ms, entry.store_ms = (
                round(seconds * 1000, 1) for seconds in (received - begun, decoded - received, time.perf_counter() - decoded)
            )
            self._counts.count(entry, verdict)
            self._counts.receive_seconds.observe(received - begun)
            self._counts.decode_seconds.observe(decoded - received)
            answer = answer_to(verdict, strict=strict)
            entry.code = BATCH_REJECTED if verdict.all_rejected else None
            return answer


class _Counts:
    """The metrics of one stream's batches, at hand."""

    def __init__(self, stream: Stream) -> None:
        self.compressed_bytes = metrics.COMPRESSED_BYTES.labels(stream.name)
        self.receive_seconds = metrics.STAGE_DURATION.labels(stream.name, "receive")
        self.decode_seconds = metrics.STAGE_DURATION.labels(stream.name, "decode")
        self._decompressed_bytes = metrics.DECOMPRESSED_BYTES.labels(stream.name)
        self._batch_events = metrics.BATCH_EVENTS.labels(stream.name)
        self._sanitized = metrics.SANITIZED_EVENTS.labels(stream.name)
        self._accepted, self._duplicates, self._conflicts, self._rejected = (
            metrics.EVENTS.labels(stream.name, verdict) for verdict in ("accepted", "duplicate", "conflict", "rejected")
        )

    def count(self, entry: Entry, verdict: Verdict) -> None:
        """Counts a batch that was processed, and has the log tell of it."""
        entry.verdict = verdict
        self._decompressed_bytes.inc(entry.decompressed_bytes or 0)
        self._batch_events.observe(verdict.received)
        for counter, events in (
            (self._accepted, verdict.accepted),
            (self._duplicates, verdict.duplicates),
            (self._conflicts, verdict.conflicts),
            (self._rejected, verdict.rejected),
            (self._sanitized, verdict.sanitized),
        ):
            if events:
                counter.inc(events)


def answer_to(verdict: Verdict, *, strict: bool) -> Response:
    """200 with the verdict; 422 with the same members where nothing is stored because of what the items are."""
    counts = {
        "X-Ingest-Accepted": str(verdict.accepted),
        "X-Ingest-Duplicates": str(verdict.duplicates),
        "X-Ingest-Conflicts": str(verdict.conflicts),
        "X-Ingest-Rejected": str(verdict.rejected),
    }
    if strict:
        counts["Preference-Applied"] = "handling=strict"
    if not verdict.all_rejected:
        return Response(msgspec.json.encode(verdict), HTTPStatus.OK.value, counts, "application/json")
    return problems.problem(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        BATCH_REJECTED,
        "An item was rejected and the request asked for all or nothing; nothing is stored."
        if strict
        else "Every item was rejected; nothing is stored.",
        headers=counts,
        **msgspec.structs.asdict(verdict),
    )


async def _refuse(request: Request, answer: Response, send: Send) -> None:
    """Answers. A client that may still be sending is read from for a while, and its connection is closed then."""
    if body.is_whole(request):
        await answer(request.scope, request.receive, send)
        return
    answer.headers["Connection"] = "close"
    await send({"type": "http.response.start", "status": answer.status_code, "headers": answer.raw_headers})
    await send({"type": "http.response.body", "body": answer.body, "more_body": True})
    await body.linger(request)
    await send({"type": "http.response.body", "body": b"", "more_body": False})
