"""The log's lines: JSON for machines, text for people, no flood, and nothing of a row that the database did not take."""

import io
import json
import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest

from ingest import metrics
from ingest.cli import log
from ingest.cli.log import JsonFormatter, LimitingHandler, TextFormatter
from ingest.settings import Settings


class Log:
    """A logger of its own, and what it has written."""

    def __init__(self, formatter: logging.Formatter) -> None:
        self.written = io.StringIO()
        self.logger = logging.Logger("some.module", logging.DEBUG)  # noqa: LOG001 - in nobody's tree
        self.handler = LimitingHandler(self.written)
        self.handler.setFormatter(formatter)
        self.logger.addHandler(self.handler)

    @property
    def lines(self) -> list[str]:
        self.handler.flush()
        return self.written.getvalue().splitlines()

    @property
    def entries(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]


@pytest.fixture
def machine() -> Log:
    return Log(JsonFormatter("worker 2"))


@pytest.fixture
def person() -> Log:
    return Log(TextFormatter("worker 2"))


@pytest.fixture
def window(monkeypatch: pytest.MonkeyPatch) -> Iterator[float]:
    """A short one, whose end is waited for before the test is over."""
    monkeypatch.setattr(log, "WINDOW_SECONDS", 0.1)
    yield 0.1
    for timer in threading.enumerate():
        if isinstance(timer, threading.Timer):
            timer.join(5)


def suppressed() -> float:
    return metrics.REGISTRY.get_sample_value("ingest_log_records_suppressed_total") or 0.0


def test_a_line_for_machines_is_one_object_with_the_fields_beside_the_message(machine: Log) -> None:
    machine.logger.info("It was\n%s", "so", extra={"fields": {"request_id": "abc", "ms": 1.5}})

    [entry] = machine.entries
    assert entry.pop("time").endswith("+00:00")
    assert entry == {
        "level": "info",
        "logger": "some.module",
        "process": "worker 2",
        "message": "It was\nso",
        "request_id": "abc",
        "ms": 1.5,
    }


def test_a_line_for_people_has_the_fields_behind_the_message(person: Log) -> None:
    person.logger.warning("POST was answered 503", extra={"fields": {"status": 503, "code": "queue_full", "ms": 1.5}})

    [line] = person.lines
    assert line.endswith("WARNING worker 2: POST was answered 503 code=queue_full ms=1.5")


@pytest.mark.parametrize("formatter", [JsonFormatter(""), TextFormatter("")])
def test_an_exception_tells_its_stack_and_its_cause_and_nothing_of_the_row(formatter: logging.Formatter) -> None:
    written = Log(formatter)
    refused = asyncpg.CheckViolationError("new row violates a constraint")
    detail = "Failing row contains (my " + "secret prompt)."  # the stack shows lines of this file, too
    refused.detail = detail
    assert detail in str(refused)

    try:
        try:
            raise refused
        except asyncpg.CheckViolationError as error:
            raise RuntimeError(f"it failed\nDETAIL: {detail}") from error
    except RuntimeError:
        written.logger.exception("Oh")

    text = "\n".join(written.lines)
    assert "my secret prompt" not in text
    assert "test_log.py" in text
    assert "RuntimeError: it failed" in text
    assert "CheckViolationError: new row violates a constraint" in text


def test_of_warnings_that_are_alike_ten_are_written_and_the_others_counted(machine: Log, window: float) -> None:
    before = suppressed()
    for number in range(25):
        machine.logger.warning("Attempt %d failed", number)
    machine.logger.error("Something else")

    assert [entry["message"] for entry in machine.entries] == [*(f"Attempt {n} failed" for n in range(10)), "Something else"]
    assert suppressed() - before == 15
    _wait_for_timers()
    assert machine.entries[-1]["message"] == "15 more like this in 0 s were left out: Attempt 10 failed"

    machine.logger.warning("Attempt %d failed", 25)  # in a window of its own
    assert machine.entries[-1]["message"] == "Attempt 25 failed"


def test_what_is_said_to_be_alike_is_limited_at_every_level(machine: Log, window: float) -> None:
    for number in range(30):
        machine.logger.info("Request %d was refused", number, extra={"alike": "429 rate_exceeded"})
    _wait_for_timers()

    assert len(machine.entries) == 11
    assert machine.entries[-1]["message"] == "20 more like this in 0 s were left out: 429 rate_exceeded"


