"""The body of a request: inflated as it arrives, and cut off at the first byte past a limit.

Compressed bytes are not kept: each chunk is inflated and forgotten, so a body is never held in both forms.
"""

import asyncio
import time
from contextlib import suppress

from msgspec import Struct
from starlette.requests import Request

from ingest import errors
from ingest.flow.admission import Reservation
from ingest.web.inflate import Identity, inflater

# After a refusal the client may still be sending. Closing at once would reset the connection, and many clients would never
# see the answer; so what still comes is read and thrown away for a while (nginx calls it lingering_close).
LINGER_SECONDS = 2.0

# A client that is slower than that on the whole, BODY_TIMEOUT_SECONDS aside, is not waited for: a byte now and then would
# keep its connection for ever (Apache's mod_reqtimeout has MinRate, Kestrel MinRequestBodyDataRate).
BYTES_PER_SECOND_MIN = 1024

# Inflating is quick and blocks the event loop: after so many bytes others get their turn.
YIELD_BYTES = 1024 * 1024


# Enough for any size there is; int() itself refuses very many digits.
_LENGTH_DIGITS = 19


class BodyLimits(Struct, frozen=True):
    """How much of a body is taken, and how slowly it may come."""

    compressed_bytes_max: int
    """MAX_GZIP_SIZE: as sent, where a Content-Encoding is."""
    body_bytes_max: int
    """MAX_BODY_SIZE: inflated."""
    timeout_seconds: float
    """BODY_TIMEOUT_SECONDS: between two chunks; and all in all, with a second more for each BYTES_PER_SECOND_MIN."""


async def read(request: Request, limits: BodyLimits, reservation: Reservation) -> bytearray:
    """The inflated body. Its bytes are counted in `reservation` as they come.

    Raises errors.EncodingUnsupported, errors.LimitExceeded, errors.BodyTimeout, errors.BodyUnreadable, errors.QueueFull, or
    errors.ClientGone.
    """
    inflating = inflater(",".join(request.headers.getlist("content-encoding")))
    is_plain = isinstance(inflating, Identity)
    wire_name, wire_max = (
        ("MAX_BODY_SIZE", limits.body_bytes_max) if is_plain else ("MAX_GZIP_SIZE", limits.compressed_bytes_max)
    )
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:_LENGTH_DIGITS]) > wire_max:
        raise errors.LimitExceeded(wire_name, wire_max, int(announced[:_LENGTH_DIGITS]), "bytes")

    body = bytearray()
    wire_bytes = 0
    yield_at = YIELD_BYTES
    while not is_whole(request):
        allowed_seconds = limits.timeout_seconds + wire_bytes / BYTES_PER_SECOND_MIN
        spare_seconds = allowed_seconds - reservation.waited_seconds(time.monotonic())
        chunk = await _next_chunk(request, limits.timeout_seconds, spare_seconds, reservation)
        wire_bytes += len(chunk)
        if wire_bytes > wire_max:
            raise errors.LimitExceeded(wire_name, wire_max, wire_bytes, "bytes")
        for piece in inflating.feed(chunk):
            if len(body) + len(piece) > limits.body_bytes_max:
                raise errors.LimitExceeded("MAX_BODY_SIZE", limits.body_bytes_max, len(body) + len(piece), "bytes")
            reservation.grow(len(piece))
            body += piece
            if not piece or wire_bytes + len(body) >= yield_at:  # without a piece, it was work all the same
                yield_at = wire_bytes + len(body) + YIELD_BYTES
                await asyncio.sleep(0)
    inflating.finish()
    return body


async def _next_chunk(request: Request, stall_seconds: float, spare_seconds: float, reservation: Reservation) -> bytes:
    try:
        async with asyncio.timeout(min(stall_seconds, spare_seconds)) as timeout:
            reservation.begin_waiting(lambda: timeout.reschedule(0))
            try:
                chunk = await _receive(request)
            finally:
                reservation.end_waiting()
    except TimeoutError:
        reservation.check_kept()
        if spare_seconds < stall_seconds:
            raise errors.BodyTimeout(
                f"The body came more slowly than {BYTES_PER_SECOND_MIN} bytes a second, {stall_seconds:g} s aside."
            ) from None
        raise errors.BodyTimeout(f"Nothing more of the body came for {stall_seconds:g} s.") from None
    reservation.check_kept()
    return chunk


async def _receive(request: Request) -> bytes:
    message = await request.receive()
    if message["type"] == "http.disconnect":
        raise errors.ClientGone("The client hung up before its body was whole.")
    request.state.body_is_whole = not message.get("more_body", False)
    chunk: bytes = message.get("body", b"")
    request.state.body_bytes = received_bytes(request) + len(chunk)
    return chunk


def is_whole(request: Request) -> bool:
    """Whether all of the body was read."""
    return getattr(request.state, "body_is_whole", False)


def received_bytes(request: Request) -> int:
    """How much of the body came so far, as it was sent."""
    return getattr(request.state, "body_bytes", 0)


async def linger(request: Request) -> None:
    """Throws away what the client still sends, until it is done, gone, or LINGER_SECONDS are over."""
    with suppress(TimeoutError, errors.ClientGone):
        async with asyncio.timeout(LINGER_SECONDS):
            while not is_whole(request):
                await _receive(request)
