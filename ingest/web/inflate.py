"""Content codings, as streams that never put out more than they are asked for.

Each inflater takes compressed chunks as they arrive and yields pieces of at most PIECE_BYTES, so that a few bytes which
stand for gigabytes cost no more memory than one piece before the caller stops.

Libraries, on a gzip body of 1000 events: zlib 0.80 ms, zlib-ng 0.69 ms, isal 0.60 ms; but isal 1.9 misreads a gzip header of
two fields that is cut between two chunks. backports.zstd is the standard library's compression.zstd (Python 3.14) for older
Pythons; the better-known zstandard has no bound on what one call puts out.
"""

import sys
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from zlib_ng import zlib_ng

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

from ingest import errors

PIECE_BYTES = 256 * 1024

# Behind a member or a frame the library hands back what it did not use, as a copy. So once there was one, it gets small
# bites; and every now and then the caller gets an empty piece, so that others have their turn: 13,000 empty members, which
# are 256 KB, took 120 ms at a stretch.
BITE_BYTES = 4096
MEMBERS_A_TURN = 256

# RFC 9659, section 3: a zstd window past 8 MiB must not be used for HTTP content.
ZSTD_WINDOW_LOG_MAX = 23

# A frame may be as short as 8 bytes and hold nothing, but costs a decompressor of its own: 10 MiB of them took 20 s.
ZSTD_FRAMES_MAX = 10_000

# Magic number and header (RFC 8878, section 3.1.1).
ZSTD_HEAD_BYTES_MAX = 18

GZIP_WBITS = 31
ZLIB_WBITS = 15
RAW_DEFLATE_WBITS = -15


