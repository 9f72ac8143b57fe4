"""The operations that tell what the service is and how it fares."""

from collections.abc import Mapping
from http import HTTPStatus

from ingest import errors, metrics
from ingest.web import monitoring, request_ids
from ingest.web.openapi.responses import refusals, refused
from ingest.web.openapi.schemas import Json
from ingest.web.openapi.security import NEEDS_A_KEY


def telling_operations(limits: Mapping[str, int], *, is_restricted: bool) -> dict[str, Json]:
    """Of `ingest.web.health`, by path."""
    operations = _open_operations()
    if is_restricted:
        kinds = (errors.KeyMissing, errors.KeyRefused, errors.RateExceeded, errors.DatabaseAway, errors.NotReady)
        met = refused(error for error in refusals(limits) if isinstance(error, kinds))
        for path in ("/", monitoring.PATH):
            operations[path]["responses"] |= {str(status.value): met[status] for status in sorted(met)}
            operations[path] |= NEEDS_A_KEY
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
        monitoring.PATH: _metrics(),
    }


def _metrics() -> Json:
    operation = _telling("metrics", "Metrics for Prometheus, of all workers", {HTTPStatus.OK: {"type": "string"}})
    media_types = {written.media_type.partition(";")[0] for written in metrics.Format}
    content = {media_type: {"schema": {"type": "string"}} for media_type in sorted(media_types)}
    operation["responses"]["200"]["content"] = content
    return operation


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
