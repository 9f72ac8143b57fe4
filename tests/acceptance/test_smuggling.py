"""Requests that two servers might read in two ways: each is refused, or read in exactly one. The bytes of one request are
never read as another.

(CWE-444; RFC 9112, section 11.2.) No answer here depends on the database, so one of them is enough.
"""

import socket
import time
from dataclasses import dataclass

import pytest

from tests import rawhttp, servers
from tests.rawhttp import HOST, MARKER, post
from tests.reliability import Figures
from tests.samples import wire_event
from tests.service import RunningService

pytestmark = [pytest.mark.reliability, servers.ON_ONE]

CHUNKED = b"Transfer-Encoding: chunked"
EMPTY_ARRAY = b"2\r\n[]\r\n0\r\n\r\n"
"""`[]`, chunked."""


def get(line: bytes, *fields: bytes) -> bytes:
    """A request with this first line and these fields and no others."""
    return line + b"\r\n" + b"".join(field + b"\r\n" for field in fields) + b"\r\n"


@dataclass(frozen=True)
class Shape:
    """What is sent, and what must come back for it. What is sent ends with a request for /marker."""

    name: str
    data: bytes
    status: int
    code: str | None = None
    """Of the problem; with one, the connection is closed, and the marker was not read."""


def refused(name: str, data: bytes, code: str = "unreadable_head") -> Shape:
    statuses = {"unreadable_head": 400, "unsupported_version": 505, "not_implemented": 501, "head_too_large": 431}
    return Shape(name, data + MARKER, {**statuses, "target_too_long": 414}[code], code)


def of_length(name: str, *fields: bytes) -> Shape:
    """Lengths of which one server may take the first, another the last, and a third none."""
    return refused(name, post(*fields, body=b"[]"))


def of_coding(name: str, *fields: bytes, code: str = "unreadable_head") -> Shape:
    return refused(name, post(*fields, body=EMPTY_ARRAY), code)


def of_chunks(name: str, body: bytes) -> Shape:
    """The head is good and the body is not: the request is refused, whatever it was before that."""
    return refused(name, post(CHUNKED, body=body))


def read(name: str, data: bytes, status: int = 200) -> Shape:
    """May look odd, but has one meaning: it is answered, and the marker, which stands behind it, is the next request."""
    return Shape(name, data + MARKER, status)


