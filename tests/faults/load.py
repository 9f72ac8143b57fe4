"""A load that accounts for every event: clients that send batches, as SDKs do, and remember what they were told."""

import gzip
import http.client
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from tests.samples import wire_event
from tests.service import REQUESTS

CLIENTS = 6
BATCH_EVENTS = 40
PAUSE_SECONDS = 0.02
REQUEST_SECONDS_MAX = 40
RETRY_SECONDS = 0.1

BAD_EVERY = 7
"""So many batches have one with an event that must be rejected."""
GIVEN_UP_EVERY = 11
"""So many batches have one that is not sent again when it is not acknowledged: nobody knows what became of it."""
REPEATED_EVERY = 5
"""So many batches have one that is sent once more when it is acknowledged."""

HEADERS = {"Content-Type": "application/json", "Content-Encoding": "gzip"}


@dataclass
class Sent:
    """A batch, by what makes its ids again, and what is known of it."""

    number: int
    bad: int | None
    """The place of the event that must be rejected."""
    tries: int = 0
    is_acknowledged: bool = False


@dataclass
class Account:
    """What was sent, and what the clients were told."""

    seed: int
    sent: list[Sent] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    surprises: list[str] = field(default_factory=list)
    """Answers that should not be."""
    last_acknowledged: float = 0.0
    """When, on the monotonic clock."""

    def event_ids(self, sent: Sent) -> list[UUID]:
        """The ids of a batch's events, in their order. They grow with time, as UUIDv7 do."""
        first = (self.seed << 104) | (sent.number << 80) | (0x7 << 76) | (0b10 << 62)
        return [UUID(int=first | place) for place in range(BATCH_EVENTS)]


class Load:
    """Clients that send all the time to `port` on this machine, which may change.

    seed: of at most 24 bits; no two loads on one database may have the same.
    """

    def __init__(self, port: int, seed: int) -> None:
        self.port = port
        self.account = Account(seed)
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._stopping = threading.Event()

    @contextmanager
    def running(self) -> Iterator["Load"]:
        """Sends while the context is open; then waits until the batches that are to be sent again are acknowledged."""
        threads = [threading.Thread(target=self._send_all, daemon=True) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._stopping.set()
            for thread in threads:
                thread.join(3 * REQUEST_SECONDS_MAX)
        assert not [thread for thread in threads if thread.is_alive()], f"never acknowledged: {self.account.statuses}"

    def await_acknowledgement(self, seconds_max: float) -> None:
        """Returns when a batch is acknowledged. Raises AssertionError if none is in time."""
        began = time.monotonic()
        while self.account.last_acknowledged < began:
            assert time.monotonic() - began < seconds_max, self.account.statuses
            time.sleep(0.01)

    def _send_all(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=REQUEST_SECONDS_MAX)
        while not self._stopping.is_set():
            sent, body = self._next_batch()
            while not self._send(connection, sent, body) and sent.number % GIVEN_UP_EVERY:
                time.sleep(RETRY_SECONDS)
            if sent.is_acknowledged and sent.number % REPEATED_EVERY == 0:
                self._send(connection, sent, body)
            time.sleep(PAUSE_SECONDS)
        connection.close()

    def _next_batch(self) -> tuple[Sent, bytes]:
        with self._lock:
            number = len(self.account.sent)
            sent = Sent(number, self._random.randrange(BATCH_EVENTS) if number % BAD_EVERY == 0 else None)
            self.account.sent.append(sent)
        now = datetime.now(UTC).isoformat()
        events = [  # an event is known by its tokens, too
            wire_event(event_id=str(event_id), event_time=now, total_tokens=-1 if place == sent.bad else place)
            for place, event_id in enumerate(self.account.event_ids(sent))
        ]
        return sent, gzip.compress(json.dumps(events).encode(), 1)

    def _send(self, connection: http.client.HTTPConnection, sent: Sent, body: bytes) -> bool:
        """Sends a batch; whether it was acknowledged."""
        if connection.port != self.port:
            connection.close()
            connection.port = self.port
        sent.tries += 1
        try:
            connection.request("POST", REQUESTS, body, HEADERS)
            answer = connection.getresponse()
            content = json.loads(answer.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            connection.close()
            self._note(type(error).__name__)
            return False
        if answer.status == http.HTTPStatus.OK:
            self._note("200", _surprise(sent, content))
            sent.is_acknowledged = True
            self.account.last_acknowledged = time.monotonic()
            return True
        is_expected = answer.status == http.HTTPStatus.SERVICE_UNAVAILABLE and answer.getheader("Retry-After") is not None
        self._note(f"{answer.status} {content.get('code')}", None if is_expected else f"{sent}: {answer.status} {content}")
        return False

    def _note(self, status: str, surprise: str | None = None) -> None:
        with self._lock:
            self.account.statuses[status] += 1
            if surprise:
                self.account.surprises.append(surprise)


def _surprise(sent: Sent, verdict: Mapping[str, Any]) -> str | None:
    """What is wrong with a verdict: it must reject the bad event and no other, and store all the others, or know all."""
    rejected = [(error["index"], error["code"]) for error in verdict["errors"]]
    good = BATCH_EVENTS - (sent.bad is not None)
    stored = (verdict["accepted"], verdict["duplicates"])
    new, known = (good, 0), (0, good)
    allowed = [known] if sent.is_acknowledged else [new] if sent.tries == 1 else [new, known]
    if rejected == ([] if sent.bad is None else [(sent.bad, "invalid_field")]) and stored in allowed:
        return None
    return f"{sent}: {verdict}"
