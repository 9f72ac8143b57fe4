"""The components of the document, made from the structs."""

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from ingest.events import Stream
from ingest.verdict import ERRORS_LISTED_MAX, FORBIDDEN_TEAM, Outcome, Rejection, Verdict

Json = dict[str, Any]


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


def schemas(limits: Mapping[str, int], streams: Mapping[Stream, str]) -> dict[str, Json]:
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
        "allOf": [reference("Problem"), reference("Verdict")],
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


def reference(component: str) -> Json:
    return {"$ref": f"#/components/schemas/{component}"}
