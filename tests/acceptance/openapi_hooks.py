"""What schemathesis can't know of a document, as hooks (SCHEMATHESIS_HOOKS): times that are taken lie in a window, a body is
in the coding that its header names, archives belong to events that are stored, and what NDJSON is."""

import json
import uuid
from datetime import UTC, datetime
from typing import Any

import httpx
import schemathesis

from tests.service import ARCHIVES, REQUESTS

CODINGS = ("gzip", "zstd", "deflate")
ENVELOPES = ("events", "archives")
TIMES = ("event_time", "stored_at")
NUMBERS = ("total_tokens", "latency_ms", "status_code")
"""JSON Schema takes 1.0 for an integer, too; the service doesn't, which the document says in words."""
NDJSON = "application/x-ndjson"

client = httpx.Client()


def event(event_id: str) -> dict[str, Any]:
    """An event that is taken; as an archive it is, too, for of that the other fields are skipped."""
    names = ("user_id", "team", "service", "provider", "model")
    return {"event_id": event_id, "event_time": datetime.now(UTC).isoformat(), **dict.fromkeys(names, "any")}


def lines(text: str) -> str:
    """As many items as the text has characters, one a line. The same text has the same items."""
    return "".join(json.dumps(event(str(uuid.uuid5(uuid.NAMESPACE_OID, text[:end])))) + "\r\n" for end in range(len(text)))


@schemathesis.serializer(NDJSON)
def in_ndjson(_context: Any, value: Any) -> bytes:
    return (value if isinstance(value, str) else json.dumps(value)).encode()


@schemathesis.hook
def before_call(_context: Any, case: Any, _kwargs: dict[str, Any]) -> None:
    """Makes lines of NDJSON's text, moves good times to now, stores the events of archives, and takes away the name of a
    coding that the body is not in."""
    if case.media_type == NDJSON and isinstance(case.body, str) and not items_of(case.body):
        case.body = lines(case.body)
    if case.headers and case.headers.get("Content-Encoding") in CODINGS:
        del case.headers["Content-Encoding"]
    items = items_of(case.body)
    for item in items:
        for name in TIMES:
            if name in item and is_time(item[name]):
                item[name] = datetime.now(UTC).isoformat()
        for name in NUMBERS:
            if isinstance(item.get(name), float) and item[name].is_integer():
                item[name] = int(item[name])
    if case.path == ARCHIVES:
        events = [event(item["event_id"]) for item in items if is_uuid(item.get("event_id"))]
        if 0 < len(events) < 100:
            client.post(f"{case.operation.base_url.rstrip('/')}{REQUESTS}", json=events).raise_for_status()


def items_of(body: Any) -> list[dict[str, Any]]:
    """The objects among the items of a body. (Of NDJSON they are not the body's own: to change them changes nothing.)"""
    if isinstance(body, str):
        body = [parsed(line) for line in body.splitlines()]
    if isinstance(body, dict):
        enveloped = [body[name] for name in ENVELOPES if isinstance(body.get(name), list)]
        body = enveloped[0] if enveloped else [body]
    return [item for item in body if isinstance(item, dict)] if isinstance(body, list) else []


def parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def is_time(value: Any) -> bool:
    """Whether it is a time with an offset, whenever that is."""
    try:
        return datetime.fromisoformat(value).tzinfo is not None
    except (TypeError, ValueError):
        return False


def is_uuid(value: Any) -> bool:
    try:
        return isinstance(value, str) and str(uuid.UUID(value)) == value.lower()
    except ValueError:
        return False
