"""What a supervisor and its workers say to each other, over real sockets."""

import socket
from collections.abc import Iterator
from threading import Thread

import msgspec
import pytest

from ingest.cli import channel
from ingest.cli.channel import Closed, Draining, Orders, Ready, Refused, Report, Taken
from ingest.settings import DatabaseUrl, Settings


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The supervisor's end and the worker's."""
    ours, its = socket.socketpair()
    with ours, its:
        yield ours, its


@pytest.mark.parametrize(
    "settings",
    [
        Settings(),
        Settings(db_url=DatabaseUrl("postgresql://ada:p%40ss@db/x"), dedupe_window_days=7, body_timeout_seconds=0.3),
        Settings(maintenance="off", data_dir="/data", inflight_bytes_max=64 * 1024 * 1024 * 1024),
    ],
)
def test_a_worker_gets_its_orders_as_they_were_given(pair: tuple[socket.socket, socket.socket], settings: Settings) -> None:
    orders = Orders(3, DatabaseUrl("postgresql://ada:p%40ss@/x?host=%2Ftmp%2Fa"), settings)
    line = channel.encode(orders)

    def say_it_in_pieces() -> None:
        pair[0].sendall(line[:100])
        pair[0].sendall(line[100:])

    with_pauses = Thread(target=say_it_in_pieces)
    with_pauses.start()
    received = channel.receive_orders(pair[1])
    with_pauses.join()

    assert received == orders
    assert received.url.reveal() == orders.url.reveal()


def test_without_a_supervisor_there_are_no_orders(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[0].close()

    with pytest.raises(EOFError):
        channel.receive_orders(pair[1])


@pytest.mark.parametrize("report", [Ready("PostgreSQL 18.1\nüml"), Refused("No."), Taken(), Closed(), Draining()])
def test_a_report_is_one_line(report: Report) -> None:
    line = channel.encode(report)

    assert line.count(b"\n") == 1
    assert channel.decode_report(line) == report


def test_what_is_no_report_is_not_taken_for_one() -> None:
    with pytest.raises(msgspec.ValidationError):
        channel.decode_report(b'{"type":"shout"}\n')


def test_a_connection_works_on_when_it_was_handed_over(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[1].setblocking(False)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        clients = [socket.create_connection(listener.getsockname()) for _ in range(2)]
        for _ in clients:
            connection, _ = listener.accept()
            with connection:
                channel.send_connection(pair[0], connection)

    for client in clients:  # in the order in which they were handed over
        handed = channel.receive_connection(pair[1])
        assert handed is not None
        with client, handed:
            assert handed.getpeername() == client.getsockname()
            handed.sendall(b"hello")
            assert client.recv(100) == b"hello"

    with pytest.raises(BlockingIOError):
        channel.receive_connection(pair[1])
    pair[0].close()
    with pytest.raises(EOFError):
        channel.receive_connection(pair[1])
