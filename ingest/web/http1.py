"""HTTP/1.1 as uvicorn speaks it, made strict and bounded. An HTTP server class for uvicorn's `http=`.

The parser (llhttp) tells where a message ends, and refuses most of what may be read in two ways: Content-Length beside
Transfer-Encoding, two lengths, folded lines, bare line feeds, chunk sizes that are no numbers. What it lets through is
refused here: transfer codings other than `chunked`, which nobody would decode; a Host that is missing, doubled or no host;
other versions of HTTP. Trailers and chunk extensions are skipped, as those are that a server has no use for (RFC 9112,
sections 7.1.1 and 7.1.2).
"""

import asyncio
import re
from typing import Any

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from ingest import errors
from ingest.web import problems, request_ids, request_log
from ingest.web.connections import Connections

HEAD_BYTES_MAX = 16 * 1024
"""Names and values of the fields of a request together, its target counted in. Node.js has the same."""
HEAD_FIELDS_MAX = 100
TARGET_BYTES_MAX = 8 * 1024
"""RFC 9112, section 3, recommends at least 8000."""
FRAMING_BYTES_MAX = 16 * 1024
"""Bytes of a chunked body that are none of its content: chunk extensions and trailers. Beyond these each chunk may have 16,
which is more than its size and line ends take."""
FRAMING_BYTES_PER_CHUNK = 16
JOINED_BYTES_MAX = 16 * 1024
"""What is written in larger pieces is sent as it comes."""
PIPELINED_MAX = 16
"""Requests that may wait on a connection for the answer to the one before them. Each takes 3 KB, for 18 bytes."""

_METHODS = frozenset({b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"TRACE", b"QUERY"})
_HOST = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=%:\[\]-]*")  # RFC 3986, section 3.2, without userinfo
_UPGRADE = re.compile(rb"^upgrade:", re.IGNORECASE | re.MULTILINE)
_OTHER_VERSION = "Invalid HTTP version"
"""What the parser says."""
_END_OF_LINE = b"\r\n"
_END_OF_HEAD = b"\r\n\r\n"


