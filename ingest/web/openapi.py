"""The OpenAPI document.

Where the program can be asked, nothing is written twice: schemas come from the structs, refusals and their headers from the
tree of errors by way of `problems`, and the answers in the examples are answers of `ingestion`. What is left to write is
what no type can say.
"""

import inspect
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from http import HTTPStatus
from typing import Any
from uuid import UUID

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType
from starlette.responses import Response

from ingest import __version__, errors
from ingest.events import USAGE_EVENTS, Stream
from ingest.verdict import ERRORS_LISTED_MAX, FORBIDDEN_TEAM, Outcome, Rejection, Verdict
from ingest.web import problems, request_ids
from ingest.web.decode import Media
from ingest.web.inflate import CODINGS
from ingest.web.ingestion import answer_to

Json = dict[str, Any]


def document(
    limits: Mapping[str, int], bulk_paths: Mapping[Stream, str], now: datetime, *, is_restricted: bool = False
) -> Json:
    """The OpenAPI 3.1 document.

    limits: the settings that bound a request, by the names of their variables; MAX_BULK_SIZE, MAX_GZIP_SIZE, MAX_BODY_SIZE
        and MAX_CLOCK_SKEW_SECONDS are needed.
    bulk_paths: where each stream is taken.
    is_restricted: whether an API key is required.
    now: in UTC. The events in the examples happened at the midnight before, so that they can be sent as they stand.
    """
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    return {
        "openapi": "3.1.0",
        "info": {"title": "llm-analytics-ingest", "version": __version__, "description": _INFO},
        "tags": [
            {"name": "ingest", "description": "Batches of the two streams."},
            {"name": "service", "description": "What this is and how it fares."},
        ],
        "paths": {
            **{
                path: {"post": _bulk_operation(stream, limits, midnight, is_restricted=is_restricted)}
                for stream, path in bulk_paths.items()
            },
            **{
                path: {"get": operation}
                for path, operation in _telling_operations(limits, is_restricted=is_restricted).items()
            },
        },
        "components": {
            "schemas": _schemas(limits, bulk_paths),
            "headers": _RESPONSE_HEADERS,
            "securitySchemes": _KEYS,
        },
    }


_KEYS: dict[str, Json] = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "`Authorization: Bearer KEY`"},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same key in a header of its own."},
}

_NEEDS_A_KEY: Json = {"security": [{scheme: []} for scheme in _KEYS]}

_INFO = """\
LLM usage events in bulk into PostgreSQL with TimescaleDB, each once, for good.

An answer is sent after the commit: what it calls accepted is on disk and visible. One bad item never costs the others, and
sending a batch again is always safe, whatever became of the first try."""


# --- schemas ----------------------------------------------------------------------------------------------------------


class Limit(Struct):
    """A limit by the name of its setting, and what that is set to."""

    name: str
    value: int


