"""The two bulk endpoints: a request's bytes to a batch, the batch's verdict to an answer."""

import asyncio
from collections.abc import Callable
from datetime import datetime
from http import HTTPStatus

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ingest import errors
from ingest.events import Stream, Window
from ingest.flow import api_keys
from ingest.flow.intake import Intake
from ingest.verdict import Verdict
from ingest.web import body, headers, problems
from ingest.web.access import Access
from ingest.web.body import BodyLimits
from ingest.web.decode import prepare
from ingest.web.decoding import Decoding


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
        prepare(stream, limits.items_max)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            answer = await self._answer(request)
        except errors.IngestError as error:
            refusal = problems.problem_of(error)
        except asyncio.CancelledError:  # SHUTDOWN_SECONDS are over, and the server waits no longer
            away = errors.Draining("The service stops. Send this batch again: whatever became of it, it is stored once.")
            await problems.problem_of(away)(scope, receive, send)
            return
        else:
            await answer(scope, receive, send)
            return
        # Not where the error is still at hand, and with it the frames that it came from, and the body in them.
        await _refuse(request, refusal, send)

    async def _answer(self, request: Request) -> Response:
        key = await self._access.check(request, api_keys.Scope.INGEST)
        teams = key.teams if key else None
        media = headers.media_of(request)
        strict = headers.is_strict(request)
        with self._intake.admit() as reservation:
            inflated = await body.read(request, self._limits.body, reservation)
            await self._access.confirm(key)
            window = Window.around(
                self._now(),
                self._limits.event_age_days_max,
                self._limits.clock_skew_seconds_max,
                self._intake.events_from(),
            )
            batch = await self._decoding.read(self._stream, inflated, media, window, strict=strict, teams=teams)
            del inflated  # the rows are all that is kept while the batch waits
            return answer_to(await self._intake.take(batch, teams), strict=strict)


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
        "batch_rejected",
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
