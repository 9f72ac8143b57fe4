"""What a batch is answered: every status with its headers, its schema and an example, which the program itself makes."""

import inspect
from collections.abc import Iterable, Iterator, Mapping
from http import HTTPStatus

import msgspec
from starlette.responses import Response

from ingest import errors
from ingest.verdict import Rejection, Verdict
from ingest.web import problems, request_ids
from ingest.web.ingestion import answer_to
from ingest.web.openapi.schemas import Json, reference

_COUNT: Json = {"type": "integer", "minimum": 0}

RESPONSE_HEADERS: dict[str, Json] = {
    request_ids.HEADER: {"description": "The request's id.", "required": True, "schema": {"type": "string"}},
    "X-Ingest-Accepted": {"description": "The verdict's `accepted`.", "schema": _COUNT},
    "X-Ingest-Duplicates": {"description": "The verdict's `duplicates`.", "schema": _COUNT},
    "X-Ingest-Conflicts": {"description": "The verdict's `conflicts`.", "schema": _COUNT},
    "X-Ingest-Rejected": {"description": "The verdict's `rejected`.", "schema": _COUNT},
    "Preference-Applied": {"description": "`handling=strict`, where it was asked for.", "schema": {"type": "string"}},
    "Retry-After": {"description": "Seconds after which to send the same request again.", "schema": _COUNT},
    "WWW-Authenticate": {"description": "How to send a key (RFC 6750).", "schema": {"type": "string"}},
    "Accept": {"description": "The media types that are taken.", "schema": {"type": "string"}},
    "Accept-Encoding": {"description": "The content codings that are taken.", "schema": {"type": "string"}},
}

# The only ones of their kind that a service may meet after it has started.
_SETUP_ERRORS_MET = {errors.DatabaseRefused, errors.PoolerUnsupported}


def bulk_responses(limits: Mapping[str, int], *, is_restricted: bool) -> Json:
    responses = {
        HTTPStatus.OK: _response(
            "Every item has its verdict.",
            "Verdict",
            {
                "one item rejected": answer_to(_example_verdict(accepted=997, duplicates=2, rejected=1), strict=False),
                "handling=strict": answer_to(_example_verdict(accepted=998, duplicates=2, rejected=0), strict=True),
            },
        ),
        HTTPStatus.UNPROCESSABLE_ENTITY: _response(
            "Every item was rejected, or one was and the request asked for `handling=strict`. Nothing is stored.",
            "BatchRejected",
            {"handling=strict": answer_to(_example_verdict(accepted=0, duplicates=0, rejected=1000), strict=True)},
        ),
    }
    met = [error for error in refusals(limits) if is_restricted or not isinstance(error, errors.AccessDenied)]
    responses |= refused(met)
    return {str(status.value): responses[status] for status in sorted(responses)}


def refused(met: Iterable[errors.IngestError]) -> dict[HTTPStatus, Json]:
    """The answers to these errors, and to a mistake of ours, by status."""
    refusals: dict[HTTPStatus, dict[str, Response]] = {
        HTTPStatus.INTERNAL_SERVER_ERROR: {errors.IngestError.code: problems.internal_error()}
    }
    for error in met:
        refusals.setdefault(problems.status_of(error), {})[error.code] = problems.problem_of(error)
    return {
        status: _response(f"{status.phrase}: {', '.join(f'`{code}`' for code in answers)}", "Problem", answers)
        for status, answers in refusals.items()
    }


def _response(description: str, component: str, answers: Mapping[str, Response]) -> Json:
    """Answers with one status and media type: the headers of all, and each body as an example under its name."""
    media_type = next(iter(answers.values())).headers["content-type"]
    return {
        "description": description,
        "headers": {
            name: {"$ref": f"#/components/headers/{name}"}
            for name in RESPONSE_HEADERS
            if name == request_ids.HEADER or any(name in answer.headers for answer in answers.values())
        },
        "content": {
            media_type: {
                "schema": reference(component),
                "examples": {name: {"value": msgspec.json.decode(answer.body)} for name, answer in answers.items()},
            }
        },
    }


def refusals(limits: Mapping[str, int]) -> Iterator[errors.IngestError]:
    """One of each error that a bulk request may be answered with. Its message is the first sentence of its docstring."""
    for kind in _leaves(errors.IngestError):
        if kind is errors.ClientGone or (issubclass(kind, errors.SetupError) and kind not in _SETUP_ERRORS_MET):
            continue
        sentence = " ".join((inspect.getdoc(kind) or "").split()).partition(". ")[0].rstrip(".") + "."
        if issubclass(kind, errors.LimitExceeded):
            items_max = limits["MAX_BULK_SIZE"]
            yield kind("MAX_BULK_SIZE", items_max, items_max + 1, "items")
        elif issubclass(kind, errors.RateExceeded):
            yield kind(sentence, "", 12)
        else:
            yield kind(sentence)


def _leaves(kind: type[errors.IngestError]) -> Iterator[type[errors.IngestError]]:
    children = kind.__subclasses__()
    if not children:
        yield kind
    for child in children:
        yield from _leaves(child)


def _example_verdict(*, accepted: int, duplicates: int, rejected: int) -> Verdict:
    """If items were rejected, the 18th of them, which has no `event_id`, was the cause."""
    cause = Rejection(
        index=17,
        event_id=None,
        code="missing_field",
        field="event_id",
        message="Required field `event_id` is missing.",
    )
    return Verdict(
        received=accepted + duplicates + rejected,
        accepted=accepted,
        duplicates=duplicates,
        conflicts=0,
        rejected=rejected,
        sanitized=0,
        errors=[cause] if rejected else [],
        errors_truncated=False,
    )
