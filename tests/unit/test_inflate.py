"""Every coding gives back what went in, in bounded pieces, however it is cut; and nothing that is broken passes."""

import gzip
import sys
import tracemalloc
import zlib
from collections.abc import Callable, Generator, Iterable
from unittest import mock

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ingest import errors
from ingest.web import inflate

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MIB = 1024 * 1024

TEXT = b'{"user_id": "ada", "total_tokens": 1234}\n' * 100


def zlib_deflate(data: bytes) -> bytes:
    return zlib.compress(data)


def raw_deflate(data: bytes) -> bytes:
    deflating = zlib.compressobj(wbits=-15)
    return deflating.compress(data) + deflating.flush()


def gzip_with_every_header_field(data: bytes) -> bytes:
    """A member whose header has FEXTRA, FNAME, FCOMMENT and FHCRC (RFC 1952, section 2.3)."""
    head = b"\x1f\x8b\x08\x1e" + bytes(6) + b"\x04\x00ABCD" + b"name\0" + b"comment\0"
    crc16 = (zlib.crc32(head) & 0xFFFF).to_bytes(2, "little")
    sums = zlib.crc32(data).to_bytes(4, "little") + len(data).to_bytes(4, "little")
    return head + crc16 + raw_deflate(data) + sums


def in_halves(compress: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """Two streams of the coding, one behind the other."""
    return lambda data: compress(data[: len(data) // 2]) + compress(data[len(data) // 2 :])


def zstd_with_skippable_frames(data: bytes) -> bytes:
    skippable = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"hello"
    return skippable + zstd.compress(data) + skippable


# How a body may be made: the Content-Encoding that says so, and the compressor.
BODIES: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "gzip of two members": ("gzip", in_halves(gzip.compress)),
    "gzip with an empty member": ("gzip", lambda data: gzip.compress(b"") + gzip.compress(data)),
    "gzip with every header field": ("gzip", gzip_with_every_header_field),
    "gzip with padding": ("gzip", lambda data: gzip.compress(data) + bytes(512)),
    "gzip with padding between members": ("gzip", lambda data: gzip.compress(b"") + bytes(9) + gzip.compress(data)),
    "zstd": ("zstd", zstd.compress),
    "zstd of two frames": ("zstd", in_halves(zstd.compress)),
    "zstd with skippable frames": ("zstd", zstd_with_skippable_frames),
    "deflate in the zlib format": ("deflate", zlib_deflate),
    "deflate without a header": ("deflate", raw_deflate),
    "identity": ("identity", bytes),
}
COMPRESSED = [name for name in BODIES if name != "identity"]
ONE_STREAM = ["gzip", "gzip with every header field", "zstd", "deflate in the zlib format", "deflate without a header"]


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


def pieces(coding: str, chunks: Iterable[bytes]) -> Generator[bytes]:
    """What comes out, piece by piece; the end of the body is checked too."""
    inflating = inflate.inflater(coding)
    for chunk in chunks:
        yield from inflating.feed(chunk)
    inflating.finish()


def inflated(coding: str, chunks: Iterable[bytes]) -> bytes:
    return b"".join(pieces(coding, chunks))


@pytest.mark.parametrize("chunk_bytes", [1, 2, 7, 64 * 1024])
@pytest.mark.parametrize("name", BODIES)
def test_a_body_comes_out_as_it_went_in_however_it_is_cut(name: str, chunk_bytes: int) -> None:
    coding, compress = BODIES[name]

    assert inflated(coding, cut(compress(TEXT), chunk_bytes)) == TEXT


@pytest.mark.parametrize("name", BODIES)
def test_an_empty_body_that_was_compressed_is_empty(name: str) -> None:
    coding, compress = BODIES[name]

    assert inflated(coding, [compress(b"")]) == b""


@pytest.mark.parametrize("name", COMPRESSED)
def test_empty_chunks_change_nothing(name: str) -> None:
    coding, compress = BODIES[name]
    body = compress(TEXT)

    assert inflated(coding, [b"", body[:5], b"", b"", body[5:], b""]) == TEXT


@pytest.mark.parametrize("name", COMPRESSED)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_data_in_any_chunks_and_any_pieces_survives(name: str, data: st.DataObject) -> None:
    coding, compress = BODIES[name]
    runs = data.draw(st.lists(st.tuples(st.binary(max_size=40), st.integers(1, 60)), max_size=4))
    content = b"".join(run * times for run, times in runs)
    body = compress(content)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=6)))
    chunks = [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    piece_bytes = data.draw(st.integers(1, 700))

    with mock.patch.object(inflate, "PIECE_BYTES", piece_bytes):
        came = list(pieces(coding, chunks))

    assert b"".join(came) == content
    assert max(map(len, came), default=0) <= piece_bytes


@pytest.mark.parametrize("past_a_piece", [-1, 0, 1, 5, 257, 258, 259, 300])
@pytest.mark.parametrize("name", COMPRESSED)
def test_what_is_left_when_a_piece_is_full_still_comes(name: str, past_a_piece: int) -> None:
    # The decoder may have taken in all of the body while part of what it stands for waits for the next piece.
    coding, compress = BODIES[name]
    content = bytes(inflate.PIECE_BYTES + past_a_piece)

    assert inflated(coding, [compress(content)]) == content


@pytest.mark.parametrize("name", COMPRESSED)
def test_a_bomb_comes_in_pieces_and_costs_no_more_memory_than_one_when_it_is_left(name: str) -> None:
    coding, compress = BODIES[name]
    bomb = compress(bytes(32 * MIB))
    assert len(bomb) < 64 * 1024

    tracemalloc.start()
    try:
        came = pieces(coding, [bomb])
        first = [len(next(came)) for _ in range(8)]
        came.close()
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert max(first) <= inflate.PIECE_BYTES
    assert peak_bytes < 3 * MIB


@pytest.mark.parametrize("name", COMPRESSED)
def test_every_piece_of_a_bomb_is_bounded(name: str) -> None:
    coding, compress = BODIES[name]
    sizes = [len(piece) for piece in pieces(coding, cut(compress(bytes(8 * MIB)), 1000))]

    assert sum(sizes) == 8 * MIB
    assert max(sizes) <= inflate.PIECE_BYTES


@pytest.mark.parametrize("name", ONE_STREAM)
def test_a_body_that_is_cut_short_anywhere_is_refused(name: str) -> None:
    coding, compress = BODIES[name]
    body = compress(b"The quick brown fox jumps over the lazy dog. " * 3)

    for length in range(len(body)):
        with pytest.raises(errors.BodyUnreadable):
            inflated(coding, [body[:length]])


@pytest.mark.parametrize("name", ["gzip of two members", "zstd of two frames"])
def test_a_second_stream_that_is_cut_short_is_refused(name: str) -> None:
    coding, compress = BODIES[name]
    body = compress(TEXT)

    with pytest.raises(errors.BodyUnreadable, match="cut short"):
        inflated(coding, [body[:-1]])


@pytest.mark.parametrize("coding", ["gzip", "zstd", "deflate"])
@pytest.mark.parametrize("garbage", [b"[]", b'{"events": []}', b"\xff" * 100, b"\0", b"\0" * 100, b"\x1f\x8b"])
def test_what_is_no_stream_of_its_coding_is_refused(coding: str, garbage: bytes) -> None:
    with pytest.raises(errors.BodyUnreadable):
        inflated(coding, [garbage])


@pytest.mark.parametrize("coding", ["gzip", "zstd", "deflate"])
def test_a_compressed_body_of_nothing_at_all_is_refused(coding: str) -> None:
    with pytest.raises(errors.BodyUnreadable, match="cut short"):
        inflated(coding, [])


@pytest.mark.parametrize("in_one_chunk", [True, False])
@pytest.mark.parametrize("name", ONE_STREAM)
def test_garbage_behind_a_stream_is_refused(name: str, in_one_chunk: bool) -> None:
    coding, compress = BODIES[name]
    body = compress(TEXT)

    with pytest.raises(errors.BodyUnreadable):
        inflated(coding, [body + b"garbage"] if in_one_chunk else [body, b"garbage"])


@pytest.mark.parametrize("name", ["gzip", "gzip with every header field", "deflate in the zlib format"])
def test_a_checksum_that_is_wrong_is_noticed(name: str) -> None:
    coding, compress = BODIES[name]
    body = bytearray(compress(TEXT))
    body[-1] ^= 1

    with pytest.raises(errors.BodyUnreadable):
        inflated(coding, [bytes(body)])


@pytest.mark.parametrize("chunk_bytes", [1, 3, 8, 100])
def test_a_zstd_frame_that_has_not_the_length_it_announces_is_refused_however_it_is_cut(chunk_bytes: int) -> None:
    # libzstd itself sees it only where it has all of the frame at once, if the last block is empty.
    head, raw_block, empty_last_block = b"\x28\xb5\x2f\xfd\x20", b"\x20\x00\x00abcd", b"\x01\x00\x00"
    assert inflated("zstd", cut(head + b"\x04" + raw_block + empty_last_block, chunk_bytes)) == b"abcd"

    with pytest.raises(errors.BodyUnreadable):
        inflated("zstd", cut(head + b"\x05" + raw_block + empty_last_block, chunk_bytes))


def test_a_zstd_checksum_that_is_wrong_is_noticed() -> None:
    body = bytearray(zstd.compress(TEXT, options={zstd.CompressionParameter.checksum_flag: True}))
    assert inflated("zstd", [bytes(body)]) == TEXT
    body[-1] ^= 1

    with pytest.raises(errors.BodyUnreadable):
        inflated("zstd", [bytes(body)])


def test_a_gzip_length_that_is_wrong_is_noticed() -> None:
    body = gzip.compress(TEXT)
    too_long = (len(TEXT) + 1).to_bytes(4, "little")

    with pytest.raises(errors.BodyUnreadable):
        inflated("gzip", [body[:-4] + too_long])


@given(body=st.binary(max_size=200), coding=st.sampled_from(["gzip", "zstd", "deflate"]), chunk_bytes=st.integers(1, 50))
@example(body=gzip.compress(b"")[:10] + b"\xff" * 20, coding="gzip", chunk_bytes=50)
@example(body=b"\x28\xb5\x2f\xfd" + b"\xff" * 30, coding="zstd", chunk_bytes=50)
@example(body=b"\x78\x9c" + b"\xff" * 30, coding="deflate", chunk_bytes=50)
@settings(max_examples=200, deadline=None)
def test_no_bytes_make_an_error_of_another_kind(body: bytes, coding: str, chunk_bytes: int) -> None:
    try:
        came = inflated(coding, cut(body, chunk_bytes))
    except errors.BodyUnreadable as error:
        message = str(error)
    else:
        message = ""
        assert isinstance(came, bytes)  # by chance a stream of its coding
    assert "\n" not in message


@pytest.mark.parametrize(("window_log", "is_taken"), [(20, True), (23, True), (24, False), (27, False)])
def test_a_zstd_window_past_8_mib_is_refused(window_log: int, is_taken: bool) -> None:
    # RFC 9659, section 3. Flushed once so that the frame's length is not known when its header is written.
    compressor = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: window_log})
    body = compressor.compress(TEXT, mode=zstd.ZstdCompressor.FLUSH_BLOCK) + compressor.flush()

    if is_taken:
        assert inflated("zstd", [body]) == TEXT
    else:
        with pytest.raises(errors.BodyUnreadable):
            inflated("zstd", [body])


