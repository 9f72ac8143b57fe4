"""`ingest send` against the service that runs."""

import gzip
import json
import os
import pty
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from benchmarks.generate import Generator, ndjson
from ingest.send.journal import REJECTED_SUFFIX, STATE_SUFFIX, Ranges, State
from ingest.settings import DatabaseUrl
from tests import servers
from tests.recording_proxy import RecordingProxy
from tests.samples import wire_archive, wire_event
from tests.service import RunningService, command, environment, started

pytestmark = servers.ON_ONE

SECONDS_MAX = 60


def send(*arguments: object, folder: Path, stdin: bytes = b"", settings: Mapping[str, str] | None = None) -> Any:
    """Runs the command and returns what it printed as JSON, with `stderr`."""
    done = subprocess.run(
        command("send", "--json", *map(str, arguments)),
        env=environment(settings or {}),
        cwd=folder,
        input=stdin,
        capture_output=True,
        timeout=SECONDS_MAX,
    )
    assert done.stdout, done.stderr.decode()
    summary = json.loads(done.stdout)
    assert summary["exit_status"] == done.returncode
    return {**summary, "stderr": done.stderr.decode()}


def url(service: RunningService) -> str:
    return str(service.client.base_url)


def events(count: int) -> list[dict[str, Any]]:
    return Generator(7, now=datetime.now(UTC)).usage_events(count)


def stored(database: DatabaseUrl) -> int:
    with servers.connected(database) as dba:
        row: Any = dba.execute("SELECT count(*), count(DISTINCT event_id) FROM analytics.usage_events").fetchone()
    total, distinct = row
    assert total == distinct
    return int(total)


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS_MAX
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_every_form_of_a_file_is_stored(shared_service: RunningService, tmp_path: Path) -> None:
    def items() -> list[dict[str, Any]]:
        return [wire_event(extra={"n": n}) for n in range(25)]

    forms = {
        "lines.ndjson": ndjson(items()),
        "lines-gzipped-by-another-name": gzip.compress(ndjson(items())),
        "array.json": json.dumps(items(), indent=1).encode(),
        "envelope.json.gz": gzip.compress(json.dumps({"events": items()}).encode()),
        "one.json": json.dumps(wire_event(), indent=2).encode(),
        "many.json": b"".join(json.dumps(item, indent=2).encode() for item in items()),
    }
    for name, text in forms.items():
        (tmp_path / name).write_bytes(text)

    summary = send("--url", url(shared_service), "--batch-size", 10, *forms, folder=tmp_path)

    assert summary["outcome"] == "stored", summary
    assert [file["accepted"] for file in summary["files"]] == [25, 25, 25, 25, 1, 25]
    assert summary["accepted"] == summary["received"] == 126
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(forms)
    assert summary["requests"] == 16
    assert summary["sent_bytes"] > 1000
    again = send("--url", url(shared_service), "lines.ndjson", folder=tmp_path)
    assert (again["exit_status"], again["duplicates"]) == (0, 25)


def test_standard_input_and_archives(shared_service: RunningService, tmp_path: Path) -> None:
    event = wire_event()
    environ = {"INGEST_URL": url(shared_service)}
    assert send("-", folder=tmp_path, stdin=json.dumps(event).encode(), settings=environ)["accepted"] == 1

    archives = ndjson([wire_archive(event["event_id"]), wire_archive(wire_event()["event_id"])])
    summary = send("--stream", "message-archives", "-", folder=tmp_path, stdin=gzip.compress(archives), settings=environ)

    assert (summary["exit_status"], summary["accepted"], summary["rejected"]) == (3, 1, 1)
    [line] = (tmp_path / f"stdin{REJECTED_SUFFIX}").read_text().splitlines()
    assert json.loads(line)["code"] == "unknown_event"


