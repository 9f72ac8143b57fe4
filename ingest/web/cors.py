"""Which web pages of other origins may call us: none, unless an operator names their origins (the Fetch standard's CORS)."""

from collections.abc import Sequence

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from ingest.web import request_ids

MAX_AGE_SECONDS = 600


def middleware(origins: Sequence[str]) -> Middleware:
    """Lets pages of these origins (scheme, host and port; or `*`) send batches and read the answers."""
    return Middleware(
        CORSMiddleware,
        allow_origins=origins,
        allow_methods=["GET", "POST"],
        # A key is a header that the page itself sets; cookies, which browsers send by themselves, we have none.
        allow_headers=["Authorization", "X-API-Key", "Content-Type", "Content-Encoding", "Prefer", request_ids.HEADER],
        allow_credentials=False,
        expose_headers=[
            request_ids.HEADER,
            "X-Ingest-Accepted",
            "X-Ingest-Duplicates",
            "X-Ingest-Conflicts",
            "X-Ingest-Rejected",
            "Preference-Applied",
            "Retry-After",
        ],
        max_age=MAX_AGE_SECONDS,
    )
