"""Items for tests: small ones made by hand, and realistic ones from the benchmarks' generator."""

import uuid
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import Raw

from ingest.events import MessageArchive, UsageEvent


def wire_event(**fields: Any) -> dict[str, Any]:
    """A usage event as a client writes it; a field given as `...` is left out."""
    event = {
        "event_id": str(uuid.uuid4()),
        "event_time": datetime.now(UTC).isoformat(),
        "user_id": "ada",
        "team": "search",
        "service": "chat",
        "provider": "openai",
        "model": "gpt-4o",
        "total_tokens": 1234,
        **fields,
    }
    return {name: value for name, value in event.items() if value is not ...}


def wire_archive(event_id: object, **fields: Any) -> dict[str, Any]:
    """A message archive as a client writes it; a field given as `...` is left out."""
    archive = {
        "event_id": str(event_id),
        "user_id": "ada",
        "service": "chat",
        "prompt_full": "What is a ledger?",
        "response_full": "A book of accounts.",
        **fields,
    }
    return {name: value for name, value in archive.items() if value is not ...}


def event(**fields: Any) -> UsageEvent:
    """A usage event as the store takes it; `extra` is given as a dict."""
    if "extra" in fields:
        fields["extra"] = Raw(msgspec.json.encode(fields["extra"]))
    defaults: dict[str, Any] = {
        "event_id": uuid.uuid4(),
        "event_time": datetime.now(UTC),
        "user_id": "ada",
        "team": "search",
        "service": "chat",
        "provider": "openai",
        "model": "gpt-4o",
        "total_tokens": 1234,
    }
    return UsageEvent(**{**defaults, **fields})


def archive(event_id: uuid.UUID, **fields: Any) -> MessageArchive:
    """A message archive as the store takes it."""
    defaults: dict[str, Any] = {"user_id": "ada", "service": "chat", "prompt_full": "What?", "response_full": "That."}
    return MessageArchive(event_id=event_id, **{**defaults, **fields})
