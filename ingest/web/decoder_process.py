"""A process beside the service that decodes the bodies which would hold up its event loop.

Decoding is one C call after the other that holds the interpreter's lock, so a thread would not help: a body of 64 MiB would
keep health checks waiting for 0.1 to 4 seconds. The process takes one body at a time through its standard input, and gives
back the rows through its standard output, both in pieces, because even copying 64 MiB at once takes 20 ms.

It is started when a body first needs it (0.1 s, 25 MiB), and ends when its input does: with the service, however that ends.
"""

import asyncio
import importlib
import os
import signal
import sys
import traceback
from array import array
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from io import BufferedReader
from typing import Any, BinaryIO

import msgspec
from msgspec import Struct

from ingest import errors
from ingest.events import STREAMS, Stream, Window
from ingest.flow.batch import Batch, Encode, Rows
from ingest.verdict import Rejection
from ingest.web.decode import Media, decode

PIECE_BYTES = 256 * 1024
DECODE_SECONDS_MAX = 60.0
ATTEMPTS_MAX = 2
TURN_SECONDS_MAX = 20.0
"""For a body to wait for others. Its client waits too, mostly for 30 s."""
NICENESS = 5
"""Below the event loop, which has little to do and must do it soon."""

_LENGTH_BYTES = 8


class _Question(Struct, array_like=True):
    """What stands before a body."""

    stream: str
    media: Media
    oldest: datetime
    newest: datetime
    items_max: int
    strict: bool
    teams: frozenset[str] | None
    body_bytes: int


class _Rows(Struct, tag=True):
    """What stands before the fields of the rows."""

    received: int
    claims: list[bytes]
    times: list[datetime | None]
    ends: list[int]
    indices: list[int]
    sanitized: list[int]
    rejections: list[Rejection]
    fields_bytes: int


class _TooMany(Struct, tag=True):
    """errors.LimitExceeded."""

    name: str
    limit: int
    seen: int
    unit: str


class _Unreadable(Struct, tag=True):
    """errors.BodyUnreadable."""

    message: str


class _Mistake(Struct, tag=True):
    """Whatever should not happen; the process has written it to its standard error."""

    message: str


_Answer = _Rows | _TooMany | _Unreadable | _Mistake


class DecoderProcess:
    """The process, as the service sees it.

    encode: where the function is that makes rows of items (ingest.flow.batch.Encode), as "module:name".
    """

    def __init__(self, encode: str) -> None:
        self._encode = encode
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()

    async def decode(
        self,
        stream: Stream,
        body: bytes | bytearray,
        media: Media,
        window: Window,
        *,
        items_max: int,
        strict: bool,
        teams: frozenset[str] | None = None,
    ) -> Batch:
        """As ingest.web.decode.decode, to rows, without usage events of other teams than these. Bodies wait for one another.

        Raises errors.BodyUnreadable and errors.LimitExceeded as that does, errors.QueueFull if its turn does not come within
        TURN_SECONDS_MAX, and errors.DecoderGone if the process ended, or was too slow, ATTEMPTS_MAX times over this body.
        """
        question = _Question(stream.name, media, window.oldest, window.newest, items_max, strict, teams, len(body))
        async with self._its_turn():
            for _ in range(ATTEMPTS_MAX):
                try:
                    async with asyncio.timeout(DECODE_SECONDS_MAX):
                        answer, fields = await self._ask(question, body)
                except (_Gone, OSError, EOFError, TimeoutError):
                    await self._stop()
                except BaseException:  # cancelled: what it answers would be taken for the next body's
                    await self._stop()
                    raise
                else:
                    return _batch_of(stream, answer, fields, strict=strict)
        raise errors.DecoderGone("The process that decodes large bodies ended over this one.")

    @asynccontextmanager
    async def _its_turn(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(TURN_SECONDS_MAX):
                await self._turn.acquire()
        except TimeoutError:
            raise errors.QueueFull(f"Other bodies of this size took longer than {TURN_SECONDS_MAX:g} s.") from None
        try:
            yield
        finally:
            self._turn.release()

    async def close(self) -> None:
        """Ends the process, if there is one."""
        await self._stop()

    async def _ask(self, question: _Question, body: bytes | bytearray) -> tuple[_Answer, bytearray]:
        process = await self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        header = msgspec.msgpack.encode(question)
        await _write(process.stdin, len(header).to_bytes(_LENGTH_BYTES) + header)
        view = memoryview(body)
        for start in range(0, len(view), PIECE_BYTES):
            await _write(process.stdin, bytes(view[start : start + PIECE_BYTES]))
        answer_bytes = int.from_bytes(await process.stdout.readexactly(_LENGTH_BYTES))
        answer: _Answer = msgspec.msgpack.decode(await _read(process.stdout, answer_bytes), type=_Answer)
        fields = await _read(process.stdout, answer.fields_bytes) if isinstance(answer, _Rows) else bytearray()
        return answer, fields

    async def _running(self) -> asyncio.subprocess.Process:
        if self._process is not None and self._process.returncode is not None:
            await self._stop()  # it was killed while it had nothing to do
        if self._process is None:
            self._process = await asyncio.create_subprocess_exec(
                # -P, so that a folder `ingest` where we happen to stand is not taken for the package.
                *(sys.executable, "-P", "-m", __name__, self._encode),
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join([os.environ.get("PYTHONPATH", ""), *sys.path]).strip(os.pathsep),
                },
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=2 * PIECE_BYTES,
            )
        return self._process

    async def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