class Inflater(Protocol):
    """One body's coding."""

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Yields what `chunk` adds to the body, in pieces of at most PIECE_BYTES; also empty ones, where there was much work
        for nothing. Raises errors.BodyUnreadable."""
        ...

    def finish(self) -> None:
        """Raises errors.BodyUnreadable if the body was cut short."""
        ...


class Identity:
    """No coding at all: pieces are the chunks as they come."""

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        yield chunk

    def finish(self) -> None:
        pass


class Gzip:
    """RFC 1952: any number of members, one after the other; zeros behind the last one are padding, as gzip(1) has it."""

    def __init__(self) -> None:
        self._member = zlib_ng.decompressobj(wbits=GZIP_WBITS)
        self._member_begun = False
        self._members_whole = 0

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        start = 0
        while start < len(chunk):
            bite = chunk[start : start + BITE_BYTES] if self._members_whole else chunk[start:] if start else chunk
            start += len(bite)
            if not self._member_begun and self._members_whole:
                bite = bite.lstrip(b"\0")
                if not bite:
                    continue
            self._member_begun = True
            yield from _pieces(self._member, bite, "gzip")
            if self._member.eof:
                start -= len(self._member.unused_data)
                self._member = zlib_ng.decompressobj(wbits=GZIP_WBITS)
                self._member_begun = False
                self._members_whole += 1
                if self._members_whole % MEMBERS_A_TURN == 0:
                    yield b""

    def finish(self) -> None:
        if self._member_begun or not self._members_whole:
            raise errors.BodyUnreadable("The gzip stream is cut short.")


class Deflate:
    """RFC 9110, section 8.4.1.2: the zlib format (RFC 1950). Bare RFC 1951 data, which some clients send, is taken too."""

    def __init__(self) -> None:
        self._head = b""
        self._stream = zlib_ng.decompressobj(wbits=ZLIB_WBITS)
        self._begun = False

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        data = chunk
        if not self._begun:
            data = self._head + chunk
            if len(data) < 2:
                self._head = data
                return
            self._begun = True
            has_zlib_header = data[0] & 0x0F == 8 and int.from_bytes(data[:2], "big") % 31 == 0
            if not has_zlib_header:
                self._stream = zlib_ng.decompressobj(wbits=RAW_DEFLATE_WBITS)
        if data and not self._stream.eof:
            yield from _pieces(self._stream, data, "deflate")
            data = self._stream.unused_data
        if data and self._stream.eof:
            raise errors.BodyUnreadable("Behind the deflate stream there is more data.")

    def finish(self) -> None:
        if not self._stream.eof:
            raise errors.BodyUnreadable("The deflate stream is cut short.")


def _pieces(stream: Any, data: bytes, name: str) -> Iterator[bytes]:
    """What `data` adds to a zlib-like stream, up to its end."""
    piece_is_full = False
    # A full piece may leave more behind inside the stream, though all data went in.
    while (data or piece_is_full) and not stream.eof:
        try:
            piece = stream.decompress(data, PIECE_BYTES)
        except zlib_ng.error as error:  # type: ignore[misc] # a class, though its stub says otherwise
            raise errors.BodyUnreadable(f"The body is no {name} stream: {error}.") from None
        data = stream.unconsumed_tail
        piece_is_full = len(piece) == PIECE_BYTES
        if piece:
            yield piece


class Zstd:
    """RFC 8878: any number of frames, one after the other."""

    def __init__(self) -> None:
        self._frame = self._new_frame()
        self._frame_begun = False
        self._frame_head = b""
        self._frame_bytes = 0
        self._frames_whole = 0

    @staticmethod
    def _new_frame() -> zstd.ZstdDecompressor:
        return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: ZSTD_WINDOW_LOG_MAX})

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        start = 0
        while start < len(chunk) or (self._frame_begun and not self._frame.needs_input):
            bite = b""
            if self._frame.needs_input:
                bite = chunk[start : start + BITE_BYTES] if self._frames_whole else chunk[start:] if start else chunk
                start += len(bite)
            self._frame_begun = True
            self._frame_head += bite[: ZSTD_HEAD_BYTES_MAX - len(self._frame_head)]
            try:
                piece = self._frame.decompress(bite, PIECE_BYTES)
            except zstd.ZstdError as error:
                raise errors.BodyUnreadable(f"The body is no zstd stream: {error}.") from None
            self._frame_bytes += len(piece)
            if piece:
                yield piece
            if self._frame.eof:
                self._check_length()
                start -= len(self._frame.unused_data)
                self._frame = self._new_frame()
                self._frame_begun = False
                self._frame_head, self._frame_bytes = b"", 0
                self._frames_whole += 1
                if self._frames_whole > ZSTD_FRAMES_MAX:
                    raise errors.BodyUnreadable(f"The zstd stream has more than {ZSTD_FRAMES_MAX} frames.")
                if self._frames_whole % MEMBERS_A_TURN == 0:
                    yield b""

    def _check_length(self) -> None:
        """The library holds a frame against its announced length only if it has all of it at once, or the last block is not
        empty."""
        announced = zstd.get_frame_info(self._frame_head).decompressed_size
        if announced not in (None, self._frame_bytes):
            raise errors.BodyUnreadable(f"A zstd frame announces {announced} bytes and has {self._frame_bytes}.")

    def finish(self) -> None:
        if self._frame_begun or not self._frames_whole:
            raise errors.BodyUnreadable("The zstd stream is cut short.")


_INFLATERS: dict[str, Callable[[], Inflater]] = {
    "gzip": Gzip,
    "zstd": Zstd,
    "deflate": Deflate,
    "identity": Identity,
}
_ALIASES = {"x-gzip": "gzip"}  # RFC 9110, section 8.4.1.3

CODINGS = tuple(_INFLATERS)


def inflater(content_encoding: str) -> Inflater:
    """The inflater for a Content-Encoding header (empty: none was sent). Raises errors.EncodingUnsupported.

    It is a list (RFC 9110, section 8.4) in which `identity` changes nothing; of the others, one is taken.
    """
    listed = [coding.strip().lower() for coding in content_encoding.split(",")]
    codings = [_ALIASES.get(coding, coding) for coding in listed if coding not in ("", "identity")] or ["identity"]
    if len(codings) > 1 or codings[0] not in _INFLATERS:
        raise errors.EncodingUnsupported(f"Content-Encoding must be one of: {', '.join(CODINGS)}.")
    return _INFLATERS[codings[0]]()
