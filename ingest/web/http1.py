"""HTTP/1.1 as uvicorn speaks it, with two habits of its own changed. An HTTP server class for uvicorn's `http=`."""

import re
import uuid

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ingest.errors import RequestRefused
from ingest.web import problems, request_ids

_UPGRADE = re.compile(rb"\r\nupgrade:", re.IGNORECASE)
_END_OF_HEAD = b"\r\n\r\n"


class Http1(HttpToolsProtocol):
    """Ignores Upgrade, and refuses what is no HTTP as everything else is refused: with problem details and an id."""

    def data_received(self, data: bytes) -> None:
        # A server may ignore Upgrade (RFC 9110, section 7.8), and clients that offer h2c with every request, as Java's do,
        # count on that. But the parser stops at one, and uvicorn drops the body behind it.
        is_in_body = self.cycle is not None and self.cycle.more_body
        end = data.find(_END_OF_HEAD)
        head_bytes = 0 if is_in_body else end if end >= 0 else len(data)
        if _UPGRADE.search(data, 0, head_bytes):
            data = _UPGRADE.sub(b"\r\nx-upgrade-ignored:", data[:head_bytes]) + data[head_bytes:]
        super().data_received(data)

    def send_400_response(self, msg: str) -> None:
        answer = problems.problem_of(RequestRefused(msg))
        answer.headers["Connection"] = "close"
        answer.headers[request_ids.HEADER] = uuid.uuid4().hex
        head = b"".join(b"%s: %s\r\n" % header for header in answer.raw_headers)
        self.transport.write(b"HTTP/1.1 400 Bad Request\r\n" + head + b"\r\n" + bytes(answer.body))
        self.transport.close()
