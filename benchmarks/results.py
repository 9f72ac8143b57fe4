"""What a benchmark finds, and the record of a run, as JSON.

A benchmark returns Findings; `python -m benchmarks` adds when, where and how they came about, and writes the Result.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal

import msgspec
from msgspec import Struct

Scalar = str | int | float | bool | None


class Column(Struct, frozen=True):
    """A column of a table. `unit` stands behind the name, in brackets."""

    name: str
    unit: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.unit})" if self.unit else self.name


class Table(Struct, frozen=True):
    """Rows of as many cells as there are columns. None is a cell that has no value."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Scalar]]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"{self.title}: a row of {len(row)} cells under {len(self.columns)} columns")


class Axis(Struct, frozen=True):
    """What is drawn along one side of a plot."""

    label: str
    unit: str = ""

    def __str__(self) -> str:
        return f"{self.label} ({self.unit})" if self.unit else self.label


class Series(Struct, frozen=True):
    """Points with one name, as two lists of the same length. A `y` of None is a gap."""

    name: str
    x: Sequence[float | str]
    y: Sequence[float | None]

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise ValueError(f"{self.name}: {len(self.x)} x and {len(self.y)} y")


class Plot(Struct, frozen=True):
    """`line`: x and y are numbers. `bar`: x are names, the bars of all series at a name stand side by side. `percentile`: x
    are percentiles below 100, drawn as HdrHistogram does: each further nine takes as much room as the one before.
    """

    title: str
    kind: Literal["line", "bar", "percentile"]
    x: Axis
    y: Axis
    series: Sequence[Series]


class Check(Struct, frozen=True):
    """Something that had to be so; a run with a check that didn't pass has failed."""

    what: str
    passed: bool
    detail: str = ""


class Database(Struct, frozen=True):
    """What was measured against. `settings` holds those that decide how much work a commit is, as SHOW has them."""

    server_version: str
    edition: str
    timescaledb_version: str | None
    settings: dict[str, str]


class Machine(Struct, frozen=True):
    """Where a run took place. It has nothing in it by which the machine can be found."""

    cpu: str
    cores: int
    memory_bytes: int
    kernel: str
    load_average_start: tuple[float, float, float]
    """Over 1, 5 and 15 minutes."""
    load_average_end: tuple[float, float, float]
    python: str
    packages: dict[str, str]
    """Versions by name; those that are installed."""
    git_commit: str | None
    """None outside of a checkout. `+` behind it: there were changes that are not committed."""


class Findings(Struct, kw_only=True):
    """What a benchmark returns.

    `parameters` are what was chosen, by option or default: what a reader needs to do the same again.
    """

    parameters: Mapping[str, Scalar | Sequence[Scalar]] = {}
    database: Database | None = None
    tables: list[Table] = []
    plots: list[Plot] = []
    notes: list[str] = []
    """Sentences."""
    checks: list[Check] = []

    @property
    def passed(self) -> bool:
        """Whether all checks did."""
        return all(check.passed for check in self.checks)


class Result(Findings, kw_only=True):
    """The record of a run."""

    name: str
    summary: str
    started_at: datetime
    duration_seconds: float
    command: str
    """With the paths, hosts and passwords in it left out."""
    seed: int
    machine: Machine


def encode(result: Result) -> bytes:
    """JSON, laid out for people and for diffs."""
    return msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n"


def decode(content: bytes) -> Result:
    """The inverse of `encode`. Raises msgspec.DecodeError for anything else."""
    return msgspec.json.decode(content, type=Result)
