"""Usage events out of a body, for databases that want them in a form of their own."""

import msgspec

from ingest.events import NO_JSON, UsageEvent

_decoder = msgspec.json.Decoder(list[UsageEvent])


def decode(text: bytes) -> list[UsageEvent]:
    """The events of a JSON array. Raises msgspec.DecodeError."""
    return _decoder.decode(text)


def extra_text(event: UsageEvent) -> str | None:
    """`extra` as JSON text; None where it is absent or null."""
    if event.extra is NO_JSON or bytes(event.extra) == b"null":
        return None
    return bytes(event.extra).decode()
