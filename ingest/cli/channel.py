"""What a supervisor and its workers say to each other, over a pair of Unix sockets for each worker.

To a worker come, first, one line of JSON, its `Orders`; then the connections it is to serve, each as a descriptor
(SCM_RIGHTS) beside one byte. From a worker come reports, one line of JSON each. Who is gone, the end of the stream tells.
"""

import socket

import msgspec
from msgspec import Struct

from ingest.settings import DatabaseUrl, Settings

STOP_SPARE_SECONDS = 3
"""How long a process may take to stop beyond SHUTDOWN_SECONDS, where others want the processor too."""

_CONNECTION = b"+"


class Orders(Struct, frozen=True):
    """What a worker needs to know. The settings are those that the supervisor read, whatever the environment is by now."""

    number: int
    url: DatabaseUrl
    settings: Settings
    workers: int = 1
    """How many there are to be."""
    is_restart: bool = False
    """Whether the service serves already: then it goes on, though it would not be started as things are now."""


class Ready(Struct, frozen=True, tag="ready"):
    """The worker serves. `database` describes what it found, in a few words."""

    database: str


class Refused(Struct, frozen=True, tag="refused"):
    """The worker can't start until a person acts; `problem` is the line that says why."""

    problem: str


class Taken(Struct, frozen=True, tag="taken"):
    """The worker has the next of the connections that were handed to it, and will read from it."""


class Closed(Struct, frozen=True, tag="closed"):
    """One of the connections that the worker has taken has ended."""


class Draining(Struct, frozen=True, tag="draining"):
    """The worker was told to stop: what it has not taken, is another's."""


Report = Ready | Refused | Taken | Closed | Draining

_encoder = msgspec.json.Encoder(enc_hook=lambda url: url.reveal())
_orders_decoder = msgspec.json.Decoder(Orders, dec_hook=lambda kind, text: kind(text))
_report_decoder = msgspec.json.Decoder(Report)


def encode(message: Orders | Report) -> bytes:
    """The message as a line."""
    return _encoder.encode(message) + b"\n"


def decode_report(line: bytes) -> Report:
    """What a worker said in this line."""
    report: Report = _report_decoder.decode(line)
    return report


def receive_orders(channel: socket.socket) -> Orders:
    """Waits for the orders, which nothing follows until the worker has reported. Raises EOFError if none come."""
    line = bytearray()
    while not line.endswith(b"\n"):
        piece = channel.recv(65536)
        if not piece:
            raise EOFError("the supervisor is gone")
        line += piece
    return _orders_decoder.decode(line)


def send_connection(channel: socket.socket, connection: socket.socket) -> None:
    """Hands a connection over. The caller keeps its own descriptor until the worker has taken the connection.

    Raises BlockingIOError if as much is under way as the kernel allows, OSError if the worker is gone.
    """
    socket.send_fds(channel, [_CONNECTION], [connection.fileno()])


def receive_connection(channel: socket.socket) -> socket.socket | None:
    """The next connection; None if it is lost, because this process has no descriptor left.

    Raises BlockingIOError if there is none now, EOFError if the supervisor is gone.
    """
    try:
        mark, descriptors, _, _ = socket.recv_fds(channel, len(_CONNECTION), 1)
    except ConnectionError:
        mark = b""
    if not mark:
        raise EOFError("the supervisor is gone")
    return socket.socket(fileno=descriptors[0]) if descriptors else None
