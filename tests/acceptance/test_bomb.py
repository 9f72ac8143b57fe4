"""Bodies that stand for far more than they are."""

import time
import zlib

import pytest

from tests.samples import wire_event
from tests.service import REQUESTS, RunningService

MIB = 1024 * 1024
GIB = 1024 * MIB


def gzip_zeros(inflated_bytes: int) -> bytes:
    """A gzip body of zeros, at zlib's best. Flushed blocks of the same zeros are the same bytes, so they are made once."""
    deflate = zlib.compressobj(9, wbits=31)
    head = deflate.compress(bytes(16 * MIB)) + deflate.flush(zlib.Z_FULL_FLUSH)
    block = deflate.compress(bytes(16 * MIB)) + deflate.flush(zlib.Z_FULL_FLUSH)
    return head + block * (inflated_bytes // (16 * MIB) - 1) + deflate.flush()


def test_a_bomb_of_10_gib_is_refused_within_a_second_in_little_memory(service: RunningService) -> None:
    bomb = gzip_zeros(10 * GIB)
    assert 9 * MIB < len(bomb) <= 10 * MIB
    service.verdict([wire_event()])  # warm
    idle = service.resident_bytes()

    began = time.monotonic()
    answer = service.post(bomb, headers={"Content-Encoding": "gzip"})
    took = time.monotonic() - began

    assert answer.status_code == 413
    assert answer.json()["limit"] == {"name": "MAX_BODY_SIZE", "value": 64 * MIB}
    assert took < 1
    assert service.peak_bytes() - idle < 100 * MIB
    assert service.verdict([wire_event()])["accepted"] == 1


@pytest.mark.parametrize(
    "head", [b"[" + b"1," * (30 * MIB) + b"1]", b"[" + b"[]," * (20 * MIB) + b"1]"], ids=["numbers", "arrays"]
)
def test_millions_of_items_are_refused_in_little_memory(service: RunningService, head: bytes) -> None:
    service.verdict([wire_event()])
    idle = service.resident_bytes()

    answer = service.client.post(
        REQUESTS,
        content=zlib.compress(head, 1),
        headers={"Content-Type": "application/json", "Content-Encoding": "deflate"},
    )

    assert (answer.status_code, answer.json()["limit"]["name"]) == (413, "MAX_BULK_SIZE")
    assert service.peak_bytes() - idle < 150 * MIB
