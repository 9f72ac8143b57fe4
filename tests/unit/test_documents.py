"""What the documents say is what the program does."""

import itertools
import re
from pathlib import Path
from typing import Any

import msgspec

from ingest.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def variables() -> dict[str, Any]:
    """Every variable with its default."""
    return {info.encode_name: info.default for info in msgspec.structs.fields(Settings)}


def test_the_readme_has_every_setting_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \| ?([^|]*?) ?\|", README, re.MULTILINE))

    assert rows.keys() == variables().keys()
    for name, default in variables().items():
        if default is not None:
            assert rows[name] == str(default), name


def test_the_example_of_env_has_every_setting_with_its_default() -> None:
    lines = dict(re.findall(r"^#?([A-Z_]+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE))
    compose = (ROOT / "compose.yaml").read_text()
    # Where compose.yaml has a path or an image, or the Dockerfile has it, the example leaves the line empty.
    of_compose = dict(re.findall(r"\$\{([A-Z_]+)(?::-([^}/]*)\}|\b)", compose))
    arguments = dict.fromkeys(re.findall(r"^ARG ([A-Z_]+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE), "")

    composes_own = {"COMPOSE_PROFILES"}
    assert lines.keys() == variables().keys() | of_compose.keys() | arguments.keys() | composes_own
    for name, default in (of_compose | arguments).items():
        if name not in variables():
            assert lines[name] == default, name
    for name, default in variables().items():
        if default is not None:
            assert lines[name] == str(default), name


def test_every_sql_file_begins_with_a_comment() -> None:
    files = [*ROOT.glob("sql/**/*.sql"), *ROOT.glob("migrations/*.sql")]

    assert len(files) > 15
    assert [path.name for path in files if not path.read_text().startswith("-- ")] == []


def test_every_parameter_of_a_statement_is_explained() -> None:
    for path in [*ROOT.glob("sql/load/*.sql"), *ROOT.glob("sql/state/*.sql"), *ROOT.glob("sql/keys/*.sql")]:
        comments = "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("--"))
        statement = path.read_text().removeprefix(comments)
        explained = set(re.findall(r"^-- (\$\d)", comments, re.MULTILINE))
        assert explained == set(re.findall(r"(?<!\$)\$\d", statement)), path.name


def test_a_file_for_dbas_says_what_it_needs_and_how_to_undo_it_and_runs_without_psql() -> None:
    files = [
        ROOT / "sql/roles.sql",
        ROOT / "sql/grants.sql",
        *ROOT.glob("sql/policies/*/*.sql"),
        *ROOT.glob("migrations/*.sql"),
    ]

    for path in files:
        lines = path.read_text().splitlines()
        header = "\n".join(itertools.takewhile(lambda line: line.startswith("--"), lines))
        assert re.findall(r"^-- (Needs|Settings|Undo): ", header, re.MULTILINE) == ["Needs", "Settings", "Undo"], path.name
        assert not [line for line in lines if line.startswith("\\")], path.name
