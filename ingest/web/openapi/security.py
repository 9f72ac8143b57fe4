"""How a request shows its API key."""

from ingest.web.openapi.schemas import Json

KEYS: dict[str, Json] = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "`Authorization: Bearer KEY`"},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same key in a header of its own."},
}

NEEDS_A_KEY: Json = {"security": [{scheme: []} for scheme in KEYS]}
