"""From the bytes of a body to rows, without holding up the event loop: small bodies here, large ones in processes beside."""

import asyncio

from ingest.events import Stream, Window
from ingest.flow.batch import Batch, Encode
from ingest.web.decode import Decoded, Media, decode, decode_whole
from ingest.web.decoder_process import DecoderProcess

# In the event loop: a batch of 1000 usual events has 350 KB and takes 5 ms, of which encoding takes the half.
WHOLE_BYTES_MAX = 512 * 1024
# A body of that size that is nearly all `extra` takes up to 100 ms to look at and to encode.
EXTRA_BYTES_MAX = 128 * 1024
# The same batch, item by item because of one that is bad, takes 15 ms; what is made to be slow takes more.
ITEMS_BYTES_MAX = 64 * 1024
# In the process beside: what has more waits for others of its kind, each of which may take 8 s. What has less, 0.2 s.
MIDDLE_BYTES_MAX = 1024 * 1024
# What takes long enough that others have their turn first.
YIELD_BYTES = 32 * 1024


class Decoding:
    """Decodes and encodes bodies.

    encode: makes rows of items; encode_at: where that function is, as "module:name".
    """

    def __init__(self, encode: Encode, encode_at: str, *, items_max: int) -> None:
        self._encode = encode
        self._items_max = items_max
        self._middle = DecoderProcess(encode_at)
        self._large = DecoderProcess(encode_at)
        # One body after the other, and a turn of all else between them: 64 that were there at once, each of them quick,
        # kept a health check waiting for seconds.
        self._turn = asyncio.Lock()

    async def read(
        self,
        stream: Stream,
        body: bytes | bytearray,
        media: Media,
        window: Window,
        *,
        strict: bool = False,
        teams: frozenset[str] | None = None,
    ) -> Batch:
        """The batch in an inflated body (ingest.web.decode.decode), without usage events of other teams than these.

        Raises errors.BodyUnreadable, errors.LimitExceeded, errors.QueueFull, or errors.DecoderGone.
        """
        if len(body) <= YIELD_BYTES:
            small = decode(stream, body, media, window, items_max=self._items_max, strict=strict)
            return small.of_teams(teams).encoded(self._encode)
        if len(body) <= WHOLE_BYTES_MAX:
            async with self._turn:
                await asyncio.sleep(0)
                if len(body) <= ITEMS_BYTES_MAX:
                    decoded: Decoded | None = decode(stream, body, media, window, items_max=self._items_max, strict=strict)
                else:
                    decoded = decode_whole(
                        *(stream, body, media, window),
                        items_max=self._items_max,
                        strict=strict,
                        extra_bytes_max=EXTRA_BYTES_MAX,
                    )
            if decoded is not None:
                async with self._turn:
                    await asyncio.sleep(0)
                    return decoded.of_teams(teams).encoded(self._encode)
        process = self._middle if len(body) <= MIDDLE_BYTES_MAX else self._large
        return await process.decode(stream, body, media, window, items_max=self._items_max, strict=strict, teams=teams)

    async def close(self) -> None:
        """Ends the processes for large bodies."""
        await asyncio.gather(self._middle.close(), self._large.close())
