"""The OpenAPI document.

Where the program can be asked, nothing is written twice: schemas come from the structs, refusals and their headers from the
tree of errors by way of `problems`, and the answers in the examples are answers of `ingestion`. What is left to write is
what no type can say.
"""

from collections.abc import Mapping
from datetime import datetime

from ingest import __version__
from ingest.events import Stream
from ingest.web.openapi.batches import bulk_operation
from ingest.web.openapi.responses import RESPONSE_HEADERS
from ingest.web.openapi.schemas import ITEM_CODES, Json, schemas
from ingest.web.openapi.security import KEYS
from ingest.web.openapi.service import telling_operations

__all__ = ["ITEM_CODES", "document"]


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
                path: {"post": bulk_operation(stream, limits, midnight, is_restricted=is_restricted)}
                for stream, path in bulk_paths.items()
            },
            **{
                path: {"get": operation}
                for path, operation in telling_operations(limits, is_restricted=is_restricted).items()
            },
        },
        "components": {
            "schemas": schemas(limits, bulk_paths),
            "headers": RESPONSE_HEADERS,
            "securitySchemes": KEYS,
        },
    }


_INFO = """\
LLM usage events in bulk into PostgreSQL with TimescaleDB, each once, for good.

An answer is sent after the commit: what it calls accepted is on disk and visible. One bad item never costs the others, and
sending a batch again is always safe, whatever became of the first try."""