def test_what_is_rejected_is_kept_with_its_reason_and_all_of_it(shared_service: RunningService, tmp_path: Path) -> None:
    twice = wire_event()
    items = [json.dumps(wire_event(total_tokens="x" if number % 3 == 0 else number)).encode() for number in range(1000)]
    items[10] = b'{"cut'
    items[11] = json.dumps(twice).encode()
    items[998] = json.dumps({**twice, "user_id": "bob"}).encode()
    items[500] = b'{"latin": "\xe9"}'
    (tmp_path / "events.ndjson").write_bytes(b"\n".join(items))

    summary = send("--url", url(shared_service), "events.ndjson", folder=tmp_path)

    bad = sorted({*range(0, 1000, 3), 10, 500, 998})
    assert (summary["exit_status"], summary["outcome"]) == (3, "rejected")
    assert (summary["rejected"], summary["conflicts"], summary["duplicates"]) == (len(bad) - 1, 1, 0)
    assert summary["accepted"] == 1000 - len(bad)
    rejected = [json.loads(line) for line in (tmp_path / f"events.ndjson{REJECTED_SUFFIX}").read_text().splitlines()]
    assert [line["index"] for line in rejected] == bad
    assert [line["line"] for line in rejected] == [number + 1 for number in bad]
    by_index = {line["index"]: line for line in rejected}
    assert (by_index[10]["code"], by_index[10]["text"]) == ("invalid_json", '{"cut')
    assert (by_index[0]["code"], by_index[0]["field"]) == ("invalid_field", "total_tokens")
    assert by_index[0]["item"] == json.loads(items[0])
    assert by_index[998]["code"] == "conflict"
    assert by_index[500]["text"] == '{"latin": "\ufffd"}'


def test_the_client_is_killed_and_goes_on(service: RunningService, database_url: DatabaseUrl, tmp_path: Path) -> None:
    items = [msgspec.json.encode(event) for event in events(6000)]
    items[::1000] = [b"nonsense %d" % number for number in range(0, 6000, 1000)]
    path = tmp_path / "events.ndjson"
    path.write_bytes(b"\n".join(items))
    state_path = tmp_path / f"events.ndjson{STATE_SUFFIX}"
    with RecordingProxy(url(service)).running() as proxy:
        arguments = ("--url", proxy.url, "--batch-size", "100", "--in-flight", "3", "events.ndjson")
        resumed = 0
        for enough in (1000, 3000):
            process = subprocess.Popen(
                command("send", *arguments), env=environment({}), cwd=tmp_path, stderr=subprocess.DEVNULL
            )
            until(lambda enough=enough: len(proxy.acknowledged()) >= enough)  # type: ignore[misc]
            process.kill()
            process.wait()
            time.sleep(0.5)  # what was in flight is answered, to nobody

            state = msgspec.json.decode(state_path.read_bytes(), type=State)
            known = Ranges(state.acknowledged)
            # In doubt is what was answered while the client was killed: no more than what was in flight.
            in_state = {item for number, item in enumerate(items) if number in known}
            assert in_state <= set(proxy.acknowledged())
            assert len(set(proxy.acknowledged()) - in_state) <= 300
            assert known.count > resumed
            resumed = known.count
            # As a crash between writing what was rejected and the state leaves it.
            with (tmp_path / f"events.ndjson{REJECTED_SUFFIX}").open("ab") as file:
                file.write(b'{"half a li')
            before = len(proxy.exchanges)

        other = send("--url", url(service), "events.ndjson", folder=tmp_path)
        assert (other["exit_status"], other["received"]) == (1, 0)
        assert "--restart" in other["stderr"]
        summary = send(*arguments, folder=tmp_path)

        sent_again = {item for exchange in proxy.exchanges[before:] for item in exchange.items}
        assert not sent_again & in_state
        assert set(proxy.acknowledged()) == set(items)
        assert len(proxy.acknowledged()) <= len(items) + 2 * 300
    assert summary["exit_status"] == 3
    assert summary["resumed_items"] == resumed
    assert summary["received"] == 6000
    assert summary["accepted"] + summary["duplicates"] == stored(database_url) == 5994
    rejected = [json.loads(line) for line in (tmp_path / f"events.ndjson{REJECTED_SUFFIX}").read_text().splitlines()]
    assert sorted(line["index"] for line in rejected) == list(range(0, 6000, 1000))
    assert not state_path.exists()


