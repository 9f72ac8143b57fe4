"""The operations that take batches: what a request may be, with examples."""

from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

import msgspec

from ingest.events import USAGE_EVENTS, Stream
from ingest.web import request_ids
from ingest.web.decode import Media
from ingest.web.inflate import CODINGS
from ingest.web.openapi.responses import bulk_responses
from ingest.web.openapi.schemas import Json, reference
from ingest.web.openapi.security import NEEDS_A_KEY


def bulk_operation(stream: Stream, limits: Mapping[str, int], midnight: datetime, *, is_restricted: bool) -> Json:
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
        "responses": bulk_responses(limits, is_restricted=is_restricted),
        **(NEEDS_A_KEY if is_restricted else {}),
    }


def _request_content(stream: Stream, limits: Mapping[str, int], items: list[Json]) -> Json:
    item = reference(stream.item.__name__)
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