class _Gone(Exception):
    """The process ended; the event loop knows, and this program not yet."""


async def _write(stream: asyncio.StreamWriter, piece: bytes) -> None:
    try:
        stream.write(piece)
    except RuntimeError as error:  # what uvloop raises where its pipe is closed already
        raise _Gone from error
    await stream.drain()


async def _read(stream: asyncio.StreamReader, size: int) -> bytearray:
    """So many bytes, copied as they come. (`bytearray(size)` would take 40 ms for 64 MiB, appending never half of one.)"""
    data = bytearray()
    while len(data) < size:
        piece = await stream.read(min(PIECE_BYTES, size - len(data)))
        if not piece:
            raise EOFError
        data += piece
    return data


def _batch_of(stream: Stream, answer: _Answer, fields: bytearray, *, strict: bool) -> Batch:
    match answer:
        case _Rows():
            return Batch(
                stream=stream,
                received=answer.received,
                rows=Rows(answer.claims, answer.times, fields, array("Q", answer.ends)),
                indices=answer.indices,
                sanitized=frozenset(answer.sanitized),
                rejections=answer.rejections,
                strict=strict,
            )
        case _TooMany():
            raise errors.LimitExceeded(answer.name, answer.limit, answer.seen, answer.unit)
        case _Unreadable():
            raise errors.BodyUnreadable(answer.message)
        case _Mistake():
            raise RuntimeError(answer.message)


# --- in the process ---------------------------------------------------------------------------------------------------


def _answer_to(question: _Question, body: bytearray, encode: Encode) -> tuple[_Answer, bytes]:
    stream = next(stream for stream in STREAMS if stream.name == question.stream)
    window = Window(question.oldest, question.newest)
    try:
        decoded = decode(stream, body, question.media, window, items_max=question.items_max, strict=question.strict)
        batch = decoded.of_teams(question.teams).encoded(encode)
    except errors.LimitExceeded as error:
        return _TooMany(error.name, error.limit, error.seen, error.unit), b""
    except errors.BodyUnreadable as error:
        return _Unreadable(str(error)), b""
    except Exception as mistake:  # noqa: BLE001 - the service answers it as any mistake of its own
        traceback.print_exc()
        return _Mistake(f"{type(mistake).__name__} in the process that decodes"), b""
    rows = batch.rows
    answer = _Rows(
        batch.received,
        rows.claims,
        rows.times,
        list(rows.ends),
        list(batch.indices),
        sorted(batch.sanitized),
        list(batch.rejections),
        len(rows.fields),
    )
    return answer, bytes(rows.fields)


def _serve(source: BufferedReader, sink: BinaryIO, encode: Encode) -> None:
    """Answers until the input ends."""
    while len(length := source.read(_LENGTH_BYTES)) == _LENGTH_BYTES:
        _serve_one(int.from_bytes(length), source, sink, encode)  # which leaves nothing of it in memory


def _serve_one(header_bytes: int, source: BufferedReader, sink: BinaryIO, encode: Encode) -> None:
    question = msgspec.msgpack.decode(source.read(header_bytes), type=_Question)
    body = bytearray(question.body_bytes)
    if source.readinto(body) < len(body):
        return
    answer, fields = _answer_to(question, body, encode)
    header = msgspec.msgpack.encode(answer)
    sink.write(len(header).to_bytes(_LENGTH_BYTES) + header)
    sink.write(fields)
    sink.flush()


def _main(encode: str) -> None:
    # Ctrl-C reaches all processes of a terminal. This one ends when its input does.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    os.nice(NICENESS)
    module, _, name = encode.partition(":")
    function: Any = getattr(importlib.import_module(module), name)
    with suppress(BrokenPipeError):
        _serve(sys.stdin.buffer, sys.stdout.buffer, function)  # type: ignore[arg-type] # it is a BufferedReader


if __name__ == "__main__":
    _main(sys.argv[1])
