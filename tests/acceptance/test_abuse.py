"""Clients that hold on to what they have, send what has no end, or what stands for more than it is. Each gets its documented
answer, memory stays under a bound, and honest clients are served meanwhile.

Nothing here depends on the database, so one of them is enough.
"""

import contextlib
import gzip
import json
import resource
import select
import socket
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import msgspec
import psutil
import pytest

from ingest.settings import DatabaseUrl
from ingest.web import connections
from tests import honest, rawhttp, servers
from tests.honest import Honest
from tests.rawhttp import HOST, post
from tests.reliability import Figures
from tests.samples import wire_event
from tests.service import RunningService, started

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

pytestmark = [pytest.mark.reliability, servers.ON_ONE]

MIB = 1024 * 1024
P99_MS_MAX = 2000
"""On a machine that does everything else besides; what is seen is far less."""
PER_CONNECTION_BYTES_MAX = 64 * 1024
"""Of the service's memory, for a connection that holds a head of 16 KiB; 32 KB were measured, and 6 KB for an idle one."""

Report = Callable[[str], None]


@pytest.fixture
def report(capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest) -> Report:
    """Says what was measured, past pytest's capture."""

    def say(line: str) -> None:
        with capsys.disabled():
            sys.stdout.write(f"\n{request.node.name}: {line}")

    return say


@contextmanager
def service_with(url: DatabaseUrl, *arguments: str, **variables: str) -> Iterator[RunningService]:
    with started({"DB_URL": url.reveal(), **variables}, *arguments) as running:
        running.verdict([wire_event()])  # warm
        yield running


