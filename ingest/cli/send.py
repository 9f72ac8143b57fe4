"""`ingest send`: files to a service that runs."""

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any

import msgspec

from ingest import errors, settings
from ingest.cli import log
from ingest.client import PATHS, Client, Counts, GivenUp, Limits, Outcome, Refused
from ingest.send import progress, run
from ingest.send.journal import Journal, State
from ingest.send.progress import Meter
from ingest.send.reader import Batch, Reader
from ingest.send.source import STANDARD_INPUT, Source

EXIT_REFUSED = 1
EXIT_REJECTED = 3
EXIT_GIVEN_UP = 4
EXIT_INTERRUPTED = 130

URL_DEFAULT = "http://127.0.0.1:8000"
START_SECONDS_MAX = 10.0
"""How long the first request is tried: a mistake in the URL should not take minutes."""
BATCH_ITEMS_DEFAULT = 1000
BATCH_ITEMS_MAX = 100_000
IN_FLIGHT_MAX = 64
GIVE_UP_SECONDS_DEFAULT = 300
GIVE_UP_SECONDS_MAX = 86_400 * 7

_EPILOG = """exit status: 0 all is stored; 1 it can't be sent (the file, the API key, no service there); 2 usage; 3 all was
taken, but some items were rejected or conflict; 4 given up in the middle: run it again to go on; 130 interrupted: the same"""


class FileSummary(Counts, kw_only=True):
    """What became of one input, over all runs that it took."""

    file: str
    state: str = "unsent"
    """finished, unfinished or unsent."""
    resumed_items: int = 0
    """How many of them were acknowledged before this run."""
    rejected_file: str | None = None


class Summary(Counts, kw_only=True):
    """What `--json` prints. The counts are those of all files, over all runs; requests, bytes and time are this run's."""

    outcome: str = "unfinished"
    exit_status: int = 0
    resumed_items: int = 0
    requests: int = 0
    sent_bytes: int = 0
    seconds: float = 0.0
    events_per_second: float = 0.0
    error: str | None = None
    files: list[FileSummary] = msgspec.field(default_factory=list)


def add_commands(commands: Any) -> None:
    """Adds `send` to the command line."""
    parser = commands.add_parser(
        "send",
        help="send files of events, or standard input, to a service that runs",
        description=send.__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="JSON or NDJSON, as it is or gzipped; - is standard input")
    parser.add_argument(
        "--url",
        default=os.environ.get("INGEST_URL") or URL_DEFAULT,
        help="of the service (default: INGEST_URL or %(default)s)",
    )
    parser.add_argument("--stream", choices=list(PATHS), default="usage-events", help="what it is (default: %(default)s)")
    parser.add_argument(
        "--api-key-file", type=Path, metavar="PATH", help="holds the API key (default: the key in INGEST_API_KEY)"
    )
    parser.add_argument(
        "--format",
        choices=["auto", "ndjson", "json"],
        default="auto",
        help="auto: NDJSON by its name (.ndjson, .jsonl, also .gz), else by how it begins (default: %(default)s)",
    )
    parser.add_argument(
        "--batch-size",
        type=_whole("a batch size", BATCH_ITEMS_MAX),
        default=BATCH_ITEMS_DEFAULT,
        metavar="N",
        help="items of a batch; never more than the service takes (default: %(default)s)",
    )
    parser.add_argument(
        "--in-flight",
        type=_whole("a number of batches", IN_FLIGHT_MAX),
        default=4,
        metavar="N",
        help="batches on their way at once (default: %(default)s)",
    )
    parser.add_argument(
        "--give-up-after",
        type=_whole("a number of seconds", GIVE_UP_SECONDS_MAX),
        default=GIVE_UP_SECONDS_DEFAULT,
        metavar="SECONDS",
        help="how long a batch is tried after its first failure (default: %(default)s)",
    )
    parser.add_argument("--restart", action="store_true", help="forget what earlier runs sent, and begin anew")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    parser.set_defaults(run_alone=send)


