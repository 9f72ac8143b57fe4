"""What schemathesis can't know of a document, as hooks (SCHEMATHESIS_HOOKS): times that are taken lie in a window, a body is in
the coding that its header names, archives belong to events that are stored, and how NDJSON is written."""

import gzip
import json
import sys
import uuid
import zlib
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import httpx
import schemathesis
from hypothesis import strategies as st

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ENCODERS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "zstd": zstd.compress, "deflate": zlib.compress}
ENVELOPES = ("events", "archives")
TIMES = ("event_time", "stored_at")
ARCHIVES_PATH = "archives:bulk"
REQUESTS_PATH = "requests:bulk"


def event(event_id: str) -> dict[str, Any]:
    """An event that is taken; as an archive, too, whose other fields are skipped."""
    names = ("user_id", "team", "service", "provider", "model")
    return {"event_id": event_id, "event_time": datetime.now(UTC).isoformat(), **dict.fromkeys(names, "any")}


lines = st.lists(
    st.builds(lambda event_id, more: {**more, **event(str(event_id))}, st.uuids(), st.dictionaries(st.text(), st.integers())),
    min_size=1,
    max_size=3,
).map(lambda items: "".join(json.dumps(item) + "\n" for item in items).encode())
schemathesis.openapi.media_type("application/x-ndjson", lines)


@schemathesis.serializer("application/json")
def in_json(context: Any, value: Any) -> bytes:
    return coded(context, json.dumps(value).encode())


@schemathesis.serializer("application/x-ndjson")
def in_ndjson(context: Any, value: Any) -> bytes:
    return coded(context, value if isinstance(value, bytes) else str(value).encode("utf-8", "replace"))


def coded(context: Any, body: bytes) -> bytes:
    """The body in the coding that the case's header names; a coding that there is not changes nothing."""
    encode = ENCODERS.get((context.case.headers or {}).get("Content-Encoding", ""))
    return body if encode is None else encode(body)


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """Moves good times to now, and stores the events of archives."""
    items = items_of(case.body)
    for item in items:
        for name in TIMES:
            if name in item and is_time(item[name]):
                item[name] = datetime.now(UTC).isoformat()
    if case.path.endswith(ARCHIVES_PATH):
        events = [event(item["event_id"]) for item in items if is_uuid(item.get("event_id"))]
        address = f"{case.operation.base_url.rstrip('/')}{case.path.replace(ARCHIVES_PATH, REQUESTS_PATH)}"
        if events:
            httpx.post(address, json=events).raise_for_status()


def items_of(body: Any) -> list[dict[str, Any]]:
    """The objects among the items of a body; of NDJSON none, for it is written already."""
    if isinstance(body, dict):
        enveloped = [body[name] for name in ENVELOPES if isinstance(body.get(name), list)]
        body = enveloped[0] if enveloped else [body]
    return [item for item in body if isinstance(item, dict)] if isinstance(body, list) else []


def is_time(value: Any) -> bool:
    """Whether it is a time with an offset, whenever that is."""
    try:
        return datetime.fromisoformat(value).tzinfo is not None
    except (TypeError, ValueError):
        return False


def is_uuid(value: Any) -> bool:
    try:
        return str(uuid.UUID(value)) == value.lower()
    except (TypeError, ValueError, AttributeError):
        return False
