"""From an error to its answer: problem details for HTTP APIs (RFC 9457). The one table of codes and statuses."""

import math
import random
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.responses import Response

from ingest import errors
from ingest.web.inflate import CODINGS

MEDIA_TYPE = "application/problem+json"

# An OpenTelemetry exporter drops a batch whose Retry-After is past its deadline of 10 s. Spread, so that not all come back
# in the same second.
RETRY_AFTER_SECONDS = (1, 3)

STATUS: dict[type[errors.IngestError], HTTPStatus] = {
    errors.KeyMissing: HTTPStatus.UNAUTHORIZED,
    errors.KeyRefused: HTTPStatus.UNAUTHORIZED,
    errors.AccessDenied: HTTPStatus.FORBIDDEN,
    errors.RateExceeded: HTTPStatus.TOO_MANY_REQUESTS,
    errors.HeadUnreadable: HTTPStatus.BAD_REQUEST,
    errors.HeadTimeout: HTTPStatus.REQUEST_TIMEOUT,
    errors.HeadTooLarge: HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    errors.TargetTooLong: HTTPStatus.REQUEST_URI_TOO_LONG,
    errors.VersionUnsupported: HTTPStatus.HTTP_VERSION_NOT_SUPPORTED,
    errors.FeatureUnsupported: HTTPStatus.NOT_IMPLEMENTED,
    errors.BodyUnreadable: HTTPStatus.BAD_REQUEST,
    errors.BodyTimeout: HTTPStatus.REQUEST_TIMEOUT,
    errors.LimitExceeded: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    errors.EncodingUnsupported: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    errors.TypeUnsupported: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    errors.RequestRefused: HTTPStatus.BAD_REQUEST,
    errors.Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.SetupError: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.ClientGone: HTTPStatus.BAD_REQUEST,  # nobody reads it
    errors.IngestError: HTTPStatus.INTERNAL_SERVER_ERROR,
}

# Details that name hosts, users or files of the installation stay in its log.
_DETAILS_KEPT_BACK: dict[type[errors.IngestError], str] = {
    errors.DatabaseAway: "The database is not available. A batch can be sent again: whatever became of it, it is stored "
    "once.",
    errors.DatabaseBusy: "Another transaction of the database holds what this batch needs. Nothing of it is stored; send it "
    "again.",
    errors.NotReady: "The service is not ready yet. Nothing of this batch is stored; send it again.",
    errors.SetupError: "The service can't use its database as it is set up. Nothing of this batch is stored; send it again.",
}


def status_of(error: errors.IngestError) -> HTTPStatus:
    """The status for an error: of its class, or of the nearest one above it."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def problem(status: HTTPStatus, code: str, detail: str, *, headers: dict[str, str] | None = None, **more: Any) -> Response:
    """An answer of application/problem+json. `more` are members beside those of RFC 9457."""
    members = {
        "type": "about:blank",
        "title": status.phrase,
        "status": status.value,
        "detail": detail,
        "code": code,
        **more,
    }
    return Response(msgspec.json.encode(members), status.value, headers, MEDIA_TYPE)


def is_kept_back(error: errors.IngestError) -> bool:
    """Whether the answer says less than the error does, which then belongs into the log."""
    return isinstance(error, tuple(_DETAILS_KEPT_BACK))


def problem_of(error: errors.IngestError) -> Response:
    """The answer to a request that failed with this error."""
    kept_back = next((_DETAILS_KEPT_BACK[kind] for kind in type(error).__mro__ if kind in _DETAILS_KEPT_BACK), None)
    status = status_of(error)
    headers: dict[str, str] = {}
    more: dict[str, Any] = {}
    if status is HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = str(random.randint(*RETRY_AFTER_SECONDS))  # noqa: S311 - spreads, guards nothing
    if status is HTTPStatus.UNAUTHORIZED:  # RFC 6750, section 3
        headers["WWW-Authenticate"] = "Bearer" if isinstance(error, errors.KeyMissing) else 'Bearer error="invalid_token"'
    if isinstance(error, errors.RateExceeded):
        headers["Retry-After"] = str(math.ceil(error.wait_seconds))
    if isinstance(error, errors.EncodingUnsupported):
        headers["Accept-Encoding"] = ", ".join(CODINGS)
    if isinstance(error, errors.TypeUnsupported):
        headers["Accept"] = "application/json, application/x-ndjson"
    if isinstance(error, errors.LimitExceeded):
        more = {"limit": {"name": error.name, "value": error.limit}, "seen": error.seen}
    return problem(status, error.code, kept_back or str(error), headers=headers, **more)


def problem_of_routing(error: HTTPException) -> Response:
    """The answer to what Starlette itself refuses: no such path, no such method."""
    status = HTTPStatus(error.status_code)
    return problem(status, code_of_routing(error), f"{error.detail}.", headers=dict(error.headers or {}))


def code_of_routing(error: HTTPException) -> str:
    """The code of that answer."""
    return HTTPStatus(error.status_code).name.lower()


def internal_error() -> Response:
    """The answer to a mistake of ours. It shows no SQL, no path and no stack."""
    return problem(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        errors.IngestError.code,
        "Something went wrong on our side. It is safe to send this batch again.",
    )
