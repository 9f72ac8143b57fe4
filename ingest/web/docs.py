"""/openapi.json, and /docs, the page that shows it: Swagger UI from a package, without the internet."""

import base64
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import datetime
from functools import lru_cache
from mimetypes import guess_type
from pathlib import PurePosixPath

import msgspec
from openapi_ui_bundles import swagger_ui
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Route

from ingest.events import Stream
from ingest.web import openapi

DOCUMENT_PATH = "/openapi.json"
PAGE_PATH = "/docs"

# Of Swagger UI, only these: its own page would show another service's document, from the internet.
_PAGE_ASSETS = ("favicon-32x32.png", "swagger-ui.css", "swagger-ui-bundle.js")

# Addresses are relative, for a service that stands behind a prefix. The validator would send the document to swagger.io.
_PAGE_SCRIPT = """
SwaggerUIBundle({url: "openapi.json", dom_id: "#page", deepLinking: true, validatorUrl: null});
"""

_PAGE = f"""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>llm-analytics-ingest</title>
<link rel="icon" type="image/png" href="docs/favicon-32x32.png">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="page"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script>{_PAGE_SCRIPT}</script>
</body>
</html>
"""

# The browser itself keeps the page from loading anything from elsewhere. Swagger UI sets styles inline, and its own images
# are data: URLs.
_PAGE_POLICY = (
    "default-src 'self'; "
    f"script-src 'self' 'sha256-{base64.b64encode(hashlib.sha256(_PAGE_SCRIPT.encode()).digest()).decode()}'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data:"
)


ASSETS_SECONDS = 3600
"""How long a browser may keep them."""
PIECE_BYTES = 64 * 1024


def routes(
    limits: Mapping[str, int], bulk_paths: Mapping[Stream, str], now: Callable[[], datetime], *, is_restricted: bool
) -> list[Route]:
    """The document, the page, and what the page loads.

    limits, bulk_paths, is_restricted: as for `openapi.document`. now: tells the time, in UTC.
    """

    @lru_cache(maxsize=1)
    def document(midnight: datetime) -> bytes:
        """Made once a day, whose date its examples carry: it takes 3 ms, in which nobody else is served."""
        return msgspec.json.encode(openapi.document(limits, bulk_paths, midnight, is_restricted=is_restricted))

    async def described(_request: Request) -> Response:
        midnight = now().replace(hour=0, minute=0, second=0, microsecond=0)
        return Response(document(midnight), media_type="application/json")

    async def docs(_request: Request) -> Response:
        return HTMLResponse(_PAGE, headers={"Content-Security-Policy": _PAGE_POLICY})

    assets = {name: (swagger_ui.static_path / name).read_bytes() for name in _PAGE_ASSETS}

    async def asset(request: Request) -> Response:
        name = PurePosixPath(request.url.path).name
        # In pieces, so that who does not read holds one of them and not all; from memory, so that it holds no file open.
        return StreamingResponse(
            _in_pieces(assets[name]),
            media_type=guess_type(name)[0],
            headers={"Content-Length": str(len(assets[name])), "Cache-Control": f"max-age={ASSETS_SECONDS}"},
        )

    return [
        Route(DOCUMENT_PATH, described),
        Route(PAGE_PATH, docs),
        *(Route(f"{PAGE_PATH}/{name}", asset) for name in _PAGE_ASSETS),
    ]


async def _in_pieces(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), PIECE_BYTES):
        yield content[start : start + PIECE_BYTES]
