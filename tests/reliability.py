"""The figures of the README's section "Reliability": counted by the tests that are marked `reliability`, and written there by
the run that the section names.

    pytest -m reliability --long --write-readme

takes an hour and a half, of which the soak takes SOAK_MINUTES (20) twice, and five minutes without --long.
"""

import platform
import textwrap
from collections import Counter
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import psutil

README = Path(__file__).resolve().parent.parent / "README.md"
BEGIN, END = "<!-- reliability: begin -->", "<!-- reliability: end -->"
WIDTH = 130


@dataclass
class Figures:
    """What the tests of one run did, and what came of it."""

    faults: Counter[str] = field(default_factory=Counter)
    """How often each kind was injected."""
    databases: set[str] = field(default_factory=set)
    """What the faults were injected into, as the service describes it."""
    acknowledged: int = 0
    """Events that an answer called stored, while faults were injected."""
    lost: int = 0
    """Of these, not in the table afterwards."""
    twice: int = 0
    """Events that are in the table more than once."""
    stored_though_rejected: int = 0
    bad_inputs: set[str] = field(default_factory=set)
    """Kinds of what breaks a rule of the contract or of HTTP, each answered as documented."""
    fuzzed_inputs: int = 0
    fuzzed_seconds: float = 0


def section(figures: Figures, command: str, version: str, today: date) -> str:
    """What stands in the README between BEGIN and END. `command`: what was run."""
    kinds = ", ".join(f"{kind} ({count:,})" for kind, count in sorted(figures.faults.items()))
    minutes = round(figures.fuzzed_seconds / 60)
    rows = [
        ("faults injected", f"{figures.faults.total():,}"),
        ("events acknowledged under them", f"{figures.acknowledged:,}"),
        ("of these, lost", f"{figures.lost:,}"),
        ("stored twice", f"{figures.twice:,}"),
        ("stored though answered as rejected", f"{figures.stored_though_rejected:,}"),
        ("kinds of bad input tried, each answered as documented", f"{len(figures.bad_inputs):,}"),
        ("inputs made by fuzzing", f"{figures.fuzzed_inputs:,} in {minutes:,} minute{'' if minutes == 1 else 's'}"),
    ]
    table = "\n".join(["| | |", "|---|--:|", *(f"| {name} | {value} |" for name, value in rows)])
    where = f"Python {platform.python_version()}, {psutil.cpu_count()} cores"
    databases = "; ".join(sorted(figures.databases))
    return (
        f"Written by `{command}` on {today}, version {version}, {where}, on {databases}.\n\n{table}\n\nThe faults: {kinds}.\n"
    )


def write(text: str, readme: Path = README) -> None:
    """Puts the section into the README. Raises ValueError if that has no place for it."""
    before, begin, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{readme} has no {BEGIN} … {END}")
    readme.write_text(f"{before}{begin}\n{_wrapped(text)}{end}{after}", encoding="utf-8")


def _wrapped(text: str) -> str:
    """Prose within the README's width; tables as they are."""
    lines = (
        line if line.startswith("|") else textwrap.fill(line, WIDTH, break_on_hyphens=False) for line in text.split("\n")
    )
    return "\n".join(lines)