def test_what_is_no_warning_is_always_written(machine: Log) -> None:
    for number in range(100):
        machine.logger.info("Request %d", number)

    assert len(machine.lines) == 100


def test_a_warning_does_not_wait_for_others(machine: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "HELD_SECONDS", 3600)
    machine.logger.info("first")
    time.sleep(0.05)
    assert machine.written.getvalue() == ""

    machine.logger.warning("second")
    _wait_for(machine, "second")

    assert [json.loads(line)["message"] for line in machine.written.getvalue().splitlines()] == ["first", "second"]


def test_what_is_no_warning_is_written_soon(machine: Log) -> None:
    machine.logger.info("first")
    _wait_for(machine, "first")


def test_who_does_not_read_keeps_nobody_waiting_and_gets_it_all_later(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stream(io.StringIO):
        def write(self, text: str) -> int:
            begun.set()
            reads.wait()
            return super().write(text)

    monkeypatch.setattr(log, "LAST_WORDS_SECONDS", 0.01)
    monkeypatch.setattr(log, "HELD_MAX", 50)
    begun, reads = threading.Event(), threading.Event()
    machine = Log(JsonFormatter(""))
    machine.handler.setStream(stream := Stream())
    before = suppressed()
    machine.logger.warning("first")
    assert begun.wait(10)
    for number in range(60):
        machine.logger.info("line %d", number)

    machine.handler.flush()  # as at the end of the process
    assert stream.getvalue() == ""
    assert suppressed() - before == 10
    reads.set()
    machine.written = stream
    _wait_for(machine, "line 49")
    assert len(machine.lines) == 51


def test_kinds_of_lines_that_are_made_up_are_limited_together(machine: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "WINDOWS_MAX", 20)
    for number in range(100):
        machine.logger.warning(f"Task {number} failed")  # noqa: G004 - as libraries do

    assert len(machine.lines) == 20 + log.LINES_MAX


def test_a_field_can_not_look_like_others(person: Log) -> None:
    person.logger.info("It was so", extra={"fields": {"key": "x ms=1 'y'", "ms": 2}})

    assert person.lines[0].endswith("""It was so key="x ms=1 'y'" ms=2""")


def test_lines_are_written_whole_in_pieces_that_a_pipe_keeps_together() -> None:
    class Stream(io.StringIO):
        def write(self, text: str) -> int:
            pieces.append(text)
            return len(text)

    pieces: list[str] = []
    handler = LimitingHandler(Stream())
    handler.setFormatter(TextFormatter(""))
    for number in range(99):
        handler.handle(logging.LogRecord("x", logging.INFO, "", 0, "line %d of many " + 300 * "€x", (number,), None))
    handler.flush()

    assert len(pieces) > 5
    assert all(len(piece.encode()) <= log.PIECE_BYTES_MAX and piece.endswith("x\n") for piece in pieces)
    assert sum(piece.count("\n") for piece in pieces) == 99


def test_a_line_that_can_not_be_made_costs_no_other(machine: Log, capsys: pytest.CaptureFixture[str]) -> None:
    machine.logger.info("%d", "no number")
    machine.logger.info("fine")

    assert [entry["message"] for entry in machine.entries] == ["fine"]
    assert "no number" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("form", "on_terminal", "formatter"),
    [
        ("auto", True, TextFormatter),
        ("auto", False, JsonFormatter),
        ("json", True, JsonFormatter),
        ("text", False, TextFormatter),
    ],
)
def test_the_form_and_the_level_are_chosen(
    form: Any, on_terminal: bool, formatter: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stream(io.StringIO):
        def isatty(self) -> bool:
            return on_terminal

    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()
    monkeypatch.setattr("sys.stderr", Stream())
    try:
        log.to_standard_error(Settings(log_level="error", log_format=form))

        [handler] = root.handlers
        assert isinstance(handler.formatter, formatter)
        assert root.level == logging.ERROR
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


def _wait_for(written: Log, text: str) -> None:
    end = time.monotonic() + 10
    while text not in written.written.getvalue():
        assert time.monotonic() < end
        time.sleep(0.01)


def _wait_for_timers() -> None:
    for timer in threading.enumerate():
        if isinstance(timer, threading.Timer):
            timer.join(5)