def send(options: argparse.Namespace) -> int:
    """Sends files to the service in batches, tries again what was not answered, and goes on where an earlier run ended."""
    with suppress(errors.SettingInvalid):  # one of the service, which may be elsewhere
        log.to_standard_error(settings.load())
    names: list[str] = options.files
    if len({os.path.realpath(name) if name != STANDARD_INPUT else name for name in names}) < len(names):
        print("ingest: A file is named twice.", file=sys.stderr)
        return 2
    try:
        client_key = _api_key(options.api_key_file)
        run_of = _Run(options, client_key)
    except ValueError as error:
        raise errors.InputRefused(str(error)) from None
    try:
        asyncio.run(run_of.all())
    except KeyboardInterrupt:
        run_of.end("interrupted", EXIT_INTERRUPTED)
    return run_of.report()


class _Run:
    """One call of the command."""

    def __init__(self, options: argparse.Namespace, api_key: str | None) -> None:
        self._options = options
        self._meter: Meter | None = None
        self._said_at = -float("inf")
        self._journals: list[Journal] = []
        self._started = time.monotonic()
        self._sent_items = 0
        self.summary = Summary(files=[FileSummary(file=name) for name in options.files])
        self._api_key = api_key
        self._client()  # raises ValueError now, and not in the middle

    async def all(self) -> None:
        """Sends all files, and keeps in the summary how it ended."""
        try:
            async with self._client() as client:
                limits = await client.limits(give_up_after_seconds=min(START_SECONDS_MAX, self._options.give_up_after))
                for place, name in enumerate(self._options.files):
                    await self._file(name, self.summary.files[place], client, limits)
        except GivenUp as error:
            # Before anything was sent it is as likely a mistake in the URL.
            status = EXIT_GIVEN_UP if self._journals else EXIT_REFUSED
            self.end("given up" if self._journals else "unreachable", status, str(error))
        except (Refused, errors.InputRefused) as error:
            advice = " Name one by --api-key-file or INGEST_API_KEY." if _lacks_key(error) and self._api_key is None else ""
            self.end("refused", EXIT_REFUSED, f"{error}{advice}")
        else:
            for journal in self._journals:
                journal.forget()
            is_clean = not any(file.rejected or file.conflicts for file in self.summary.files)
            self.end("stored" if is_clean else "rejected", 0 if is_clean else EXIT_REJECTED)

    def end(self, outcome: str, status: int, error: str | None = None) -> None:
        """How it ended."""
        self.summary.outcome, self.summary.exit_status, self.summary.error = outcome, status, error

    def report(self) -> int:
        """Prints the summary, and gives the exit status."""
        summary = self.summary
        summary.seconds = round(time.monotonic() - self._started, 3)
        summary.events_per_second = round(self._sent_items / max(summary.seconds, 0.001), 1)
        for file in summary.files:
            summary.add(file)
            summary.resumed_items += file.resumed_items
        lines = [msgspec.json.encode(summary).decode()] if self._options.json else _lines_of(summary)
        try:
            print(*lines, sep="\n", flush=True)
        except OSError as error:
            print(f"ingest: The summary can't be written: {error.strerror}.", *lines, sep="\n", file=sys.stderr)
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the end of the program tries once more
        if summary.error:
            print(f"ingest: {summary.error}", file=sys.stderr)
        if summary.exit_status in (EXIT_GIVEN_UP, EXIT_INTERRUPTED):
            if any(file.state == "unfinished" and file.file == STANDARD_INPUT for file in summary.files):
                print("Standard input can't be gone on with: send all of it again; nothing is stored twice.", file=sys.stderr)
            else:
                print("Run the same command again to go on where it ended.", file=sys.stderr)
        return summary.exit_status

    def _client(self) -> Client:
        options = self._options
        return Client(
            options.url,
            options.stream,
            api_key=self._api_key,
            give_up_after_seconds=options.give_up_after,
            on_retry=self._retrying,
        )

    async def _file(self, name: str, file: FileSummary, client: Client, limits: Limits) -> None:
        options = self._options
        source = Source(name)
        try:
            reader = Reader(
                source,
                client.stream,
                limits,
                items_max=options.batch_size,
                input_format={"auto": None, "ndjson": "lines", "json": "json"}[options.format],
            )
            begun = None
            if source.identity:
                begun = State(url=client.url, stream=client.stream, format=reader.detect(), identity=source.identity)
            journal = Journal(Path(name) if begun else Path("stdin"), begun, restart=options.restart)
            self._journals.append(journal)
            file.resumed_items = journal.resumed_items
            file.state = "finished" if journal.is_finished else "unfinished"
            try:
                if not journal.is_finished:
                    await self._send(source, reader, journal, client)
                    source.check_unchanged()
                    journal.finish()
                    file.state = "finished"
            finally:
                journal.close()
                file.add(journal.counts)
                file.rejected_file = str(journal.rejected_path) if journal.has_rejected else None
        finally:
            source.close()

    async def _send(self, source: Source, reader: Reader, journal: Journal, client: Client) -> None:
        with progress.meter(source.shown, source.size_bytes, is_quiet=self._options.quiet) as meter:
            self._meter = meter
            if journal.resumed_items:
                meter.say(
                    f"{source.shown}: {journal.resumed_items:,} events were acknowledged before, and are not sent again."
                )

            def acknowledged(batch: Batch, outcome: Outcome) -> None:
                self._sent_items += outcome.received
                meter.advance(outcome.received, batch.read_bytes)

            try:
                await run.send(
                    reader.batches(journal.done.copy()),
                    client,
                    journal,
                    in_flight_max=self._options.in_flight,
                    acknowledged=acknowledged,
                )
            finally:
                self._meter = None
                self.summary.requests, self.summary.sent_bytes = client.requests, client.sent_bytes

    def _retrying(self, reason: str, delay_seconds: float) -> None:
        """At most a line a second: all batches in flight fail at once."""
        now = time.monotonic()
        if now - self._said_at < 1:
            return
        self._said_at = now
        sentence = f"{reason}; trying again in {delay_seconds:.1f} s"
        if self._meter:
            self._meter.say(sentence)
        else:
            print(sentence, file=sys.stderr, flush=True)


