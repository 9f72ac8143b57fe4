"""API keys in the database: made, listed and ended by commands, found by the service; and whose an event is."""

import json
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from ingest import errors
from ingest.events import USAGE_EVENTS
from ingest.flow import api_keys
from ingest.flow.api_keys import Scope
from ingest.settings import DatabaseUrl
from ingest.store import api_keys as stored
from ingest.store.api_keys import StoredKeys
from ingest.store.database import Database
from ingest.store.event_teams import EventTeams
from ingest.store.writer import BatchWriter
from tests import rollups, servers
from tests.samples import event
from tests.service import command, environment
from tests.storing import store


def keys(url: DatabaseUrl, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs `ingest keys`."""
    return subprocess.run(
        command("keys", *arguments), env=environment({"DB_URL": url.reveal()}), cwd=folder, capture_output=True, text=True
    )


def make(url: DatabaseUrl, name: str, expires_at: datetime | None = None, scope: Scope = Scope.INGEST) -> api_keys.NewKey:
    key, _ = stored.create(url, name=name, scope=scope, teams=None, rate_per_minute=None, expires_at=expires_at)
    return key


async def test_a_key_is_shown_once_and_found_by_the_service(
    owner_url: DatabaseUrl, database: Database, tmp_path: Path
) -> None:
    made = keys(
        owner_url,
        tmp_path,
        *(
            "create",
            "--name",
            "chat; DROP",
            "--team",
            "search",
            "--team",
            "ads",
            "--rate-per-minute",
            "60",
            "--expires",
            "90d",
        ),
    )

    assert made.returncode == 0
    key_id = api_keys.id_in(made.stdout.strip())
    assert key_id is not None
    assert made.stdout.strip() not in made.stderr
    found = (await StoredKeys(database).find([key_id, "unknown"]))[key_id]
    assert (found.name, found.scope, found.rate_per_minute) == ("chat; DROP", Scope.INGEST, 60)
    assert found.teams == frozenset({"search", "ads"})
    assert found.expires_at is not None
    assert abs(found.expires_at - datetime.now(UTC) - timedelta(days=90)) < timedelta(minutes=5)
    everything = servers.query(owner_url, "SELECT api_keys::text FROM analytics.api_keys")
    assert made.stdout.strip().rpartition("_")[2] not in str(everything)


def test_keys_are_listed_without_their_secrets(owner_url: DatabaseUrl, tmp_path: Path) -> None:
    assert "There are no API keys" in keys(owner_url, tmp_path, "list").stdout
    made = json.loads(keys(owner_url, tmp_path, "create", "--name", "chat", "--json").stdout)
    keys(owner_url, tmp_path, "create", "--name", "reports", "--scope", "read")

    shown = keys(owner_url, tmp_path, "list").stdout
    listed = json.loads(keys(owner_url, tmp_path, "list", "--json").stdout)

    assert "chat" in shown
    assert "in use" in shown
    assert [(key["name"], key["scope"], key["teams"]) for key in listed] == [
        ("chat", "ingest", None),
        ("reports", "read", None),
    ]
    secret = made.pop("key").rpartition("_")[2]
    assert secret not in shown + json.dumps(listed)
    assert made == listed[0]


@pytest.mark.parametrize("by", ["name", "id", "all of it"])
async def test_a_key_that_is_revoked_is_not_found_any_more(
    owner_url: DatabaseUrl, database: Database, tmp_path: Path, by: str
) -> None:
    key, other = make(owner_url, "chat"), make(owner_url, "other")

    done = keys(owner_url, tmp_path, "revoke", {"name": "chat", "id": key.key_id, "all of it": key.text}[by])

    assert (done.returncode, key.key_id in done.stdout) == (0, True)
    assert (await StoredKeys(database).find([key.key_id, other.key_id])).keys() == {other.key_id}
    again = keys(owner_url, tmp_path, "revoke", key.key_id)
    assert (again.returncode, len(again.stderr.splitlines())) == (1, 1)
    assert "revoked" in keys(owner_url, tmp_path, "list").stdout


def test_a_name_is_one_key_s_until_that_is_revoked(owner_url: DatabaseUrl) -> None:
    make(owner_url, "chat")
    with pytest.raises(errors.KeyNotMade, match="chat"):
        make(owner_url, "chat")

    stored.revoke(owner_url, "chat")

    make(owner_url, "chat")
    assert [entry.revoked_at is None for entry in stored.entries(owner_url)] == [False, True]


async def test_whether_there_is_a_key_that_may_send(owner_url: DatabaseUrl, database: Database) -> None:
    soon = datetime.now(UTC) + timedelta(hours=1)
    make(owner_url, "reading", scope=Scope.READ)
    make(owner_url, "expired", expires_at=soon)
    servers.execute(owner_url, "UPDATE analytics.api_keys SET expires_at = now() WHERE name = 'expired'")
    with pytest.raises(errors.NoKeys):
        await StoredKeys(database).check_any()

    make(owner_url, "sending", expires_at=soon)

    await StoredKeys(database).check_any()


def test_keys_are_made_by_the_owner(writer_url: DatabaseUrl, reader_url: DatabaseUrl, tmp_path: Path) -> None:
    for url in (writer_url, reader_url):
        done = keys(url, tmp_path, "create", "--name", "mine")

        assert done.returncode == 1
        assert "permission denied" in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_without_our_schema_it_is_said_what_to_do(empty_database: DatabaseUrl, tmp_path: Path) -> None:
    done = keys(empty_database, tmp_path, "list")

    assert done.returncode == 1
    assert "Run `ingest migrate`" in done.stderr


@pytest.mark.parametrize(
    "wrong",
    [
        ("--name", ""),
        ("--name", "two\nlines"),
        ("--name", "x" * 257),
        ("--name", "x", "--team", ""),
        ("--name", "x", "--rate-per-minute", "0"),
        ("--name", "x", "--rate-per-minute", "9999999999999"),
        ("--name", "x", "--expires", "2020-01-01"),
        ("--name", "x", "--expires", "2099-01-01T00:00"),
        ("--name", "x", "--expires", "2099-01-01t00:00"),
        ("--name", "x", "--expires", "2099-01-01_00:00"),
        ("--name", "x", "--expires", "9000-01-01"),
        ("--name", "x", "--expires", "9999-12-31T23:59:59-01:00"),
        ("--name", "x", "--expires", "soon"),
        ("--name", "x", "--scope", "all"),
    ],
)
def test_a_key_that_can_not_be_is_refused(tmp_path: Path, wrong: tuple[str, ...]) -> None:
    done = subprocess.run(
        command("keys", "create", *wrong), env=environment({}), cwd=tmp_path, capture_output=True, text=True
    )

    assert done.returncode == 2
    assert "error: argument" in done.stderr


def test_times_are_told_in_utc_whatever_the_session_s_zone(owner_url: DatabaseUrl, tmp_path: Path) -> None:
    make(owner_url, "x", expires_at=datetime(2099, 1, 31, 18, tzinfo=UTC))
    settings = {"DB_URL": owner_url.reveal(), "PGTZ": "Asia/Tokyo"}

    done = subprocess.run(command("keys", "list"), env=environment(settings), cwd=tmp_path, capture_output=True, text=True)

    assert "2099-01-31 18:00 UTC" in done.stdout


def test_of_a_key_and_one_that_is_named_like_its_id_the_first_is_revoked(owner_url: DatabaseUrl) -> None:
    first = make(owner_url, "first")
    make(owner_url, first.key_id)

    assert stored.revoke(owner_url, first.key_id).name == "first"
    assert [(entry.name, entry.revoked_at is None) for entry in stored.entries(owner_url)] == [
        ("first", False),
        (first.key_id, True),
    ]
    assert stored.revoke(owner_url, first.key_id).name == first.key_id


def test_a_key_that_nobody_saw_is_none(owner_url: DatabaseUrl, tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command("keys", "create", "--name", "x"),
            env=environment({"DB_URL": owner_url.reveal()}),
            cwd=tmp_path,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )

    assert done.returncode == 1
    assert done.stderr == "ingest: The key could not be shown, and is revoked again: No space left on device.\n"
    [entry] = stored.entries(owner_url)
    assert entry.revoked_at is not None


def test_more_teams_than_a_key_may_have_are_refused(owner_url: DatabaseUrl, tmp_path: Path) -> None:
    teams = [f"--team=team-{number}" for number in range(1001)]

    done = keys(owner_url, tmp_path, "create", "--name", "x", *teams)

    assert (done.returncode, done.stderr) == (1, "ingest: A key is for at most 1000 teams.\n")
    assert keys(owner_url, tmp_path, "create", "--name", "x", *teams[1:]).returncode == 0


@pytest.mark.parametrize("when", ["infinity", "-infinity", "9999-12-31 23:59:59-02"])
def test_a_time_that_programs_can_not_read_is_refused_by_hand_too(owner_url: DatabaseUrl, when: str) -> None:
    make(owner_url, "x")

    with pytest.raises(psycopg.errors.CheckViolation):
        servers.execute(owner_url, f"UPDATE analytics.api_keys SET expires_at = '{when}'")


async def test_the_teams_of_events_are_known_also_of_those_that_are_compressed(
    database: Database, writer: BatchWriter, database_url: DatabaseUrl, now: datetime
) -> None:
    events = [
        event(event_time=now - timedelta(days=age), team=team)
        for age in (0, 20)
        for team in ("search", "ads")
        for _ in range(3)
    ]
    await store(writer, USAGE_EVENTS, events)
    if rollups.edition(database_url) == "timescaledb":
        servers.execute(
            database_url,
            "ALTER TABLE analytics.usage_events SET (timescaledb.enable_columnstore)",
            "SELECT compress_chunk(chunk) FROM show_chunks('analytics.usage_events', older_than => interval '10 days') chunk",
        )

    asked = [*(item.event_id.bytes for item in events), uuid4().bytes]
    teams = await EventTeams(database).teams_of(asked)

    assert teams == {item.event_id.bytes: item.team for item in events}
