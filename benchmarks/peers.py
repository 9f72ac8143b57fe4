"""Other databases to compare with, started from what is installed: InfluxDB 1.x and ClickHouse.

Debian's packages `influxdb` (1.6) and `clickhouse-server` (18.16) have them; that their own services are not enabled or not
running does not matter. Each runs on a free port with its files in a temporary folder, with its defaults but for this:

* InfluxDB: fsync before every answer (its default), no limits on series, tags, cache and bodies, no log of requests, no
  statistics of itself, nothing reported to its makers.
* ClickHouse: no limit on how many parts a table has, which would slow down or refuse small batches. It does not call fsync
  when it answers; that can't be asked of this version.

ClickHouse makes some 30 files a batch. In the minutes after many files were deleted, by whomever, ext4 is slow to make new
ones (Linux 6.18 looks through the inodes that were freed lately): an event took 45 µs of CPU instead of 7.

Neither knows an event's identity: one that is sent again is stored again (ClickHouse), or overwrites what has its time and
tags (InfluxDB).
"""

import http.client
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from typing import Protocol
from urllib.parse import urlencode
from xml.sax.saxutils import escape

import msgspec
import psutil
from msgspec import Struct

from benchmarks import events, line_protocol, row_binary
from benchmarks.errors import BenchmarkError

START_SECONDS_MAX = 60
STOP_SECONDS_MAX = 60
ANSWER_SECONDS_MAX = 300

DATABASE = "benchmark"

# Where Debian has servers, which is not on everybody's PATH.
SYSTEM_PROGRAMS = "/usr/sbin"


class PeerUnavailable(BenchmarkError):
    """A peer can't be had here. The message says why."""


class Peer(Protocol):
    """A running database that takes batches of events over HTTP, gzipped."""

    name: str
    version: str
    url: str
    """http://127.0.0.1:PORT"""
    path: str
    """Where batches are posted to."""
    headers: Mapping[str, str]
    ok_status: int
    """Of the answer to a batch that was taken."""
    process: psutil.Process

    def encode(self, text: bytes, number: int) -> bytes:
        """The body of request `number`, before it is compressed, from the JSON array of its events."""
        ...

    def empty(self) -> None:
        """Leaves an empty table."""
        ...

    def stored(self) -> int:
        """How many events there are."""
        ...


class InfluxDB:
    """InfluxDB 1.x, by its HTTP API."""

    name = "InfluxDB"
    path = f"/write?db={DATABASE}&precision=ns"
    headers: Mapping[str, str] = {"Content-Type": "text/plain", "Content-Encoding": "gzip"}
    ok_status: int = HTTPStatus.NO_CONTENT

    def __init__(self, url: str, process: psutil.Process) -> None:
        self.url = url
        self.process = process
        self.version = _ask(url, "GET", "/ping").headers["X-Influxdb-Version"]

    def encode(self, text: bytes, number: int) -> bytes:
        return line_protocol.encode(events.decode(text), number)

    def empty(self) -> None:
        self._query(f"DROP DATABASE {DATABASE}")
        self._query(f"CREATE DATABASE {DATABASE}")

    def stored(self) -> int:
        # Points are counted by a field; this one all of them have.
        [series] = self._query("SELECT count(total_tokens) FROM usage_events") or [_Series([["", 0]])]
        return int(series.values[0][1])

    def _query(self, statement: str) -> "list[_Series]":
        answer = _ask(self.url, "POST", "/query?" + urlencode({"q": statement, "db": DATABASE}))
        [result] = msgspec.json.decode(answer.content, type=_Results).results
        if result.error:
            raise BenchmarkError(f"InfluxDB: {result.error}")
        return result.series


class _Series(Struct):
    values: list[list[str | int]]


class _Result(Struct):
    series: list[_Series] = []
    error: str = ""


class _Results(Struct):
    results: list[_Result]


_COLUMN_NAMES = ", ".join(name for name, _ in row_binary.COLUMNS)


class ClickHouse:
    """ClickHouse, by its HTTP interface."""

    name = "ClickHouse"
    path = "/?" + urlencode({"query": f"INSERT INTO benchmark.usage_events ({_COLUMN_NAMES}) FORMAT RowBinary"})
    headers: Mapping[str, str] = {"Content-Type": "application/octet-stream", "Content-Encoding": "gzip"}
    ok_status: int = HTTPStatus.OK

    def __init__(self, url: str, process: psutil.Process) -> None:
        self.url = url
        self.process = process
        self.version = self._query("SELECT version()")
        self._tables_made = 0

    def encode(self, text: bytes, number: int) -> bytes:  # noqa: ARG002 - InfluxDB's needs it
        return row_binary.encode(events.decode(text))

    def empty(self) -> None:
        """The table has the columns of analytics.usage_events, and is in the order in which events come.

        The one before is put aside and not deleted: it has some 30 files for every batch, and ext4 is slow to make files in
        the minutes after many were deleted (see below).
        """
        columns = ", ".join(f"{name} {kind}" for name, kind in row_binary.COLUMNS)
        self._query(f"CREATE DATABASE IF NOT EXISTS {DATABASE}")
        if self._tables_made:
            self._query(f"RENAME TABLE benchmark.usage_events TO benchmark.aside_{self._tables_made}")
            self._query(f"DETACH TABLE benchmark.aside_{self._tables_made}")  # ends the merging of its parts
        self._query(
            f"CREATE TABLE benchmark.usage_events ({columns}, created_at DateTime DEFAULT now()) ENGINE = MergeTree"
            " PARTITION BY toDate(event_time) ORDER BY (event_time, event_microsecond)"
        )
        self._tables_made += 1

    def stored(self) -> int:
        return int(self._query("SELECT count() FROM benchmark.usage_events"))

    def _query(self, statement: str) -> str:
        return _ask(self.url, "POST", "/", statement.encode()).content.decode().strip()