def _lacks_key(error: Exception) -> bool:
    return isinstance(error, Refused) and error.status == HTTPStatus.UNAUTHORIZED


def _lines_of(summary: Summary) -> Sequence[str]:
    lines = []
    for file in summary.files:
        if file.state == "unsent":
            lines.append(f"{file.file}: nothing was sent.")
            continue
        text = f"{file.file}: {'' if file.state == 'finished' else 'not all, '}{file.received:,} received: "
        text += f"{file.accepted:,} accepted, {file.duplicates:,} duplicates, {file.conflicts:,} conflicts, "
        text += f"{file.rejected:,} rejected; {file.sanitized:,} sanitized."
        if file.resumed_items:
            text += f" {file.resumed_items:,} of them before this run."
        lines.append(text)
        if file.rejected_file:
            lines.append(f"{file.file}: rejected items and conflicts, with the reasons: {file.rejected_file}")
    lines.append(
        f"{summary.sent_bytes / 1e6:,.1f} MB sent in {summary.requests:,} requests, {summary.seconds:,.1f} s, "
        f"{summary.events_per_second:,.0f} events/s."
    )
    return lines


def _api_key(path: Path | None) -> str | None:
    """The key, which is no argument because everybody on the machine may read those."""
    if path is None:
        return os.environ.get("INGEST_API_KEY", "").strip() or None
    try:
        key = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise errors.InputRefused(f"The API key in {path} can't be read: {type(error).__name__}.") from None
    if not key:
        raise errors.InputRefused(f"There is no API key in {path}.")
    return key


def _whole(noun: str, highest: int) -> Any:
    def read(text: str) -> int:
        number = int(text) if text.isdecimal() and len(text) <= len(str(highest)) else 0
        if not 1 <= number <= highest:
            raise argparse.ArgumentTypeError(f"{text} is not {noun}: 1 to {highest}")
        return number

    return read
