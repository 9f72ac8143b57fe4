"""The README's figures are those of a run."""

from collections import Counter
from datetime import date
from pathlib import Path

import pytest

from tests import reliability
from tests.reliability import BEGIN, END, Figures

FIGURES = Figures(
    faults=Counter({"frozen": 2, "killed": 1}),
    databases={"PostgreSQL 18 (postgresql)", "PostgreSQL 15 (timescaledb)"},
    acknowledged=1234567,
    bad_inputs={"a bomb", "no JSON"},
    fuzzed_inputs=1000,
    fuzzed_seconds=630,
)


def test_a_run_s_figures_take_the_place_of_the_former(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}\nformer\n{END}\nafter\n")

    for _ in range(2):
        reliability.write(reliability.section(FIGURES, "pytest --these", "1.0", date(2026, 1, 2)), readme)

    lines = readme.read_text().splitlines()
    assert lines[:3] == ["before", BEGIN, lines[2]]
    assert lines[-2:] == [END, "after"]
    assert "former" not in lines
    assert "| faults injected | 3 |" in lines
    assert "| events acknowledged under them | 1,234,567 |" in lines
    assert "| of these, lost | 0 |" in lines
    assert "| kinds of bad input tried, each answered as documented | 2 |" in lines
    assert "| inputs made by fuzzing | 1,000 in 10 minutes |" in lines
    assert "The faults: frozen (2), killed (1)." in lines
    assert "`pytest --these` on 2026-01-02" in readme.read_text()
    assert max(len(line) for line in lines) <= reliability.WIDTH


def test_a_readme_without_a_place_for_them_is_left_as_it_is(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{END}\n")

    with pytest.raises(ValueError, match="reliability: begin"):
        reliability.write("text\n", readme)

    assert readme.read_text() == f"before\n{END}\n"


def test_the_readme_has_figures() -> None:
    _, _, rest = reliability.README.read_text().partition(BEGIN)
    section, end, _ = rest.partition(END)

    assert end
    assert "Written by `" in section
    assert "| of these, lost | 0 |" in section
    assert "| stored twice | 0 |" in section
