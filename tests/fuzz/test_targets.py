"""Each target passes its seeds and what was ever found, and a short search for more finds nothing."""

import base64
import importlib
import importlib.util
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.fuzz import CASES, TARGETS
from tests.reliability import Figures

ROOT = Path(__file__).resolve().parents[2]
SEARCH_SECONDS, LONG_SEARCH_SECONDS = 8, 300
START_SECONDS_MAX = 60

needs_atheris = pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="atheris has no wheel for this Python or platform"
)


def target(name: str) -> Any:
    return importlib.import_module(f"tests.fuzz.{name}")


@pytest.mark.parametrize("case", sorted(CASES.glob("*/*")), ids=lambda case: f"{case.parent.name}-{case.name}")
def test_what_was_found_is_mended(case: Path) -> None:
    target(case.parent.name).examine(case.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
def test_the_seeds_are_no_finds(name: str) -> None:
    seeds = target(name).SEEDS

    assert len(seeds) > 10
    for seed in seeds.values():
        target(name).examine(seed)


@needs_atheris
@pytest.mark.reliability
@pytest.mark.timeout(LONG_SEARCH_SECONDS + 2 * START_SECONDS_MAX)
@pytest.mark.parametrize("name", TARGETS)
def test_a_search_finds_nothing(name: str, tmp_path: Path, figures: Figures, is_long: bool) -> None:
    seconds = LONG_SEARCH_SECONDS if is_long else SEARCH_SECONDS
    folders = ["--corpus", str(tmp_path / "corpus"), "--cases", str(tmp_path / "cases")]

    start = time.perf_counter()
    done = subprocess.run(
        # In CI from the same random numbers each time; how far it gets with them depends on the machine.
        [sys.executable, "-m", "tests.fuzz", name, f"--seconds={seconds}", f"--seed={0 if is_long else 1}", *folders],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=seconds + START_SECONDS_MAX,
        errors="replace",
    )
    figures.fuzzed_seconds += time.perf_counter() - start

    found = [
        f"Keep this as tests/fuzz/cases/{name}/{case.name}: base64 {base64.b64encode(case.read_bytes()).decode()}"
        for case in (tmp_path / "cases").iterdir()
    ]
    assert done.returncode == 0, "\n".join([done.stdout[-4000:], done.stderr[-4000:], *found])
    (runs,) = re.findall(r"^stat::number_of_executed_units: (\d+)$", done.stderr, re.MULTILINE)
    assert int(runs) > 100
    figures.fuzzed_inputs += int(runs)
