"""The SQL files and the migrations: inside the wheel when installed, at the root of the repository when not."""

from functools import cache
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent


@cache
def sql(name: str) -> str:
    """The text of a statement under `sql/`, by its path there without the ending: `load/usage_events.stage`."""
    return (_folder("sql") / f"{name}.sql").read_text(encoding="utf-8")


def migrations() -> Path:
    """The folder with yoyo's migrations."""
    return _folder("migrations")


def migration_names() -> list[str]:
    """The names of all migrations that this program knows, in order, without their ending."""
    return sorted(path.stem for path in migrations().glob("*.sql"))


def policy_paths(edition: str) -> list[Path]:
    """The policy files of an edition."""
    return sorted((_folder("sql") / "policies" / edition).glob("*.sql"))


def policy_names(edition: str) -> list[str]:
    """The policies of an edition: `usage_events.retention`."""
    return sorted({path.name.rsplit(".", 2)[0] for path in policy_paths(edition)})


def _folder(name: str) -> Path:
    inside = _PACKAGE / name
    return inside if inside.is_dir() else _PACKAGE.parent / name