@contextmanager
def many_descriptors() -> Iterator[int]:
    """As many as this process may have; yields how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def assert_served(during: Honest) -> None:
    """Everything was stored, and in time."""
    assert set(during.statuses) == {200}
    assert during.statuses[200] >= 20
    assert during.p99_ms() < P99_MS_MAX


# --- clients that are slow --------------------------------------------------------------------------------------------


@dataclass
class Slow:
    """Connections of one kind: what they begin with, and then send a piece of, again and again."""

    name: str
    head: bytes
    drip: bytes
    status: int | None
    """Of their answer; None: they are closed without one."""
    seconds: tuple[float, float]
    """Within which it must come."""
    took: list[float] = field(default_factory=list)
    answers: Counter[int | None] = field(default_factory=Counter)


def test_slow_clients_are_given_up(writer_url: DatabaseUrl, is_long: bool, figures: Figures, report: Report) -> None:
    head_seconds = (connections.HEAD_SECONDS - 0.5, connections.HEAD_SECONDS + 3)
    body_seconds = (1.5, 5.0)
    chunked = post(b"Transfer-Encoding: chunked")
    get = b"GET /livez HTTP/1.1\r\nHost: x\r\n"
    kinds = [
        Slow("no head at all", b"", b"", None, head_seconds),
        Slow("a head that does not go on", b"GET /livez HTT", b"", 408, head_seconds),
        Slow("a head that drips", get, b"X: y\r\n", 408, head_seconds),
        Slow("empty lines that drip", b"\r\n", b"\r\n", None, head_seconds),
        Slow("a body that does not go on", post(b"Content-Length: 9", body=b"["), b"", 408, body_seconds),
        Slow("a body that drips", post(b"Content-Length: 99999"), b" ", 408, body_seconds),
        Slow("chunks that drip", chunked, b"1\r\n \r\n", 408, body_seconds),
        Slow("trailers that drip", chunked + b"2\r\n[]\r\n0\r\n", b"X: y\r\n", 408, body_seconds),
        Slow("an extension that drips", chunked + b"2;", b"a", 408, body_seconds),
        Slow("a body that nobody waits for", get + b"Content-Length: 99999\r\n\r\n", b" ", 200, (3, head_seconds[1])),
    ]
    each = 200 if is_long else 30
    with many_descriptors(), service_with(writer_url, BODY_TIMEOUT_SECONDS="2") as service:
        before, idle_bytes = honest.measured(service), service.resident_bytes()
        with honest.posting(service) as during:
            _drip(service, kinds, each)
        assert_served(during)
        assert service.peak_bytes() - idle_bytes < 20 * MIB + len(kinds) * each * PER_CONNECTION_BYTES_MAX
    for kind in kinds:
        assert kind.answers == {kind.status: each}, kind.name
        assert kind.seconds[0] < min(kind.took) <= max(kind.took) < kind.seconds[1], kind.name
        figures.bad_inputs.add(kind.name)
    report(f"before: {before}; beside {len(kinds) * each} slow clients: {during}")


def _drip(service: RunningService, kinds: list[Slow], each: int) -> None:
    """Opens so many connections of each kind, and waits until the service has closed all of them."""
    with ExitStack() as stack:
        opened: dict[int, tuple[socket.socket, Slow, float, bytearray]] = {}
        poll = select.epoll()
        stack.callback(poll.close)
        for kind in kinds * each:
            connection = stack.enter_context(rawhttp.connection(service))
            connection.sendall(kind.head)
            connection.setblocking(False)
            opened[connection.fileno()] = (connection, kind, time.monotonic(), bytearray())
            poll.register(connection, select.EPOLLIN)
        dripped = time.monotonic()
        while opened:
            for descriptor, _ in poll.poll(0.1):
                connection, kind, since, said = opened[descriptor]
                try:
                    piece = connection.recv(65536)
                except ConnectionError:
                    piece = b""
                said += piece
                if not piece:
                    kind.took.append(time.monotonic() - since)
                    kind.answers[int(said[9:12]) if said else None] += 1
                    poll.unregister(descriptor)
                    del opened[descriptor]
            if time.monotonic() - dripped > 0.25:
                dripped = time.monotonic()
                for connection, kind, since, _ in opened.values():
                    assert dripped - since < 30, kind.name
                    with contextlib.suppress(OSError):
                        connection.send(kind.drip)


def test_a_client_that_does_not_read_holds_little_and_is_given_up(
    writer_url: DatabaseUrl, is_long: bool, figures: Figures
) -> None:
    with service_with(writer_url) as service:
        before = service.resident_bytes()
        with ExitStack() as stack:
            for _ in range(50):
                connection = stack.enter_context(rawhttp.connection(service))
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                connection.sendall(b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
            time.sleep(2)
            assert _connections(service) > 40
            assert service.peak_bytes() - before < 60 * MIB
            if is_long:
                deadline = time.monotonic() + connections.WRITE_SECONDS + 10
                while _connections(service) > 5:
                    assert time.monotonic() < deadline
                    time.sleep(0.5)
                assert service.peak_bytes() - before < 60 * MIB
            figures.bad_inputs.add("an answer that is not read")


def test_who_asks_for_what_needs_no_key_holds_up_nobody(writer_url: DatabaseUrl, report: Report) -> None:
    requests, clients = 15, 150
    with service_with(writer_url) as service, ExitStack() as stack:
        before = honest.measured(service)
        opened = [stack.enter_context(rawhttp.connection(service)) for _ in range(clients)]
        with honest.posting(service) as during:
            for attacker in opened:
                attacker.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * requests)
            for attacker in opened:
                answers, _ = rawhttp.read_all(attacker, answers_max=requests)
                assert [answer.status for answer in answers] == [200] * requests
    report(f"before: {before}; beside {clients * requests} requests for the document: {during}")
    # However few: where they are answered fast, it is over soon.
    assert set(during.statuses) == {200}
    assert during.p99_ms() < P99_MS_MAX


# --- many connections -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
def test_thousands_of_idle_connections(
    writer_url: DatabaseUrl, workers: int, is_long: bool, figures: Figures, report: Report
) -> None:
    kept, opened = (1000, 10_000) if is_long else (200, 1200)
    with ExitStack() as stack:
        hard = stack.enter_context(many_descriptors())
        if hard < opened + 200:
            pytest.skip(f"this process may open {hard} files")
        stack.enter_context(_soft_limit(256))
        service = stack.enter_context(service_with(writer_url, "--workers", str(workers), MAX_CONNECTIONS=str(kept)))
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        before, idle_bytes = honest.measured(service), _resident_bytes(service)
        with honest.posting(service) as during:
            began = time.monotonic()
            attackers = [stack.enter_context(rawhttp.connection(service)) for _ in range(opened)]
            took = time.monotonic() - began
            time.sleep(1)
            assert kept * 0.8 <= _connections(service) <= workers * (kept + 1)
            closed = sum(_is_closed(attacker) for attacker in attackers)
            assert closed >= opened - workers * kept
        assert_served(during)
        assert during.resets <= 5
        more_bytes = _resident_bytes(service) - idle_bytes
        assert more_bytes < 20 * MIB * workers + kept * workers * PER_CONNECTION_BYTES_MAX
        figures.bad_inputs.add("idle connections")
    report(f"before: {before}; beside {opened} idle connections in {took:.1f} s, {more_bytes // 1024} kB: {during}")


def test_connections_with_half_a_request_go_for_new_ones(writer_url: DatabaseUrl, figures: Figures) -> None:
    with service_with(writer_url, MAX_CONNECTIONS="20") as service, ExitStack() as stack:
        for _ in range(60):
            connection = stack.enter_context(rawhttp.connection(service))
            connection.sendall(post(b"Content-Length: 99", body=b"["))
        time.sleep(connections.RECEIVING_SECONDS_MIN + 0.2)

        with honest.posting(service) as during:
            time.sleep(1)

        assert set(during.statuses) == {200}
        figures.bad_inputs.add("connections with half a request")


def test_where_all_connections_work_a_new_one_is_told_so(writer_url: DatabaseUrl, figures: Figures) -> None:
    with service_with(writer_url, MAX_CONNECTIONS="2") as service, ExitStack() as stack:
        service.client.close()
        for _ in range(2):
            connection = stack.enter_context(rawhttp.connection(service))
            connection.sendall(post(b"Content-Length: 99", body=b"["))
        time.sleep(0.2)

        with rawhttp.connection(service) as refused:
            (answer,), is_closed = rawhttp.read_all(refused)

        assert (answer.status, answer.problem["code"]) == (503, "too_many_connections")
        assert 1 <= int(answer.headers["Retry-After"]) <= 3
        assert is_closed
        figures.bad_inputs.add("a connection too many")


# --- what has no end --------------------------------------------------------------------------------------------------


def _endless(opened: socket.socket, piece: bytes, bytes_max: int) -> int:
    """Sends the piece again and again, until the service hangs up or so many bytes are gone."""
    sent = 0
    with contextlib.suppress(ConnectionError):
        while sent < bytes_max:
            opened.sendall(piece)
            sent += len(piece)
    return sent


ENDLESS = {
    "fields": (b"GET /livez HTTP/1.1\r\nHost: x\r\n", b"X-Header: and so on\r\n" * 1000, 431, MIB),
    "a field": (b"GET /livez HTTP/1.1\r\nHost: x\r\nX: ", b"y" * 65536, 431, MIB),
    "a target": (b"GET /", b"x" * 65536, 414, MIB),
    "an extension": (post(b"Transfer-Encoding: chunked") + b"2;a=", b"b" * 65536, 431, MIB),
    "extensions": (post(b"Transfer-Encoding: chunked"), b"1;aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n \r\n" * 1000, 431, MIB),
    "trailers": (post(b"Transfer-Encoding: chunked") + b"2\r\n[]\r\n0\r\n", b"X: y\r\n" * 10000, 431, MIB),
    "a trailer": (post(b"Transfer-Encoding: chunked") + b"2\r\n[]\r\n0\r\nX: ", b"y" * 65536, 431, MIB),
    "a body": (post(b"Transfer-Encoding: chunked"), b"10000\r\n" + b" " * 65536 + b"\r\n", 413, 64 * MIB),
    "a compressed body": (
        post(b"Transfer-Encoding: chunked", b"Content-Encoding: gzip") + b"A\r\n" + gzip.compress(b"")[:10] + b"\r\n",
        *(b"FFFF\r\n" + b"\x00\x00\x00\xff\xff" * 13107 + b"\r\n", 413, 10 * MIB),
    ),
}
"""How it begins, how it goes on, the answer, and how much is taken before that."""


@pytest.mark.parametrize("kind", ENDLESS)
def test_what_has_no_end_is_cut_off(shared_service: RunningService, kind: str, figures: Figures) -> None:
    head, piece, status, taken_max = ENDLESS[kind]
    before = shared_service.resident_bytes()
    with rawhttp.connection(shared_service) as opened, rawhttp.connection(shared_service) as other:
        opened.sendall(head)
        sending = threading.Thread(target=_endless, args=(opened, piece, taken_max + 200 * MIB))
        sending.start()

        other.sendall(b"GET /livez HTTP/1.1\r\n" + HOST + b"\r\n")
        assert rawhttp.read_all(other)[0][0].status == 200
        (answer,), _ = rawhttp.read_all(opened, answers_max=1)
        opened.shutdown(socket.SHUT_RDWR)
        sending.join()

    assert answer.status == status, answer.body
    assert answer.headers["Connection"] == "close"
    assert answer.problem["code"] in ("head_too_large", "target_too_long", "limit_exceeded")
    assert shared_service.resident_bytes() - before < taken_max * 1.5 + 20 * MIB
    figures.bad_inputs.add(f"{kind} without an end")


# --- bodies that stand for more than they are -------------------------------------------------------------------------


def _unended(inflated_bytes: int) -> bytes:
    """A request whose body has come to so many bytes, of a thousandth of that, and goes on."""
    deflate = zlib.compressobj(9)
    body = deflate.compress(b"[" + b" " * inflated_bytes) + deflate.flush(zlib.Z_SYNC_FLUSH)
    return post(b"Content-Encoding: deflate", b"Content-Length: 100000", body=body)


def _hold(service: RunningService, request: bytes, stop: threading.Event, statuses: Counter[int]) -> None:
    """Sends the request and does not end it, again and again."""
    while not stop.is_set():
        with contextlib.suppress(OSError), rawhttp.connection(service, 20) as opened:
            opened.sendall(request)
            for answer in rawhttp.read_all(opened, answers_max=1)[0]:
                statuses[answer.status] += 1
        stop.wait(0.02)


def test_who_holds_much_and_keeps_us_waiting_gives_way(
    writer_url: DatabaseUrl, is_long: bool, figures: Figures, report: Report
) -> None:
    """Four of the large ones fill MAX_INFLIGHT_BYTES, and the small ones what these leave."""
    large, seconds = (32, 60) if is_long else (8, 4)
    attacks = [_unended(60 * MIB)] * large + [_unended(1024 << power) for power in range(16)] * 2
    statuses: Counter[int] = Counter()
    stop = threading.Event()
    threads: list[threading.Thread] = []
    with service_with(writer_url, SHUTDOWN_SECONDS="1") as service:
        before, idle_bytes = honest.measured(service), service.resident_bytes()
        threads += [threading.Thread(target=_hold, args=(service, attack, stop, statuses)) for attack in attacks]
        for thread in threads:
            thread.start()
        time.sleep(1)
        with honest.posting(service, clients=2) as during:
            time.sleep(seconds)
        used_bytes = service.peak_bytes() - idle_bytes
        answers = dict(statuses)
        stop.set()
    for thread in threads:
        thread.join()
    report(f"before: {before}; beside {len(attacks)} that hold up to 60 MiB each, {used_bytes // MIB} MiB: {during}")
    assert set(during.statuses) <= {200, 503}
    assert during.statuses[503] <= 0.05 * during.statuses[200]
    assert during.p99_ms() < P99_MS_MAX
    assert set(answers) == {503}
    assert used_bytes < 2 * 256 * MIB
    figures.bad_inputs.add("much that is held, and waited for")


def _slow_item() -> bytes:
    """An event that is rejected after 25,000 numbers and a text that is no Unicode were looked at."""
    head = msgspec.json.encode(wire_event())[:-1]
    return head + b',"team":"","x":"\\ud800","extra":{"a":[' + b",".join([b"1"] * 25_000) + b"]}}"


WHOLE_BOMBS: dict[str, tuple[int, Callable[[], bytes]]] = {
    "32 MB of blanks": (20, lambda: b"[" + b" " * (31 * MIB) + b"]"),
    "a second of decoding": (5, lambda: b"[" + b",".join([_slow_item()] * 1000) + b"]"),
}
"""How many clients send it, and the body: whole, and taken."""


@pytest.mark.parametrize("kind", WHOLE_BOMBS)
def test_whole_bodies_that_cost_much_leave_room_for_others(
    writer_url: DatabaseUrl, kind: str, is_long: bool, figures: Figures, report: Report
) -> None:
    clients, make = WHOLE_BOMBS[kind]
    body = zlib.compress(make(), 9)
    request = post(b"Content-Encoding: deflate", b"Content-Length: %d" % len(body), b"Connection: close", body=body)
    statuses: Counter[int] = Counter()
    stop = threading.Event()
    with service_with(writer_url) as service:
        threads = [threading.Thread(target=_hold, args=(service, request, stop, statuses)) for _ in range(clients)]
        for thread in threads:
            thread.start()
        time.sleep(1)
        with honest.posting(service) as small, honest.posting(service, make=honest.middle) as middle:
            time.sleep(30 if is_long else 5)
        stop.set()
        for thread in threads:
            thread.join()
    report(f"beside {clients} with {len(body) // 1024} KiB each, {dict(statuses)}: small: {small}; 150 KB: {middle}")
    assert set(statuses) <= {200, 422, 503}
    assert set(small.statuses) == set(middle.statuses) == {200}  # of few, where the machine has other work too
    assert max(small.p99_ms(), middle.p99_ms()) < 2 * P99_MS_MAX
    figures.bad_inputs.add(kind)


def test_what_was_refused_is_not_kept_while_the_client_goes_on(writer_url: DatabaseUrl, figures: Figures) -> None:
    """The service reads on for a while, so that the answer is seen; the body it refused is gone by then."""
    bomb = zlib.compress(b" " * 70 * MIB, 9)
    with service_with(writer_url) as service, ExitStack() as stack:
        before = service.resident_bytes()
        opened = [stack.enter_context(rawhttp.connection(service)) for _ in range(12)]
        for one in opened:
            one.sendall(post(b"Content-Encoding: deflate", b"Content-Length: 1000000") + bomb)
            (answer,), _ = rawhttp.read_all(one, answers_max=1)
            assert (answer.status, answer.problem["code"]) == (413, "limit_exceeded")
        assert service.peak_bytes() - before < 200 * MIB
        figures.bad_inputs.add("a body that goes on after it was refused")


def _zstd_bomb() -> bytes:
    """A GiB of zeros, as 1024 frames."""
    return zstd.compress(bytes(MIB), 19) * 1024


BOMBS = {
    "zstd": ("zstd", _zstd_bomb, 413),
    "gzip in gzip": ("gzip", lambda: gzip.compress(gzip.compress(b"[]")), 400),
    "gzip in gzip in gzip": ("gzip", lambda: gzip.compress(gzip.compress(gzip.compress(bytes(60 * MIB)))), 400),
    "half a million empty members": ("gzip", lambda: gzip.compress(b"", mtime=0) * (10 * MIB // 20), 400),
    "members of a blank each": ("gzip", lambda: gzip.compress(b" ", mtime=0) * (10 * MIB // 21), 400),
    "a million empty frames": ("zstd", lambda: zstd.compress(b"") * (10 * MIB // 9), 400),
    "zeros behind a member": ("gzip", lambda: gzip.compress(b"[]") + bytes(10 * MIB - 100), 200),
    "chunks of a byte": (None, lambda: b" " * 200_000 + b"[]", 200),
}
"""The coding, the body, and the answer."""


@pytest.mark.parametrize("kind", BOMBS)
def test_a_bomb_costs_no_more_than_others(
    shared_service: RunningService, kind: str, figures: Figures, report: Report
) -> None:
    coding, make, status = BOMBS[kind]
    body = make()
    assert len(body) <= 10 * MIB
    if kind == "chunks of a byte":
        sent = post(b"Transfer-Encoding: chunked") + b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    else:
        assert coding is not None
        sent = post(b"Content-Encoding: " + coding.encode(), b"Content-Length: %d" % len(body)) + body
    before, idle_bytes = honest.measured(shared_service, 0.5), shared_service.resident_bytes()

    with honest.posting(shared_service) as during:
        began = time.monotonic()
        (answer,), _ = rawhttp.ask(shared_service, sent)
        took = time.monotonic() - began
        time.sleep(0.3)

    assert answer.status == status, answer.body
    assert set(during.statuses) == {200}
    assert during.p99_ms() < P99_MS_MAX / 4
    assert took < 20
    assert shared_service.resident_bytes() - idle_bytes < 100 * MIB
    figures.bad_inputs.add(kind)
    report(f"{took:.1f} s; before: {before}; during: {during}")


# --- JSON that is much ------------------------------------------------------------------------------------------------


def test_10_000_teams_are_taken_in_bounded_memory(shared_service: RunningService) -> None:
    before = shared_service.resident_bytes()

    for start in range(0, 10_000, 1000):
        events = [wire_event(team=f"team-{number}", user_id=f"user-{number}") for number in range(start, start + 1000)]
        assert shared_service.verdict(events)["accepted"] == 1000

    assert shared_service.resident_bytes() - before < 50 * MIB


def test_a_time_in_each_century_has_its_answer(shared_service: RunningService) -> None:
    years = [1, 99, *range(100, 10_000, 100), 9999]
    events = [wire_event(event_time=f"{year:04}-02-03T04:05:06Z") for year in years]

    answer = shared_service.post(events)

    codes = {year: error["code"] for year, error in zip(years, answer.json()["errors"], strict=False)}
    assert answer.status_code == 422
    assert answer.json()["rejected"] == len(years)
    assert codes == {year: "too_old" if year <= 2000 else "in_future" for year in list(codes)}


@pytest.mark.parametrize("year", ["0000", "10000", "-0001", "+2026", "99999"])
def test_a_time_past_all_centuries_is_no_time(shared_service: RunningService, year: str, figures: Figures) -> None:
    answer = shared_service.post([wire_event(event_time=f"{year}-02-03T04:05:06Z")])

    assert answer.status_code == 422
    assert (answer.json()["errors"][0]["code"], answer.json()["errors"][0]["field"]) == ("invalid_field", "event_time")
    figures.bad_inputs.add(f"the year {year}")


def test_huge_keys_are_taken_in_bounded_memory(writer_url: DatabaseUrl, is_long: bool, report: Report) -> None:
    key = b'"' + b"k" * ((60 if is_long else 20) * MIB) + b'": 1'
    with service_with(writer_url) as service:
        before = service.resident_bytes()
        with honest.posting(service) as during:
            for text in (key, b'"extra": {' + key + b"}"):
                event = json.dumps(wire_event()).encode()
                assert service.verdict(b"[" + event[:-1] + b", " + text + b"}]")["accepted"] == 1
        took_bytes = service.peak_bytes() - before
    report(f"{took_bytes // MIB} MiB; {during}")
    assert set(during.statuses) == {200}
    assert took_bytes < 3.5 * 64 * MIB


def test_of_keys_that_stand_twice_the_last_one_counts(
    shared_service: RunningService, shared_database_url: DatabaseUrl
) -> None:
    event = wire_event()
    text = json.dumps(event)[:-1]

    twice = f'[{text}, "team": "last", "x": 1, "x": 2, "extra": {{"a": 9}}, "extra": {{"b": 3, "b": 4}}}}]'
    assert shared_service.verdict(twice.encode())["accepted"] == 1
    assert shared_service.verdict([{**event, "team": "last", "extra": {"b": 4, "x": 2}}])["duplicates"] == 1

    stored = servers.query(
        shared_database_url, f"SELECT team, extra FROM analytics.usage_events WHERE event_id = '{event['event_id']}'"
    )
    assert stored == [("last", {"b": 4, "x": 2})]


# --- helpers ----------------------------------------------------------------------------------------------------------


@contextmanager
def _soft_limit(files: int) -> Iterator[None]:
    """What is started meanwhile may open so many files, unless it asks for more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _processes(service: RunningService) -> list[psutil.Process]:
    """The service's, its workers included; not the databases'."""
    process = psutil.Process(service.process.pid)
    return [process, *(child for child in process.children() if "ingest.cli.worker" in child.cmdline())]


def _resident_bytes(service: RunningService) -> int:
    return sum(process.memory_info().rss for process in _processes(service))


def _connections(service: RunningService) -> int:
    """How many connections of clients are open."""
    port = rawhttp.address(service)[1]
    return sum(
        connection.laddr.port == port and connection.status == psutil.CONN_ESTABLISHED
        for process in _processes(service)
        for connection in process.net_connections("tcp")
    )


def _is_closed(opened: socket.socket) -> bool:
    opened.setblocking(False)
    try:
        return opened.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True