class _JoinedWrites:
    """A transport, all else being as it was, that sends together what is written in one turn of the event loop, unless it is
    much: then whoever writes must be told at once that the client does not read."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._held: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def write(self, data: bytes) -> None:
        if not self._held:
            self._loop.call_soon(self._flush)
        self._held.append(data)
        if len(data) >= JOINED_BYTES_MAX:
            self._flush()

    def write_eof(self) -> None:
        self._flush()
        if not self._transport.is_closing():
            self._transport.write_eof()

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        held, self._held = self._held, []
        if held and not self._transport.is_closing():
            self._transport.write(b"".join(held))


class Http1(HttpToolsProtocol):
    """Sends an answer in one piece, ignores Upgrade, and refuses with problem details and an id what is no HTTP, ambiguous,
    too much or too slow."""

    server_state: Connections

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._line = b""
        """What came of a line of a head, to be parsed when it is whole."""
        self._in_head = False
        self._in_message = False
        self._is_by_line = False
        """Whether the parser got the head in whole lines, from its first byte; not if it came behind another request."""
        self._is_deaf = False
        """Whether the client was refused: what it still sends is thrown away, and the connection ends."""
        self._is_over = False
        """Whether nothing more is said to the client, and its going is all that is waited for."""
        self._refusal: errors.IngestError | None = None
        """Why a callback of the parser stopped it."""
        self._head_bytes = 0
        self._head_fields = 0
        self._framing_bytes = 0

    # --- the connection ------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as its base has it
        super().connection_made(transport)
        # uvicorn writes head and body apart: two system calls here, and two turns at the client's.
        self.transport = _JoinedWrites(transport)  # type: ignore[assignment]
        if self.server_state.make_room(self.loop.time()):
            self.server_state.waiting.enter(self, self.loop.time())
        else:
            self._answer(errors.ConnectionsFull(f"All {self.server_state.connections_max} connections are in use."))

    def connection_lost(self, exc: Exception | None) -> None:
        self.server_state.forget(self)
        super().connection_lost(exc)
        self._line = b""

    def pause_writing(self) -> None:
        super().pause_writing()
        self.server_state.stalled.enter(self, self.loop.time())

    def resume_writing(self) -> None:
        super().resume_writing()
        self.server_state.stalled.leave(self)

    def give_up(self) -> None:
        """The time for a request is over: the client is told, if it has begun one, and the connection ends."""
        if self._line or self._in_head:
            self._refuse(errors.HeadTimeout("The head of the request was not whole in time."))
        else:
            self.drop()

    def drop(self) -> None:
        """Closes without a word. What the client has not taken of an answer, is lost."""
        self.transport.abort()

    def shutdown(self) -> None:
        if self._is_over:
            self.drop()
        elif self._is_idle() and (self._line or self._in_head):
            self._refuse(errors.Draining("The service is stopping and takes no more requests."))
        else:
            super().shutdown()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        if self.transport.get_write_buffer_size():  # it closes when the client has read, if ever
            self.server_state.stalled.enter(self, self.loop.time())

    # --- what comes ----------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._is_deaf:
            return
        if self._in_message and not self._in_head:
            self._feed_body(data)
        else:
            self._feed_head(data)

    def _feed_head(self, data: bytes) -> None:
        """Gives the parser whole lines, and all that comes when the head is whole."""
        is_begun = self._in_message or bool(self._line)
        if not is_begun:
            data = data.lstrip(b"\r\n")  # RFC 9112, section 2.2: empty lines before a request don't count
            if not data:
                return
            self._is_by_line = True
            if self._is_idle():
                self.server_state.waiting.enter(self, self.loop.time())
        self._unset_keepalive_if_required()
        data = self._line + data
        end = self._end_of_head(data)
        is_line_likely = is_begun or 0x41 <= data[0] <= 0x5A  # else it is no method, and the parser says so
        whole = len(data) if end >= 0 or not is_line_likely else data.rfind(b"\n") + 1
        data, self._line = data[:whole], data[whole:]
        if len(self._line) > TARGET_BYTES_MAX and not self._in_message and not whole:
            self._refuse(_target_too_long())
        elif len(self._line) > HEAD_BYTES_MAX:
            self._refuse(_head_too_large())
        elif data:
            # A server may ignore Upgrade (RFC 9110, section 7.8), and clients that offer h2c with every request, as Java's
            # do, count on that. But the parser stops at one, and what comes behind it, a body, would be the next request.
            head_bytes = end if end >= 0 else whole
            if self._is_by_line and _UPGRADE.search(data, 0, head_bytes):
                data = _UPGRADE.sub(b"x-upgrade-ignored:", data[:head_bytes]) + data[head_bytes:]
            self._feed(data)
            if self._line and not self._in_head:  # the last line was the end of the head, and this is behind it
                behind, self._line = self._line, b""
                self.data_received(behind)

    def _end_of_head(self, data: bytes) -> int:
        """How many bytes of the head, of which this is the rest, stand before its empty line; -1 if that is not there."""
        if not self._is_by_line:
            return -1
        if self._in_head and data.startswith(_END_OF_LINE):
            return 0
        return data.find(_END_OF_HEAD)

    def _feed_body(self, data: bytes) -> None:
        # `on_body` takes off what is content, and what its chunk needs.
        self._framing_bytes = max(self._framing_bytes, 0) + len(data)
        self._feed(data)
        is_same_body = self._in_message and not self._in_head
        if self._framing_bytes > FRAMING_BYTES_MAX and is_same_body and not self._is_deaf:
            self._refuse(_head_too_large())

    def _feed(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:  # which is refused before it comes to that
            self._refuse(errors.FeatureUnsupported("Connections are not upgraded."))
        except httptools.HttpParserError as error:
            self._refuse(self._refusal or self._unreadable(error))

    def _unreadable(self, error: httptools.HttpParserError) -> errors.IngestError:
        if self.parser.get_method() == b"PRI":
            return _version_unsupported("2.0")  # said before anything else by those who know that we have it (RFC 9113)
        if str(error) == _OTHER_VERSION:  # 2.0, 1.0 and 0.9 it knows, and leaves to `_check_head`
            return errors.VersionUnsupported("HTTP/1.1 is spoken here.")
        if error.__context__ is not None:  # uvicorn could not take the target apart
            return errors.HeadUnreadable("The request's target can't be read.")
        return errors.HeadUnreadable(f"The request is no HTTP/1.1: {error}.")

    def on_message_begin(self) -> None:
        self._in_message = self._in_head = True
        self._head_bytes = self._head_fields = 0
        self._hosts: list[bytes] = []
        self._codings: list[bytes] = []
        if self.cycle is not None and not self.cycle.keep_alive:
            self._stop(errors.HeadUnreadable("The request before this one was to be the last."))
        if len(self.pipeline) >= PIPELINED_MAX:
            self._stop(errors.QueueFull(f"At most {PIPELINED_MAX} requests may wait on a connection."))
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._head_bytes += len(url)
        if len(self.url) > TARGET_BYTES_MAX:
            self._stop(_target_too_long())

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value)
        self._head_fields += 1
        if self._head_bytes > HEAD_BYTES_MAX or self._head_fields > HEAD_FIELDS_MAX:
            self._stop(_head_too_large())
        if not self._in_head:  # a trailer, which must not pass for a field of the head (RFC 9110, section 6.5.1)
            return
        name = name.lower()
        self.headers.append((name, value))
        if name == b"host":
            self._hosts.append(value)
        elif name == b"transfer-encoding":
            self._codings.append(value)
        elif name == b"expect":  # as its base has it
            self.expect_100_continue = value.lower() == b"100-continue"

    def on_headers_complete(self) -> None:
        self._check_head()
        super().on_headers_complete()
        self._in_head = False
        self._framing_bytes = 0
        self.server_state.waiting.leave(self)
        self.server_state.receiving.enter(self, self.loop.time())

    def _check_head(self) -> None:
        version = self.parser.get_http_version()
        if version not in ("1.1", "1.0"):
            self._stop(_version_unsupported(version))
        if self.parser.get_method() not in _METHODS or self.parser.should_upgrade():
            self._stop(errors.FeatureUnsupported("The method is none that is known here."))
        hosts = self._hosts  # RFC 9112, section 3.2
        if (len(hosts) != 1 and (hosts or version == "1.1")) or (hosts and not _HOST.fullmatch(hosts[0])):
            self._stop(errors.HeadUnreadable("There must be one field Host, and a host in it."))
        if self._codings:
            if version == "1.0":  # section 6.1
                self._stop(errors.HeadUnreadable("HTTP/1.0 has no Transfer-Encoding."))
            if b",".join(self._codings).strip().lower() != b"chunked":
                self._stop(errors.FeatureUnsupported("Transfer-Encoding must be chunked, and nothing beside it."))

    def on_body(self, body: bytes) -> None:
        self._framing_bytes -= len(body) + FRAMING_BYTES_PER_CHUNK
        super().on_body(body)
        if self.pipeline and len(self.cycle.body) > HIGH_WATER_LIMIT:
            self._stop(errors.QueueFull("A request whose turn has not come may not be as large."))

    def on_message_complete(self) -> None:
        self._in_message = self._is_by_line = False
        self.server_state.receiving.leave(self)
        super().on_message_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    # --- answers -------------------------------------------------------------------------------------------------------

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            if self.transport.get_write_buffer_size():
                self.server_state.stalled.enter(self, self.loop.time())
        elif self._is_idle():
            if self._is_deaf:
                self._leave()
            else:
                self.server_state.receiving.leave(self)
                self.server_state.waiting.enter(self, self.loop.time())

    def _is_idle(self) -> bool:
        """Whether every request so far is answered."""
        return not self.pipeline and (self.cycle is None or self.cycle.response_complete)

    def _stop(self, error: errors.IngestError) -> None:
        """Stops the parser in a callback: whatever it makes of that, this is the reason."""
        self._refusal = error
        raise error

    def _refuse(self, error: errors.IngestError) -> None:
        """Answers what can't be read on, if the answer can't be taken for another request's, and ends the connection."""
        self._is_deaf = True
        self._line = b""
        is_in_body = self._in_message and not self._in_head
        if self._is_idle():
            if is_in_body:  # of a request that is answered
                self._leave()
            else:
                self._answer(error)
        elif is_in_body and self.pipeline:  # those before it are answered yet
            self.pipeline.popleft()
            self.cycle = self.pipeline[0][0] if self.pipeline else self._running
        elif is_in_body:
            is_answered = self.cycle.response_started
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            if is_answered:
                self._leave()
            else:
                self._answer(error)

    def _answer(self, error: errors.IngestError) -> None:
        answer = problems.problem_of(error)
        answer.headers["Connection"] = "close"
        request_id = request_ids.of(None)
        answer.headers[request_ids.HEADER] = request_id
        fields = [*self.server_state.default_headers, *answer.raw_headers]
        head = b"".join(b"%s: %s\r\n" % field for field in fields)
        status = problems.status_of(error)
        self.transport.write(b"HTTP/1.1 %d %s\r\n%s\r\n%s" % (status, status.phrase.encode(), head, answer.body))
        request_log.note_unread(status, error, request_id, self.client[0] if self.client else None)
        self._leave()

    def _leave(self) -> None:
        """Says that nothing more comes, and waits for the client to go."""
        self._is_deaf = self._is_over = True
        self._unset_keepalive_if_required()
        self.server_state.waiting.leave(self)
        self.server_state.receiving.leave(self)
        self.server_state.leaving.enter(self, self.loop.time())
        self.flow.resume_reading()
        self.transport.write_eof()


def _target_too_long() -> errors.TargetTooLong:
    return errors.TargetTooLong(f"The target of a request may have {TARGET_BYTES_MAX} bytes.")


def _version_unsupported(version: str) -> errors.VersionUnsupported:
    return errors.VersionUnsupported(f"HTTP/{version} is not spoken here, but HTTP/1.1.")


def _head_too_large() -> errors.HeadTooLarge:
    return errors.HeadTooLarge(
        f"The fields of a request may have {HEAD_BYTES_MAX} bytes, and be {HEAD_FIELDS_MAX}; those behind a chunked body and "
        "the extensions of its chunks are counted, too."
    )