SHAPES = [
    of_length("a length and chunks", b"Content-Length: 5", CHUNKED),
    of_length("chunks and a length", CHUNKED, b"Content-Length: 5"),
    of_length("two lengths", b"Content-Length: 2", b"Content-Length: 40"),
    of_length("twice the same length", b"Content-Length: 2", b"Content-Length: 2"),
    of_length("a list of lengths", b"Content-Length: 2, 40"),
    of_length("a list of the same length", b"Content-Length: 2, 2"),
    of_length("a length with a plus", b"Content-Length: +2"),
    of_length("a length below zero", b"Content-Length: -2"),
    of_length("a length with a blank in it", b"Content-Length: 2 0"),
    of_length("a length in hexadecimal", b"Content-Length: 0x2"),
    of_length("a length with a point", b"Content-Length: 2.0"),
    of_length("a length of nothing", b"Content-Length: "),
    of_length("a length of 26 digits", b"Content-Length: " + b"9" * 26),
    of_length("a length of 2⁶⁴ and 2", b"Content-Length: 18446744073709551618"),
    of_length("a blank before the colon", b"Content-Length : 2"),
    of_coding("chunked twice", CHUNKED, CHUNKED),
    of_coding("chunked, chunked", b"Transfer-Encoding: chunked, chunked"),
    of_coding("chunked, identity", b"Transfer-Encoding: chunked, identity"),
    of_coding("chunked, then gzip", CHUNKED, b"Transfer-Encoding: gzip"),
    of_coding("chunked with a comma", b"Transfer-Encoding: chunked,"),
    of_coding("chunked behind a vertical tab", b"Transfer-Encoding: \x0bchunked"),
    of_coding("a coding of nothing", b"Transfer-Encoding: "),
    of_coding("a coding of nothing and a length", b"Transfer-Encoding: ", b"Content-Length: 2"),
    of_coding("identity and a length", b"Transfer-Encoding: identity", b"Content-Length: 2"),
    of_coding("a blank before the colon of a coding", b"Transfer-Encoding : chunked"),
    of_coding("a folded coding", b"Transfer-Encoding:\r\n chunked"),
    of_coding("xchunked", b"Transfer-Encoding: xchunked", code="not_implemented"),
    of_coding("chunkedx", b"Transfer-Encoding: chunkedx", code="not_implemented"),
    of_coding("identity", b"Transfer-Encoding: identity", code="not_implemented"),
    of_coding("gzip, chunked", b"Transfer-Encoding: gzip, chunked", code="not_implemented"),
    of_coding("gzip, then chunked", b"Transfer-Encoding: gzip", CHUNKED, code="not_implemented"),
    of_coding("gzip as a transfer coding", b"Transfer-Encoding: gzip", code="not_implemented"),
    of_coding("chunked in quotes", b'Transfer-Encoding: "chunked"', code="not_implemented"),
    of_coding("chunked with a parameter", b"Transfer-Encoding: chunked;a=b", code="not_implemented"),
    refused("chunks in HTTP/1.0", post(CHUNKED, body=EMPTY_ARRAY).replace(b"HTTP/1.1", b"HTTP/1.0")),
    refused(
        "chunks in HTTP/1.0, to be kept alive",
        post(CHUNKED, b"Connection: keep-alive", body=EMPTY_ARRAY).replace(b"HTTP/1.1", b"HTTP/1.0"),
    ),
    of_length("a folded field", b"X: y\r\n z", b"Content-Length: 2"),
    refused("a fold behind the first line", get(b"GET /livez HTTP/1.1", b" X: y", HOST.strip())),
    refused("line feeds only", get(b"GET /livez HTTP/1.1", HOST.strip()).replace(b"\r\n", b"\n")),
    of_length("one line feed only", b"X: y\nContent-Length: 2"),
    refused("a line feed at the end of the head", b"GET /livez HTTP/1.1\r\nHost: x\r\n\n"),
    of_length("a carriage return as a line end", b"X: y\rContent-Length: 2"),
    of_length("a carriage return in a value", b"X: y\rz", b"Content-Length: 2"),
    of_length("NUL in a value", b"X: y\0z", b"Content-Length: 2"),
    of_length("NUL in a name", b"X\0: y", b"Content-Length: 2"),
    of_length("a control character in a value", b"X: y\x01z", b"Content-Length: 2"),
    of_length("no name", b": y", b"Content-Length: 2"),
    of_length("no colon", b"Xyz", b"Content-Length: 2"),
    of_length("a name that is not ASCII", "Ünï: y".encode(), b"Content-Length: 2"),
    of_chunks("a chunk size with junk", b"2x\r\n[]\r\n0\r\n\r\n"),
    of_chunks("a chunk size that says 0x", b"0x2\r\n[]\r\n0\r\n\r\n"),
    of_chunks("a chunk size below zero", b"-2\r\n[]\r\n0\r\n\r\n"),
    of_chunks("a chunk size with a plus", b"+2\r\n[]\r\n0\r\n\r\n"),
    of_chunks("a chunk size of 2⁶⁴ and 2", b"10000000000000002\r\n[]\r\n0\r\n\r\n"),
    of_chunks("a chunk size with a blank behind it", b"2 \r\n[]\r\n0\r\n\r\n"),
    of_chunks("a chunk size with a blank before it", b" 2\r\n[]\r\n0\r\n\r\n"),
    of_chunks("no chunk size", b"\r\n[]\r\n0\r\n\r\n"),
    of_chunks("chunks with line feeds only", b"2\n[]\n0\n\n"),
    of_chunks("a line feed behind a chunk size", b"2\n[]\r\n0\r\n\r\n"),
    of_chunks("a chunk longer than it says", b"2\r\n[ ]\r\n0\r\n\r\n"),
    of_chunks("no line end behind a chunk", b"2\r\n[]0\r\n\r\n"),
    of_chunks("a line feed in an extension", b"2;a\n[]\r\n0\r\n\r\n"),
    of_chunks("a carriage return in an extension", b"2;a\rb\r\n[]\r\n0\r\n\r\n"),
    of_chunks("NUL in an extension", b"2;a\0\r\n[]\r\n0\r\n\r\n"),
    of_chunks("a length as a trailer", b"2\r\n[]\r\n0\r\nContent-Length: 40\r\n\r\n"),
    of_chunks("a coding as a trailer", b"2\r\n[]\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n"),
    of_chunks("a trailer without a colon", b"2\r\n[]\r\n0\r\nX y\r\n\r\n"),
    refused("no Host", get(b"GET /livez HTTP/1.1")),
    refused("two Hosts", get(b"GET /livez HTTP/1.1", b"Host: x", b"Host: y")),
    refused("twice the same Host", get(b"GET /livez HTTP/1.1", b"Host: x", b"Host: x")),
    refused("a Host that is none", get(b"GET /livez HTTP/1.1", b"Host: a b/c@d")),
    refused("a target without a slash", get(b"GET livez HTTP/1.1", b"Host: x")),
    refused("a target that is an authority", get(b"GET x:80 HTTP/1.1", b"Host: x")),
    refused("a URL without a host", get(b"GET http:// HTTP/1.1", b"Host: x")),
    refused("a URL with half an address", get(b"GET http://[::1/livez HTTP/1.1", b"Host: x")),
    refused("a URL with a port that is none", get(b"GET http://x:99999999/livez HTTP/1.1", b"Host: x")),
    refused("a target with NUL", get(b"GET /livez\0 HTTP/1.1", b"Host: x")),
    refused("a target that is not ASCII", get(b"GET /livez\xff HTTP/1.1", b"Host: x")),
    refused("tabs in the first line", get(b"GET\t/livez\tHTTP/1.1", b"Host: x")),
    refused("a blank before the method", get(b" GET /livez HTTP/1.1", b"Host: x")),
    refused("a blank behind the version", get(b"GET /livez HTTP/1.1 ", b"Host: x")),
    refused("a method in small letters", get(b"get /livez HTTP/1.1", b"Host: x")),
    refused("a method that nobody knows", get(b"FOO /livez HTTP/1.1", b"Host: x")),
    refused("CONNECT", get(b"CONNECT x:80 HTTP/1.1", b"Host: x"), "not_implemented"),
    refused("CONNECT and a body", get(b"CONNECT x:80 HTTP/1.1", b"Host: x", b"Content-Length: 2"), "not_implemented"),
    refused("CONNECT to a path", get(b"CONNECT /livez HTTP/1.1", b"Host: x"), "not_implemented"),
    refused("ICE/1.0", get(b"SOURCE /livez ICE/1.0", b"Host: x"), "not_implemented"),
    refused("RTSP/1.0", get(b"DESCRIBE /livez RTSP/1.0", b"Host: x"), "not_implemented"),
    refused("HTTP/0.9", get(b"GET /livez"), "unsupported_version"),
    refused("HTTP/0.9 by name", get(b"GET /livez HTTP/0.9"), "unsupported_version"),
    refused("HTTP/2.0", get(b"GET /livez HTTP/2.0", b"Host: x"), "unsupported_version"),
    refused("HTTP/1.2", get(b"GET /livez HTTP/1.2", b"Host: x"), "unsupported_version"),
    refused("http/1.1 in small letters", get(b"GET /livez http/1.1", b"Host: x")),
    refused("the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0", "unsupported_version"),
    refused("TLS", bytes.fromhex("1603010200010001fc0303") + bytes(100)),
    refused("a target of 8 KiB and a byte", get(b"GET /" + b"x" * 8192 + b" HTTP/1.1", b"Host: x"), "target_too_long"),
    refused("a target without an end", b"GET /" + b"x" * 20_000, "target_too_long"),
    refused("101 fields", get(b"GET /livez HTTP/1.1", b"Host: x", *[b"X: y"] * 100), "head_too_large"),
    refused("fields of 16 KiB and a byte", get(b"GET / HTTP/1.1", b"Host:", b"X: " + b"y" * 16_379), "head_too_large"),
    refused("a field without an end", b"GET /livez HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 40_000, "head_too_large"),
    refused("100 trailers", post(CHUNKED, body=b"2\r\n[]\r\n0\r\n" + b"X: y\r\n" * 100 + b"\r\n"), "head_too_large"),
    read("a length with zeros before it", post(b"Content-Length: 0002", body=b"[]")),
    read("a length with blanks around it", post(b"Content-Length: \t 2  ", body=b"[]")),
    read("a length with another name beside it", post(b"Content_Length: 40", b"Content-Length: 2", body=b"[]")),
    read("chunked in capitals", post(b"Transfer-Encoding: CHUNKED", body=EMPTY_ARRAY)),
    read("chunked behind a tab", post(b"Transfer-Encoding:\tchunked ", body=EMPTY_ARRAY)),
    read("a chunk size with zeros before it", post(CHUNKED, body=b"0" * 100 + EMPTY_ARRAY)),
    read("chunk extensions", post(CHUNKED, body=b'2;a=b;c="d;\\"e"\r\n[]\r\n0;f\r\n\r\n')),
    read("a trailer", post(CHUNKED, body=b"2\r\n[]\r\n0\r\nX: y\r\n\r\n")),
    read("a trailer of another meaning", post(CHUNKED, body=b"2\r\n[]\r\n0\r\nContent-Encoding: gzip\r\n\r\n")),
    read("a URL as the target", get(b"GET http://elsewhere/livez HTTP/1.1", b"Host: x")),
    read("empty lines before the request", b"\r\n\r\n" + get(b"GET /livez HTTP/1.1", b"Host: x")),
    read("blanks in the first line", get(b"GET  /livez  HTTP/1.1", b"Host: x")),
    read("an empty Host", get(b"GET /livez HTTP/1.1", b"Host:")),
    read("a target that is a star", get(b"OPTIONS * HTTP/1.1", b"Host: x"), 404),
    read("two slashes", get(b"GET //livez HTTP/1.1", b"Host: x"), 404),
    read("a fragment", get(b"GET /livez#x HTTP/1.1", b"Host: x")),
    read("100 fields of 16 KiB", get(b"GET /livez HTTP/1.1", b"Host: x", *[b"X: " + b"y" * 162] * 99)),
    read("an upgrade", get(b"GET /livez HTTP/1.1", b"Host: x", b"Connection: Upgrade", b"Upgrade: h2c")),
    read("an upgrade with a body", post(b"Connection: Upgrade", b"Upgrade: h2c", b"Content-Length: 2", body=b"[]")),
    read("no length, so no body", post(), 400),
]

HIDDEN = {
    "in a body of a length": get(b"GET /livez HTTP/1.1", b"Host: x", b"Content-Length: %d" % len(MARKER)) + MARKER,
    "in a chunk": get(b"GET /livez HTTP/1.1", b"Host: x", CHUNKED) + b"%x\r\n%s\r\n0\r\n\r\n" % (len(MARKER), MARKER),
    "in an extension": get(b"GET /livez HTTP/1.1", b"Host: x", CHUNKED) + b'0;a="GET /marker HTTP/1.1"\r\n\r\n',
    "behind the last request": get(b"GET /livez HTTP/1.1", b"Host: x", b"Connection: close") + MARKER,
    "behind one of HTTP/1.0": get(b"GET /livez HTTP/1.0") + MARKER,
}


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_a_request_is_refused_or_read_in_one_way(shared_service: RunningService, shape: Shape, figures: Figures) -> None:
    answers, is_closed = rawhttp.ask(shared_service, shape.data)

    if shape.code is None:
        assert [answer.status for answer in answers] == [shape.status, 404]
    else:
        assert [answer.status for answer in answers] == [shape.status]
        assert answers[0].problem["code"] == shape.code
        assert answers[0].headers["Connection"] == "close"
        assert is_closed
        figures.bad_inputs.add(shape.name)


@pytest.mark.parametrize("place", HIDDEN)
def test_what_stands_in_a_body_is_not_answered(shared_service: RunningService, place: str) -> None:
    answers, _ = rawhttp.ask(shared_service, HIDDEN[place])

    assert [answer.status for answer in answers] == [200]


@pytest.mark.parametrize("cut", [0, 1, 7, 8, 20])
def test_a_body_behind_an_upgrade_is_no_request_however_it_is_cut(shared_service: RunningService, cut: int) -> None:
    upgrade = [b"Connection: Upgrade", b"Upgrade: h2c"]
    head = get(b"POST /livez HTTP/1.1", b"Host: x", *upgrade, b"Content-Length: %d" % len(MARKER))
    place = head.index(b"\r\nUpgrade") + 2 + cut
    with rawhttp.connection(shared_service) as opened:
        for piece in (head[:place], head[place:], MARKER):
            opened.sendall(piece)
            time.sleep(0.05)

        answers, _ = rawhttp.read_all(opened)

    assert [answer.status for answer in answers] == [405]


@pytest.mark.parametrize("piece_bytes", [1, 2, 3, 5, 7])
def test_requests_may_come_in_any_pieces(shared_service: RunningService, piece_bytes: int) -> None:
    sent = post(b"Content-Length: 2", b"Upgrade: h2c", body=b"[]") + post(CHUNKED, body=EMPTY_ARRAY) + MARKER
    with rawhttp.connection(shared_service) as opened:
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(sent), piece_bytes):
            opened.sendall(sent[start : start + piece_bytes])
            time.sleep(0.0005)

        answers, _ = rawhttp.read_all(opened)

    assert [answer.status for answer in answers] == [200, 200, 404]


