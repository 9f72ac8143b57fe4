"""An HTTP proxy before the service that remembers which items were sent, and what the service said."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

import httpx
from zlib_ng import zlib_ng

_PASSED_ON = ("Content-Type", "Content-Encoding", "Authorization")


class Exchange(NamedTuple):
    """A request that was passed on, and the status that was passed back; None if the service gave no answer."""

    items: list[bytes]
    status: int | None


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that was killed is what the tests want."""


class RecordingProxy:
    """Passes on to `target`, which may change."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.exchanges: list[Exchange] = []
        self.delay = threading.Event()
        self.delay_seconds = 0.0
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._pass_on(b"")

            def do_POST(self) -> None:
                self._pass_on(self.rfile.read(int(self.headers["Content-Length"])))

            def _pass_on(self, body: bytes) -> None:
                headers = {name: self.headers[name] for name in _PASSED_ON if name in self.headers}
                proxy.delay.wait(proxy.delay_seconds)
                items = zlib_ng.decompress(body, 31).split(b"\n") if body else []
                try:
                    answer = httpx.request(self.command, proxy.target + self.path, content=body, headers=headers, timeout=60)
                except httpx.TransportError:
                    proxy.exchanges.append(Exchange(items, None))
                    self.close_connection = True
                    return
                if items:
                    proxy.exchanges.append(Exchange(items, answer.status_code))
                self.send_response(answer.status_code)
                for name in ("Content-Type", "Retry-After"):
                    if name in answer.headers:
                        self.send_header(name, answer.headers[name])
                self.send_header("Content-Length", str(len(answer.content)))
                self.end_headers()
                self.wfile.write(answer.content)

            def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002 - its name in the class above

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def acknowledged(self) -> list[bytes]:
        """Every item of a request that was answered 200 or 422, as often as it was."""
        return [item for exchange in list(self.exchanges) if exchange.status in (200, 422) for item in exchange.items]

    @contextmanager
    def running(self) -> Iterator["RecordingProxy"]:
        """Serves until the end."""
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()
