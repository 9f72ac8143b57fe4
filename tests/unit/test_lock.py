"""What the image is made of is pinned by version and hash, and is what pyproject.toml asks for."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

LOCKS = {
    "deploy/requirements.lock": PROJECT["project"]["dependencies"],
    "deploy/build.lock": [*PROJECT["build-system"]["requires"], "setuptools"],
}


def locked(path: str) -> dict[str, Requirement]:
    """The requirements of a lock file by name."""
    text = re.sub(r"\\\n", " ", (ROOT / path).read_text())
    lines = [line.partition("--hash")[0] for line in text.splitlines() if line and not line.lstrip().startswith("#")]
    return {canonicalize_name(requirement.name): requirement for requirement in map(Requirement, lines)}


@pytest.mark.parametrize(("path", "wanted"), LOCKS.items())
def test_a_lock_has_what_the_project_asks_for(path: str, wanted: list[str]) -> None:
    pinned = locked(path)

    for requirement in map(Requirement, wanted):
        [pin] = pinned[canonicalize_name(requirement.name)].specifier
        assert pin.operator == "=="
        assert requirement.specifier.contains(Version(pin.version)), requirement
        for extra in requirement.extras:  # psycopg[binary] is psycopg-binary
            assert canonicalize_name(f"{requirement.name}-{extra}") in pinned


@pytest.mark.parametrize("path", LOCKS)
def test_everything_in_a_lock_is_pinned_and_hashed_and_comes_from_nowhere_in_particular(path: str) -> None:
    text = (ROOT / path).read_text()

    entries = re.findall(r"^([a-z0-9-]+)==\S+[^\n]*\\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", text, re.MULTILINE)
    assert {name for name, _ in entries} == locked(path).keys()
    assert len(entries) >= 3
    assert "://" not in text
    assert "--index-url" not in text