def test_garbage_behind_a_batch_does_not_cost_its_answer(shared_service: RunningService) -> None:
    """Else what was called bad would be stored."""
    answers, is_closed = rawhttp.ask(shared_service, post(b"Content-Length: 2", body=b"[]") + b"\0garbage\r\n\r\n")

    assert [answer.status for answer in answers] == [200]
    assert is_closed


def test_requests_that_do_not_wait_for_answers_are_answered_in_order(shared_service: RunningService) -> None:
    paths = [b"/livez", b"/marker"] * 8

    answers, is_closed = rawhttp.ask(shared_service, b"".join(get(b"GET %s HTTP/1.1" % path, b"Host: x") for path in paths))

    assert [answer.status for answer in answers] == [200, 404] * 8
    assert not is_closed


def test_a_flood_of_requests_that_do_not_wait_is_cut_off(shared_service: RunningService, figures: Figures) -> None:
    before = shared_service.resident_bytes()

    answers, is_closed = rawhttp.ask(shared_service, get(b"GET /livez HTTP/1.1", b"Host: x") * 10_000)

    assert {answer.status for answer in answers} == {200}
    assert 1 <= len(answers) <= 100
    assert is_closed
    assert shared_service.resident_bytes() - before < 10 * 1024 * 1024
    figures.bad_inputs.add("a flood of requests")


def test_the_service_still_works_after_all_of_them(shared_service: RunningService) -> None:
    assert len({shape.name for shape in SHAPES}) == len(SHAPES) >= 100
    assert shared_service.verdict([wire_event()])["accepted"] == 1
