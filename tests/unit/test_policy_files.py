"""The policy files: complete, well named, and never changed once they are released."""

import hashlib
import re
from pathlib import Path

import pytest

from ingest.settings import Settings
from ingest.store import files, policies
from ingest.store.editions import Edition

ROOT = Path(__file__).resolve().parents[2]
SUMS = ROOT / "sql/SHA256SUMS"


def released() -> dict[str, str]:
    """The checksum of each released file, by its path in the repository."""
    return {path: checksum for checksum, path in (line.split("  ") for line in SUMS.read_text().splitlines())}


def test_a_released_file_never_changes() -> None:
    for path, checksum in released().items():
        assert hashlib.sha256((ROOT / path).read_bytes()).hexdigest() == checksum, (
            f"{path} is released: write the next version"
        )


def test_every_file_is_released() -> None:
    present = {
        str(path.relative_to(ROOT)) for pattern in ("sql/policies/*/*.sql", "migrations/*.sql") for path in ROOT.glob(pattern)
    }

    assert released().keys() == present


@pytest.mark.parametrize("edition", Edition)
def test_every_edition_has_its_policies(edition: Edition) -> None:
    found = [file.policy for file in policies.newest_files(edition)]

    common = ["usage_events.rollups", "message_archives.retention", "usage_events.retention", "usage_event_ids.pruning"]
    more = {
        Edition.TIMESCALEDB: ["message_archives.compression", "usage_events.compression"],
        Edition.TIMESCALEDB_APACHE: [],
        Edition.POSTGRESQL: ["message_archives.partitions", "usage_events.partitions"],
    }
    assert found == [*more[edition], *common]


@pytest.mark.parametrize("edition", Edition)
def test_a_file_reads_only_settings_that_there_are_and_names_them(edition: Edition) -> None:
    for file in policies.newest_files(edition):
        assert set(file.settings) <= Settings().policy_settings.keys()
        header = file.text.partition("\n\n")[0]
        assert set(re.findall(r"analytics\.(\w+_(?:days|hours))\b", header)) == set(file.settings), file.name
        assert f"SELECT analytics.record_policy('{file.policy}', {file.version}, " in file.text


def test_the_newest_version_is_the_highest_number(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for version in (1, 2, 10, 9):
        (tmp_path / f"usage_events.retention.v{version}.sql").write_text(f"-- {version}")
    monkeypatch.setattr(files, "policy_paths", lambda _edition: sorted(tmp_path.glob("*.sql")))

    [newest] = policies.newest_files(Edition.POSTGRESQL)

    assert (newest.version, newest.text) == (10, "-- 10")
    assert newest.name == "postgresql/usage_events.retention.v10.sql"
    assert newest.checksum == hashlib.sha256(b"-- 10").hexdigest()
