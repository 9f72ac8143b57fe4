"""A coding's stream in chunks, held against the reference.

The first bytes say how the input is sent: the coding, whether the rest is the stream itself or what is to be compressed (sums
that are right are not found by chance), how it is compressed and spoilt, and how it is cut.
"""

from unittest import mock

from ingest import errors
from ingest.web import inflate
from tests.bodies import BETWEEN, ENCODERS, cut
from tests.reference import codings

_CODINGS = sorted(ENCODERS)
_HEAD_BYTES = 8
_REPEATS_MAX = 64


def examine(data: bytes) -> None:
    """Raises AssertionError where service and reference differ, and whatever else the service raises."""
    if len(data) < _HEAD_BYTES:
        return
    head, rest = data[:_HEAD_BYTES], data[_HEAD_BYTES:]
    coding = _CODINGS[head[0] % len(_CODINGS)]
    wire = _made(coding, head, rest) if head[1] % 2 else rest
    piece_bytes = 1 + head[6] * 8
    chunk_bytes = 1 + head[7]

    expected = codings.inflate(coding, wire)
    came = bytearray()
    refusal: errors.BodyUnreadable | None = None
    with mock.patch.object(inflate, "PIECE_BYTES", piece_bytes):
        inflating = inflate.inflater(coding)
        try:
            for chunk in cut(wire, range(chunk_bytes, len(wire), chunk_bytes)):
                for piece in inflating.feed(chunk):
                    assert len(piece) <= (chunk_bytes if coding == "identity" else piece_bytes)
                    came += piece
            inflating.finish()
        except errors.BodyUnreadable as error:
            refusal = error
    if refusal is None:
        assert expected.is_whole, (coding, wire)
        assert came == expected.content, (coding, wire)
    else:
        assert not expected.is_whole, (coding, wire, refusal)
        assert "\n" not in str(refusal)


def _made(coding: str, head: bytes, content: bytes) -> bytes:
    """One stream of the content or, where the coding has them, two; if the head asks for it, one byte is another one."""
    content *= 1 + head[2] % _REPEATS_MAX
    encoders, between = ENCODERS[coding], BETWEEN.get(coding)
    middle = len(content) * head[3] // 256
    parts = [content] if between is None else [content[:middle], content[middle:]]
    wire = bytearray()
    for number, part in enumerate(parts):
        wire += encoders[(head[4] >> 2 * number) % len(encoders)](part)
        wire += between[(head[4] >> 4 + number) % len(between)] if between else b""
    if head[5] and wire:
        wire[len(wire) * head[5] // 256] ^= 1 << head[1] % 8
    return bytes(wire)


def _head(coding: str, *, is_made: bool, more: bytes = b"\x01\x80\x00\x00\x10\x06") -> bytes:
    return bytes([_CODINGS.index(coding), is_made]) + more


_CONTENT = b'[{"event_id": "01972b1c-8c00-7000-8000-000000000001", "user_id": "ada"}]'

SEEDS = {
    **{
        f"{coding}-{number}": _head(coding, is_made=False) + encode(_CONTENT)
        for coding, encoders in ENCODERS.items()
        for number, encode in enumerate(encoders)
    },
    **{f"{coding}-made": _head(coding, is_made=True) + _CONTENT for coding in _CODINGS},
    **{f"{coding}-spoilt": _head(coding, is_made=True, more=b"\x07\x40\x25\x90\x03\x01") + _CONTENT for coding in _CODINGS},
}

TOKENS = [
    *(
        b"\x1f\x8b\x08",
        b"\x1f\x8b\x08\x1e",
        b"\x28\xb5\x2f\xfd",
        b"\x50\x2a\x4d\x18",
        b"\x37\xa4\x30\xec",
        b"\x78\x9c",
        b"\x78\xbb",
    ),
    *(b"\x03\x00", b"\x00\x00\xff\xff", b"\x01\x00\x00\xff\xff", b"\xff" * 4, b"\x00" * 8),
]