def test_the_service_is_killed_and_comes_back(writer_url: DatabaseUrl, database_url: DatabaseUrl, tmp_path: Path) -> None:
    (tmp_path / "events.json.gz").write_bytes(gzip.compress(json.dumps(events(6000)).encode(), 1))
    settings = {"DB_URL": writer_url.reveal()}
    with started(settings) as first, RecordingProxy(url(first)).running() as proxy:
        sending = subprocess.Popen(
            command("send", "--json", "--url", proxy.url, "--batch-size", "100", "events.json.gz"),
            env=environment({}),
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        until(lambda: len(proxy.acknowledged()) >= 1000)
        first.process.kill()
        first.process.wait()
        with started(settings) as second:
            proxy.target = url(second)
            said, complaint = sending.communicate(timeout=SECONDS_MAX)

    summary = json.loads(said)
    assert (sending.returncode, summary["received"]) == (0, 6000), complaint
    assert summary["accepted"] + summary["duplicates"] == stored(database_url) == 6000
    assert b"trying again in" in complaint
    assert len(proxy.acknowledged()) == 6000


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_it_at_once_and_is_gone_on_with(
    shared_service: RunningService, tmp_path: Path, number: signal.Signals
) -> None:
    items = [wire_event() for _ in range(300)]
    (tmp_path / "events.ndjson").write_bytes(ndjson(items))
    with RecordingProxy(url(shared_service)).running() as proxy:
        proxy.delay_seconds = 0.2
        arguments = ("--url", proxy.url, "--batch-size", "10", "--in-flight", "2", "events.ndjson")
        process = subprocess.Popen(
            command("send", "--json", *arguments),
            env=environment({}),
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        until(lambda: len(proxy.acknowledged()) >= 40)
        process.send_signal(number)
        said, complaint = process.communicate(timeout=10)

        summary = json.loads(said)
        assert (process.returncode, summary["outcome"]) == (130, "interrupted")
        assert summary["received"] >= 20
        assert complaint.decode().splitlines()[-1] == "Run the same command again to go on where it ended."
        assert "Traceback" not in complaint.decode()
        proxy.delay_seconds = 0.0
        done = send(*arguments, folder=tmp_path)
    assert (done["exit_status"], done["received"], done["resumed_items"]) == (0, 300, summary["received"])


def test_standard_input_that_waits_does_not_keep_it_from_ending(shared_service: RunningService, tmp_path: Path) -> None:
    process = subprocess.Popen(
        command("send", "--url", url(shared_service), "-"),
        env=environment({}),
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130
    _, complaint = process.communicate()
    assert "nothing is stored twice" in complaint.decode()
    assert "Traceback" not in complaint.decode()


def test_a_changed_file_is_refused_until_it_is_begun_anew(shared_service: RunningService, tmp_path: Path) -> None:
    path = tmp_path / "events.ndjson"
    path.write_bytes(ndjson([wire_event(), wire_event()]))
    state = tmp_path / f"events.ndjson{STATE_SUFFIX}"
    unreachable = send("--url", "http://127.0.0.1:9", "--give-up-after", 1, path, folder=tmp_path)
    assert (unreachable["exit_status"], unreachable["outcome"]) == (1, "unreachable")
    assert not state.exists()

    with RecordingProxy("http://127.0.0.1:9").running() as proxy:
        proxy.target = url(shared_service)
        waiting = subprocess.Popen(
            command(
                "send",
                "--json",
                "--url",
                proxy.url,
                "--give-up-after",
                "1",
                "--batch-size",
                "1",
                "--in-flight",
                "1",
                path.name,
            ),
            env=environment({}),
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        proxy.delay_seconds = 0.7
        until(lambda: state.exists() and b'"acknowledged":[[0,1]]' in state.read_bytes())
        proxy.target = "http://127.0.0.1:9"
        said, _ = waiting.communicate(timeout=SECONDS_MAX)
        assert (waiting.returncode, json.loads(said)["outcome"]) == (4, "given up")
        proxy.target, proxy.delay_seconds = url(shared_service), 0.0
        path.write_bytes(ndjson([wire_event(), wire_event()]))

        refused = send("--url", proxy.url, path.name, folder=tmp_path)
        assert refused["exit_status"] == 1
        assert "the file was changed since" in refused["stderr"]
        assert len(refused["stderr"].splitlines()) == 1

        assert send("--url", proxy.url, "--restart", path.name, folder=tmp_path)["accepted"] == 2


def test_keys_come_from_the_environment_or_a_file(writer_url: DatabaseUrl, database_url: DatabaseUrl, tmp_path: Path) -> None:
    made = subprocess.run(
        command("keys", "create", "--name", "sender"),
        env=environment({"DB_URL": database_url.reveal()}),
        capture_output=True,
        text=True,
        check=True,
    )
    (tmp_path / "key").write_text(made.stdout)
    (tmp_path / "wrong").write_text("lai_0_0\n")
    with started({"DB_URL": writer_url.reveal(), "AUTH_REQUIRED": "true"}) as service:
        where = ("--url", url(service))

        def sent(*options: object, settings: Mapping[str, str] | None = None) -> Any:
            return send(*where, *options, "-", folder=tmp_path, stdin=ndjson([wire_event()]), settings=settings)

        assert sent(settings={"INGEST_API_KEY": made.stdout})["accepted"] == 1
        assert sent("--api-key-file", "key")["accepted"] == 1
        for options in ((), ("--api-key-file", "wrong")):
            refused = sent(*options)
            assert (refused["exit_status"], refused["outcome"]) == (1, "refused")
            assert "answers 401" in refused["stderr"]
            assert ("--api-key-file" in refused["stderr"]) == (not options)


def test_two_at_once_keep_their_rejected_items_apart(shared_service: RunningService, tmp_path: Path) -> None:
    one = subprocess.Popen(
        command("send", "--json", "--url", url(shared_service), "-"),
        env=environment({}),
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    until((tmp_path / f"stdin{REJECTED_SUFFIX}").exists)
    other = send("--url", url(shared_service), "-", folder=tmp_path, stdin=b'{"other": 1}')
    said, _ = one.communicate(b'{"one": 1}', timeout=SECONDS_MAX)

    for summary, item in ((other, "other"), (json.loads(said), "one")):
        [file] = summary["files"]
        assert json.loads((tmp_path / file["rejected_file"]).read_text())["item"] == {item: 1}


def test_a_file_is_not_gone_on_with_in_another_format(shared_service: RunningService, tmp_path: Path) -> None:
    path = tmp_path / "pretty.jsonl"
    path.write_text("\n".join(json.dumps(wire_event(), indent=1) for _ in range(300)))
    with RecordingProxy(url(shared_service)).running() as proxy:
        proxy.delay_seconds = 0.2
        process = subprocess.Popen(
            command("send", "--url", proxy.url, "--batch-size", "10", path.name),
            env=environment({}),
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until(lambda: len(proxy.acknowledged()) >= 40)
        process.send_signal(signal.SIGINT)
        process.wait(10)
        where = ("--url", proxy.url, "--format", "json", path.name)

        refused = send(*where, folder=tmp_path)
        proxy.delay_seconds = 0.0
        done = send(*where, "--restart", folder=tmp_path)

    assert (refused["exit_status"], "it was read as NDJSON" in refused["stderr"]) == (1, True)
    assert (done["exit_status"], done["accepted"]) == (0, 300)


def test_a_summary_that_nobody_can_read_is_no_traceback(shared_service: RunningService, tmp_path: Path) -> None:
    for stdout in ("/dev/full", "&-"):
        done = subprocess.run(
            ["sh", "-c", f'"$@" >{stdout}', "sh", *command("send", "--url", url(shared_service), "-")],
            env=environment({"DB_URL": "no setting of ours"}),
            cwd=tmp_path,
            input=ndjson([wire_event()]),
            capture_output=True,
            timeout=SECONDS_MAX,
        )
        assert done.returncode == 0, done.stderr
        assert b"Traceback" not in done.stderr
        assert (b"1 accepted" in done.stderr) == (stdout == "/dev/full")


@pytest.mark.parametrize("options", [["no-such-file"], ["--url", "ftp://x", "-"], ["--api-key-file", "none", "-"]])
def test_what_can_not_be_sent_is_one_line(shared_service: RunningService, tmp_path: Path, options: list[str]) -> None:
    done = subprocess.run(
        command("send", *options),
        env=environment({"INGEST_URL": url(shared_service)}),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("ingest: ")


def test_a_terminal_shows_a_bar(shared_service: RunningService, tmp_path: Path) -> None:
    (tmp_path / "events.ndjson").write_bytes(ndjson([wire_event() for _ in range(50)]))
    ours, theirs = pty.openpty()
    settings = {**environment({}), "TERM": "xterm-256color", "COLUMNS": "120"}
    done = subprocess.run(
        command("send", "--url", url(shared_service), "events.ndjson"),
        env=settings,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=theirs,
        timeout=SECONDS_MAX,
    )
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    os.close(theirs)

    assert done.returncode == 0
    assert "100%" in shown
    assert "50 events" in shown
    assert "50 accepted" in done.stdout.decode()