def test_a_zstd_frame_that_needs_a_dictionary_is_refused() -> None:
    dictionary = zstd.train_dict([b"user %d asks model %d" % (k, k % 7) for k in range(500)], 2000)

    with pytest.raises(errors.BodyUnreadable):
        inflated("zstd", [zstd.compress(b"user 1 asks model 2", zstd_dict=dictionary)])


@pytest.mark.parametrize(
    ("header", "kind"),
    [
        ("gzip", inflate.Gzip),
        ("x-gzip", inflate.Gzip),
        ("GZip", inflate.Gzip),
        (" gzip\t", inflate.Gzip),
        ("zstd", inflate.Zstd),
        ("ZSTD", inflate.Zstd),
        ("deflate", inflate.Deflate),
        ("identity", inflate.Identity),
        ("", inflate.Identity),
        ("  ", inflate.Identity),
    ],
)
def test_a_header_chooses_its_inflater(header: str, kind: type[inflate.Inflater]) -> None:
    assert type(inflate.inflater(header)) is kind


@pytest.mark.parametrize("header", ["br", "compress", "gzip, gzip", "gzip,zstd", "gzip;q=1", "*", "gzipped", "\xe9"])
def test_any_other_coding_is_refused_with_the_ones_that_are_taken(header: str) -> None:
    with pytest.raises(errors.EncodingUnsupported) as caught:
        inflate.inflater(header)

    assert all(coding in str(caught.value) for coding in ("gzip", "zstd", "deflate", "identity"))


def test_frames_that_hold_nothing_are_bounded() -> None:
    frame = zstd.compress(b"")

    assert inflated("zstd", [frame * inflate.ZSTD_FRAMES_MAX]) == b""
    with pytest.raises(errors.BodyUnreadable, match="frames"):
        inflated("zstd", cut(frame * (inflate.ZSTD_FRAMES_MAX + 1), 64 * 1024))


@pytest.mark.parametrize("header", ["identity, gzip", "gzip,", " GZIP , identity"])
def test_identity_in_a_list_of_codings_changes_nothing(header: str) -> None:
    assert isinstance(inflate.inflater(header), inflate.Gzip)


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
@pytest.mark.parametrize("chunk_bytes", [7, 5000, 10**9])
def test_others_get_their_turn_between_many_streams(coding: str, chunk_bytes: int) -> None:
    compress = gzip.compress if coding == "gzip" else zstd.compress
    streams = inflate.MEMBERS_A_TURN * 3
    body = compress(b"") * streams + compress(b"end")

    came = list(pieces(coding, cut(body, chunk_bytes)))

    assert b"".join(came) == b"end"
    assert came.count(b"") == 3