@contextmanager
def influxdb() -> Iterator[InfluxDB]:
    """A new, empty InfluxDB. Raises PeerUnavailable."""
    with _folder("influxd") as (program, folder):
        configuration = folder / "influxdb.conf"
        configuration.write_text(_INFLUXDB.format(folder=folder))
        with _started([program, "run", "-config", str(configuration)], folder, HTTPStatus.NO_CONTENT) as (url, process):
            yield InfluxDB(url, process)


@contextmanager
def clickhouse(parent: Path | None = None) -> Iterator[ClickHouse]:
    """A new, empty ClickHouse, with its files in a folder of their own in `parent`. Raises PeerUnavailable."""
    with _folder("clickhouse-server", parent) as (program, folder):
        (folder / "users.xml").write_text(_CLICKHOUSE_USERS)
        configuration = folder / "config.xml"
        configuration.write_text(_CLICKHOUSE.format(folder=escape(str(folder))))
        with _started([program, f"--config-file={configuration}"], folder, HTTPStatus.OK) as (url, process):
            yield ClickHouse(url, process)


# `index-version` is the default; with few series the other one is no faster.
_INFLUXDB = """\
reporting-disabled = true
bind-address = "127.0.0.1:0"
[meta]
  dir = "{folder}/meta"
[data]
  dir = "{folder}/data"
  wal-dir = "{folder}/wal"
  wal-fsync-delay = "0s"
  query-log-enabled = false
  cache-max-memory-size = 0
  max-series-per-database = 0
  max-values-per-tag = 0
[coordinator]
  write-timeout = "60s"
[monitor]
  store-enabled = false
[subscriber]
  enabled = false
[continuous_queries]
  enabled = false
[http]
  bind-address = "127.0.0.1:0"
  log-enabled = false
  max-body-size = 0
[logging]
  level = "warn"
"""

_CLICKHOUSE = """\
<yandex>
    <logger><level>warning</level><console>1</console></logger>
    <http_port>0</http_port>
    <listen_host>127.0.0.1</listen_host>
    <keep_alive_timeout>600</keep_alive_timeout>
    <max_concurrent_queries>1000</max_concurrent_queries>
    <mark_cache_size>5368709120</mark_cache_size>
    <path>{folder}/data/</path>
    <tmp_path>{folder}/tmp/</tmp_path>
    <users_config>{folder}/users.xml</users_config>
    <default_profile>default</default_profile>
    <default_database>default</default_database>
    <merge_tree>
        <parts_to_delay_insert>1000000</parts_to_delay_insert>
        <parts_to_throw_insert>1000000</parts_to_throw_insert>
    </merge_tree>
</yandex>
"""

_CLICKHOUSE_USERS = """\
<yandex>
    <profiles><default/></profiles>
    <quotas><default/></quotas>
    <users><default>
        <password/>
        <networks><ip>127.0.0.1</ip></networks>
        <profile>default</profile>
        <quota>default</quota>
    </default></users>
</yandex>
"""


@contextmanager
def _folder(program: str, parent: Path | None = None) -> Iterator[tuple[str, Path]]:
    """The path of a program, and a folder for its files."""
    found = shutil.which(program, path=os.pathsep.join([os.environ.get("PATH", os.defpath), SYSTEM_PROGRAMS]))
    if found is None:
        raise PeerUnavailable(f"{program} is not installed")
    with tempfile.TemporaryDirectory(prefix="ingest-bench-", dir=parent, ignore_cleanup_errors=True) as folder:
        yield found, Path(folder)


@contextmanager
def _started(command: Sequence[str], folder: Path, ping_status: int) -> Iterator[tuple[str, psutil.Process]]:
    """Runs a server that listens on one port of its choice besides those of other protocols, and answers GET /ping."""
    log = folder / "log"
    with log.open("w") as output:
        process = psutil.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        yield _await_address(process, log, ping_status), process
    finally:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
        try:
            process.wait(STOP_SECONDS_MAX)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait()


def _await_address(process: psutil.Popen, log: Path, ping_status: int) -> str:
    deadline = time.monotonic() + START_SECONDS_MAX
    while process.poll() is None and time.monotonic() < deadline:
        for port in _ports(process):
            url = f"http://127.0.0.1:{port}"
            if _pings(url, ping_status):
                return url
        time.sleep(0.1)
    raise PeerUnavailable(
        f"{Path(process.args[0]).name} does not start: {log.read_text()[-1000:].strip() or 'it says nothing'}"
    )


def _ports(process: psutil.Popen) -> list[int]:
    """Those on which it listens now."""
    try:
        return [found.laddr.port for found in process.net_connections("tcp4") if found.status == psutil.CONN_LISTEN]
    except psutil.NoSuchProcess:
        return []


def _pings(url: str, ping_status: int) -> bool:
    try:
        return _request(url, "GET", "/ping", b"").status == ping_status
    except (OSError, http.client.HTTPException):
        return False


class _Answer(Struct):
    status: int
    headers: dict[str, str]
    content: bytes


def _ask(url: str, method: str, target: str, body: bytes = b"") -> _Answer:
    answer = _request(url, method, target, body)
    if answer.status not in (HTTPStatus.OK, HTTPStatus.NO_CONTENT):
        raise BenchmarkError(f"{answer.status}: {answer.content.decode(errors='replace').strip()[:500]}")
    return answer


def _request(url: str, method: str, target: str, body: bytes) -> _Answer:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=ANSWER_SECONDS_MAX)
    try:
        connection.request(method, target, body)
        answer = connection.getresponse()
        return _Answer(answer.status, dict(answer.headers), answer.read())
    finally:
        connection.close()
