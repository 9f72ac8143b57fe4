"""The bytes that a coding stands for. gzip is taken apart here as RFC 1952 says; DEFLATE is left to zlib, zstd to its own."""

import sys
import zlib
from dataclasses import dataclass

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ZSTD_FRAMES_MAX = 10_000
ZSTD_WINDOW_LOG_MAX = 23


@dataclass(frozen=True)
class Inflated:
    """What came out of a body, up to where it breaks if it does."""

    content: bytes
    is_whole: bool


def inflate(coding: str, body: bytes) -> Inflated:
    """The inflated body. coding: gzip, zstd, deflate or identity."""
    match coding:
        case "gzip":
            return _gzip(body)
        case "zstd":
            return _zstd(body)
        case "deflate":
            return _deflate(body)
        case _:
            return Inflated(body, is_whole=True)


# --- gzip (RFC 1952) --------------------------------------------------------------------------------------------------

FHCRC, FEXTRA, FNAME, FCOMMENT = (1 << bit for bit in range(1, 5))


class _NoHeader(Exception):
    """The data is no member header, or ends within it."""


def _gzip(body: bytes) -> Inflated:
    """Any number of members, but one at least; zeros behind a member are padding."""
    content = b""
    members = 0
    rest = body
    while rest or not members:
        try:
            start = _gzip_header(rest)
        except _NoHeader:
            return Inflated(content, is_whole=False)
        stream = zlib.decompressobj(wbits=-15)
        came, is_whole = _fed(stream, rest[start:])
        content += came
        trailer = stream.unused_data[:8]
        sums = zlib.crc32(came).to_bytes(4, "little") + (len(came) % 2**32).to_bytes(4, "little")
        if not is_whole or trailer != sums:
            return Inflated(content, is_whole=False)
        members += 1
        rest = stream.unused_data[8:].lstrip(b"\0")
    return Inflated(content, is_whole=True)


def _gzip_header(data: bytes) -> int:
    """How long the member header is. Raises _NoHeader."""
    if len(data) < 10 or data[:3] != b"\x1f\x8b\x08" or data[3] >= FCOMMENT << 1:
        raise _NoHeader
    flags, at = data[3], 10
    if flags & FEXTRA:
        at += 2 + int.from_bytes(data[at : at + 2], "little")
    for flag in (FNAME, FCOMMENT):
        if flags & flag:
            at = data.find(b"\0", at) + 1 or len(data) + 1
    if flags & FHCRC:
        if zlib.crc32(data[:at]) & 0xFFFF != int.from_bytes(data[at : at + 2], "little"):
            raise _NoHeader
        at += 2
    if at > len(data):
        raise _NoHeader
    return at


# --- deflate (RFC 9110, section 8.4.1.2) ------------------------------------------------------------------------------


def _deflate(body: bytes) -> Inflated:
    """The zlib format (RFC 1950) if the body begins as that does, else bare DEFLATE data; and nothing behind it."""
    has_zlib_header = len(body) > 1 and body[0] % 16 == 8 and (body[0] * 256 + body[1]) % 31 == 0
    stream = zlib.decompressobj(wbits=15 if has_zlib_header else -15)
    content, is_whole = _fed(stream, body)
    return Inflated(content, is_whole and not stream.unused_data)


def _fed(stream: "zlib._Decompress", data: bytes) -> tuple[bytes, bool]:
    """What the stream makes of the data, byte by byte up to where it breaks, and whether it comes to its end."""
    content = b""
    for at in range(len(data)):
        try:
            content += stream.decompress(data[at : at + 1])
        except zlib.error:
            return content, False
    return content, stream.eof


# --- zstd (RFC 8878) --------------------------------------------------------------------------------------------------


def _zstd(body: bytes) -> Inflated:
    """Any number of frames up to a limit, but one at least."""
    content = b""
    frames = 0
    rest = body
    while rest or not frames:
        frame = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: ZSTD_WINDOW_LOG_MAX})
        try:
            came = frame.decompress(rest)
        except zstd.ZstdError:
            return Inflated(content, is_whole=False)
        content += came
        frames += 1
        if not frame.eof or frames > ZSTD_FRAMES_MAX or _announced(rest) not in (None, len(came)):
            return Inflated(content, is_whole=False)
        rest = frame.unused_data
    return Inflated(content, is_whole=True)


def _announced(frame: bytes) -> int | None:
    """The Frame_Content_Size (RFC 8878, section 3.1.1.1), if there is one. A skippable frame has no content."""
    if frame[:4] != b"\x28\xb5\x2f\xfd":
        return 0
    descriptor = frame[4]
    size_flag, is_single_segment, dictionary_flag = descriptor >> 6, descriptor >> 5 & 1, descriptor & 3
    at = 5 + (0 if is_single_segment else 1) + (0, 1, 2, 4)[dictionary_flag]
    size_bytes = (1 if is_single_segment else 0, 2, 4, 8)[size_flag]
    if not size_bytes:
        return None
    return int.from_bytes(frame[at : at + size_bytes], "little") + (256 if size_bytes == 2 else 0)
