"""What a request says about itself: its media type and its preferences."""

from urllib.request import parse_http_list

from starlette.requests import Request

from ingest import errors
from ingest.web.decode import Media


def media_of(request: Request) -> Media:
    """The media type of the body, parameters aside. Raises errors.TypeUnsupported."""
    essence = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        return Media(essence)
    except ValueError:
        raise errors.TypeUnsupported(
            f"Content-Type must be {Media.JSON.value} or {Media.NDJSON.value}, not {essence or 'missing'}."
        ) from None


def is_strict(request: Request) -> bool:
    """Whether the client asked for all or nothing: Prefer: handling=strict (RFC 7240, section 4.4).

    The first mention of `handling` counts (section 2).
    """
    for preference in parse_http_list(",".join(request.headers.getlist("prefer"))):
        name, _, value = preference.partition(";")[0].partition("=")
        if name.strip().lower() == "handling":
            return value.strip().strip('"').lower() == "strict"
    return False