class Problem(Struct):
    """Why a request was refused: problem details (RFC 9457), as `problems.problem` writes them."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    limit: Limit | UnsetType = UNSET
    seen: int | UnsetType = UNSET


ITEM_CODES = {
    "invalid_json": "no JSON, or no object",
    "invalid_field": "`field` holds what it must not",
    "missing_field": "`field` is required",
    FORBIDDEN_TEAM: "the API key is not for the event's team",
    "too_old": "the time is before what is kept",
    "in_future": "the time is too far ahead",
    Outcome.CONFLICT.value: "this `event_id` is stored already, with other content; the first one stays",
    Outcome.UNKNOWN_EVENT.value: "the archive's usage event is not stored; worth sending again later",
    Outcome.UNSTORABLE.value: "the database refused this very item",
}
"""The codes that an item in `errors` may have, and what they mean."""

# By component and property, "" for the component itself. The names in braces are settings.
_DESCRIPTIONS: dict[str, dict[str, str]] = {
    "UsageEvent": {
        "": "One LLM call. A field that is not listed here is kept: it moves into `extra` under its own name. An integer has "
        "neither fraction nor exponent: 200.0 is no status code.",
        "event_id": "The identity of the event, for good. UUIDv7 is the fastest and cheapest to store; any version is taken.",
        "event_time": "Not older than what is kept, not more than {MAX_CLOCK_SKEW_SECONDS} s ahead.",
        "extra": "Whatever else is to be kept.",
    },
    "MessageArchive": {
        "": "The full prompt and response of a call. Fields that are not listed here are skipped.",
        "event_id": "A usage event that is stored.",
        "stored_at": "The time of storing, if absent.",
    },
    "Verdict": {
        "": "accepted + duplicates + conflicts + rejected = received, always.",
        "duplicates": "Stored already, or earlier in the batch, with the same content.",
        "conflicts": "Stored already, or earlier in the batch, with other content. The first one stays.",
        "sanitized": "Accepted with U+FFFD in place of text that PostgreSQL can't hold.",
        "errors": f"The first {ERRORS_LISTED_MAX} rejections and conflicts, by index.",
        "errors_truncated": "Whether there were more.",
    },
    "Rejection": {
        "": "Why one item was not stored.",
        "index": "The item's place in the request, from 0.",
        "code": "\n".join(f"- `{code}`: {meaning}" for code, meaning in ITEM_CODES.items()),
    },
    "Problem": {
        "": "Why a request was refused (RFC 9457).",
        "code": "A stable name that a program may compare.",
        "seen": "How much came before we stopped looking.",
    },
}


# Dimensions with U+0000 are refused; in other text it is replaced. (Half a surrogate pair is no text for a JSON Schema.)
_WITHOUT_U0000 = r"^[^\u0000]*$"


def _schemas(limits: Mapping[str, int], streams: Mapping[Stream, str]) -> dict[str, Json]:
    """The components, made from the structs."""
    structs = [*(_on_wire(stream.item) for stream in streams), Verdict, Rejection, Problem]
    _, schemas = msgspec.json.schema_components(structs, ref_template="#/components/schemas/{name}")
    for component, descriptions in _DESCRIPTIONS.items():
        for name, description in descriptions.items():
            schema = schemas[component]["properties"][name] if name else schemas[component]
            schema["description"] = description.format_map(limits)
    for stream in streams:
        for name in stream.dimensions:
            schemas[stream.item.__name__]["properties"][name]["pattern"] = _WITHOUT_U0000
    schemas["BatchRejected"] = {
        "description": "A problem and a verdict in one: nothing of the batch is stored.",
        "allOf": [_schema("Problem"), _schema("Verdict")],
    }
    return schemas


def _on_wire(item: type[Struct]) -> type[Struct]:
    """The struct of an item as clients see it: Raw is an object or null, and fields that it doesn't have are no fault.

    (msgspec can describe neither a Raw that has a default nor what it holds.)
    """
    fields: list[tuple[str, Any] | tuple[str, Any, Any]] = []
    for field in msgspec.structs.fields(item):
        if field.type is Raw:
            fields.append((field.encode_name, dict[str, Any] | None, None))
        elif field.required:
            fields.append((field.encode_name, field.type))
        else:
            fields.append((field.encode_name, field.type, field.default))
    return msgspec.defstruct(item.__name__, fields, kw_only=True)


def _schema(component: str) -> Json:
    return {"$ref": f"#/components/schemas/{component}"}


# --- requests ---------------------------------------------------------------------------------------------------------


def _bulk_operation(stream: Stream, limits: Mapping[str, int], midnight: datetime, *, is_restricted: bool) -> Json:
    title = stream.name.replace("_", " ")
    first = "" if stream is USAGE_EVENTS else " The usage event of each must be stored before."
    return {
        "tags": ["ingest"],
        "operationId": f"ingest_{stream.name}",
        "summary": f"Store {title}",
        "description": f"Takes a batch of {title} and answers after the commit.{first}",
        "parameters": _REQUEST_HEADERS,
        "requestBody": {
            "required": True,
            "description": _REQUEST_BODY.format_map(limits),
            "content": _request_content(stream, limits, _example_items(stream, midnight)),
        },
        "responses": _bulk_responses(limits, is_restricted=is_restricted),
        **(_NEEDS_A_KEY if is_restricted else {}),
    }


def _request_content(stream: Stream, limits: Mapping[str, int], items: list[Json]) -> Json:
    item = _schema(stream.item.__name__)
    array = {"type": "array", "items": item, "maxItems": limits["MAX_BULK_SIZE"]}
    envelope = {"type": "object", "properties": {stream.envelope: array}, "required": [stream.envelope]}
    lines = "".join(f"{msgspec.json.encode(one).decode()}\n" for one in items)
    return {
        Media.JSON.value: {
            "schema": {"anyOf": [array, envelope, item]},
            "examples": {
                "array": {"summary": "An array of items", "value": items},
                "envelope": {
                    "summary": f"An object with the array under `{stream.envelope}`",
                    "value": {stream.envelope: items},
                },
                "item": {"summary": "One item", "value": items[0]},
            },
        },
        Media.NDJSON.value: {
            "schema": {"type": "string", "description": f"One {stream.item.__name__} a line; blank lines are skipped."},
            "examples": {"lines": {"summary": "One item a line", "value": lines}},
        },
    }


_REQUEST_BODY = "At most {MAX_BULK_SIZE} items; at most {MAX_GZIP_SIZE} bytes compressed and {MAX_BODY_SIZE} bytes in full."

_REQUEST_HEADERS: list[Json] = [
    {
        "name": "Content-Encoding",
        "in": "header",
        "description": "How the body is compressed. (Browsers don't compress it: leave this empty when you try it out here.)",
        "schema": {"type": "string", "enum": [*CODINGS, ""]},
    },
    {
        "name": "Prefer",
        "in": "header",
        "description": "`handling=strict` (RFC 7240): one rejected item rejects all, and nothing is stored.",
        "schema": {"type": "string", "enum": ["handling=strict", "handling=lenient"]},
    },
    {
        "name": request_ids.HEADER,
        "in": "header",
        "description": "An id for this request, for the answer and the log. Without one, or with a strange one, we make it.",
        "schema": {"type": "string"},
    },
]


def _example_items(stream: Stream, midnight: datetime) -> list[Json]:
    """Two items. They are the same all day long, so that sending them again shows what a duplicate is.

    The archives belong to the usage events.
    """
    event_ids = [str(_uuid7(midnight, random)) for random in (1, 2)]
    caller = {"user_id": "ada", "service": "chat"}
    if stream is not USAGE_EVENTS:
        texts = [("What is a ledger?", "A book of accounts."), ("And a claim?", None)]
        return [
            {"event_id": event_id, **caller, "prompt_full": prompt, "response_full": response}
            for event_id, (prompt, response) in zip(event_ids, texts, strict=True)
        ]
    call = {
        "event_time": f"{midnight:%Y-%m-%dT%H:%M:%SZ}",
        **caller,
        "team": "search",
        "provider": "openai",
        "model": "gpt-4o",
    }
    outcomes: list[Json] = [
        {"total_tokens": 1234, "latency_ms": 870, "status_code": 200, "extra": {"temperature": 0.2}},
        {"total_tokens": 0, "latency_ms": 41, "status_code": 429, "error_type": "rate_limit_exceeded"},
    ]
    return [{"event_id": event_id, **call, **outcome} for event_id, outcome in zip(event_ids, outcomes, strict=True)]


def _uuid7(time: datetime, random: int) -> UUID:
    """RFC 9562, section 5.7, with `random` in the place of the random bits."""
    return UUID(int=int(time.timestamp() * 1000) << 80 | 0x7 << 76 | 0b10 << 62 | random)


# --- responses --------------------------------------------------------------------------------------------------------

_COUNT: Json = {"type": "integer", "minimum": 0}

_RESPONSE_HEADERS: dict[str, Json] = {
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


def _bulk_responses(limits: Mapping[str, int], *, is_restricted: bool) -> Json:
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
    met = [error for error in _refusals(limits) if is_restricted or not isinstance(error, errors.AccessDenied)]
    responses |= _refused(met)
    return {str(status.value): responses[status] for status in sorted(responses)}


def _refused(met: Iterable[errors.IngestError]) -> dict[HTTPStatus, Json]:
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
            for name in _RESPONSE_HEADERS
            if name == request_ids.HEADER or any(name in answer.headers for answer in answers.values())
        },
        "content": {
            media_type: {
                "schema": _schema(component),
                "examples": {name: {"value": msgspec.json.decode(answer.body)} for name, answer in answers.items()},
            }
        },
    }


def _refusals(limits: Mapping[str, int]) -> Iterator[errors.IngestError]:
    """One of each error that a bulk request may be answered with. Its message is the first sentence of its docstring."""
    for kind in _leaves(errors.IngestError):
        if kind is errors.ClientGone or (issubclass(kind, errors.SetupError) and kind not in _SETUP_ERRORS_MET):
            continue
        sentence = " ".join((inspect.getdoc(kind) or "").split()).partition(". ")[0].rstrip(".") + "."
        if issubclass(kind, errors.LimitExceeded):
            items_max = limits["MAX_BULK_SIZE"]
            yield kind("MAX_BULK_SIZE", items_max, items_max + 1, "items")
        elif issubclass(kind, errors.RateExceeded):
            yield kind(sentence, 12)
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


# --- what only tells --------------------------------------------------------------------------------------------------


def _telling_operations(limits: Mapping[str, int], *, is_restricted: bool) -> dict[str, Json]:
    """Of `ingest.web.health`, by path."""
    operations = _open_operations()
    if is_restricted:
        kinds = (errors.KeyMissing, errors.KeyRefused, errors.RateExceeded, errors.DatabaseAway, errors.NotReady)
        met = _refused(error for error in _refusals(limits) if isinstance(error, kinds))
        operations["/"]["responses"] |= {str(status.value): met[status] for status in sorted(met)}
        operations["/"] |= _NEEDS_A_KEY
    return operations


def _open_operations() -> dict[str, Json]:
    text, flag, time = {"type": "string"}, {"type": "boolean"}, {"type": "string", "format": "date-time"}
    known = {"type": ["string", "null"]}
    database = _object(
        edition=known, server_version=known, timescaledb_version=known, cannot={"type": "array", "items": text}
    )
    return {
        "/": _telling(
            "about",
            "What this is",
            {
                HTTPStatus.OK: _object(
                    name=text,
                    version=text,
                    database=database,
                    limits={"type": "object", "additionalProperties": {"type": "integer"}},
                    links={"type": "object", "additionalProperties": text},
                )
            },
        ),
        "/healthz": _telling(
            "health",
            "Whether the database answers",
            dict.fromkeys(
                (HTTPStatus.OK, HTTPStatus.SERVICE_UNAVAILABLE),
                _object(status={"enum": ["healthy", "unhealthy"]}, database=flag, timestamp=time),
            ),
        ),
        "/livez": _telling("live", "Whether the process runs", {HTTPStatus.OK: _object(status={"const": "alive"})}),
        "/readyz": _telling(
            "ready",
            "Whether work is taken now",
            {
                HTTPStatus.OK: _object(status={"const": "ready"}),
                HTTPStatus.SERVICE_UNAVAILABLE: _object(status={"const": "not ready"}, reason=text),
            },
        ),
    }


def _telling(operation_id: str, summary: str, schemas: Mapping[HTTPStatus, Json]) -> Json:
    return {
        "tags": ["service"],
        "operationId": operation_id,
        "summary": summary,
        "responses": {
            str(status.value): {
                "description": status.phrase,
                "headers": {request_ids.HEADER: {"$ref": f"#/components/headers/{request_ids.HEADER}"}},
                "content": {"application/json": {"schema": schema}},
            }
            for status, schema in schemas.items()
        },
    }


def _object(**properties: Json) -> Json:
    return {"type": "object", "properties": properties, "required": list(properties)}
