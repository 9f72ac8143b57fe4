"""The record of a run, as JSON, as a page and on the terminal."""

import re
from datetime import UTC, datetime
from xml.etree import ElementTree

import msgspec
import pytest

from benchmarks import facts, report, results
from benchmarks.results import Axis, Check, Column, Database, Findings, Plot, Result, Series, Table

NASTY = "<script>alert('$1')</script>"

PLOTS = [
    Plot("over time", "line", Axis("time", "s"), Axis("events", "1/s"), [Series(NASTY, [0, 1, 2], [5.0, None, 7.0])]),
    Plot(
        "by size", "bar", Axis("size"), Axis("events"), [Series("a", ["10", NASTY], [1.0, 2.0]), Series("b", ["10"], [3.0])]
    ),
    Plot("latency", "percentile", Axis("share", "%"), Axis("latency"), [Series("all", [0, 50, 99, 99.9], [1, 2, 3, 9])]),
]


@pytest.fixture
def result() -> Result:
    return Result(
        name="sizes",
        summary=f"What sizes do {NASTY}.",
        started_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        duration_seconds=12.5,
        command="python -m benchmarks sizes",
        seed=7,
        machine=facts.machine((0.1, 0.2, 0.3)),
        parameters={"batch": 1000, "sizes": [1, 2], "audit": True},
        database=Database("17.1", "timescaledb", "2.28.3", {"fsync": "on"}),
        tables=[Table(NASTY, [Column("size", "items"), Column("events", "1/s")], [[NASTY, 12345.678], ["ten", None]])],
        plots=PLOTS,
        notes=["A note."],
        checks=[Check("all stored", True), Check("none twice", False, NASTY)],
    )


def test_json_comes_back_as_it_went(result):
    assert results.decode(results.encode(result)) == result


def test_a_run_passes_if_all_its_checks_do(result):
    assert not result.passed
    assert Findings(checks=[Check("a", True), Check("b", True)]).passed
    assert Findings().passed


def test_rows_and_series_have_to_fit():
    with pytest.raises(ValueError, match="2 cells under 1 columns"):
        Table("t", [Column("a")], [[1, 2]])
    with pytest.raises(ValueError, match="1 x and 2 y"):
        Series("s", [1], [1, 2])


def test_the_page_holds_everything(result):
    page = report.page(result)
    assert page.count("<svg") == len(PLOTS)
    for words in ("12,346", "PostgreSQL 17.1, timescaledb 2.28.3", "fsync = on", "A note.", "seed 7", "1, 2", "size (items)"):
        assert words in page
    assert '<li class="failed">none twice' in page
    assert '<li class="passed">all stored</li>' in page


def test_nothing_in_a_result_becomes_markup(result):
    assert NASTY not in report.page(result)
    assert "<script" not in report.page(result)


def test_the_page_needs_nothing_from_elsewhere(result):
    loads = re.findall(r"""(?:\ssrc|<link|@import|url\((?!#)|xlink:href="(?!#))[^>]*""", report.page(result))
    assert loads == []


@pytest.mark.parametrize("plot", PLOTS, ids=lambda plot: plot.kind)
def test_a_plot_is_svg_that_takes_the_colour_of_the_page(plot):
    drawn = report.svg(plot, "here")
    words = " ".join(ElementTree.fromstring(drawn).itertext())
    assert str(plot.x) in words
    assert str(plot.y) in words
    assert "currentColor" in drawn
    assert "#010203" not in drawn
    assert "#000000" not in drawn
    assert "#ffffff" not in drawn


def test_two_plots_of_a_page_share_no_id(result):
    ids = re.findall(r'\bid="([^"]+)"', report.page(result))
    assert len(ids) == len(set(ids)) > 10


def test_a_page_without_database_plots_and_checks(result):
    bare = msgspec.structs.replace(result, database=None, plots=[], checks=[], tables=[], notes=[])
    assert "<svg" not in report.page(bare)
    assert "PostgreSQL" not in report.page(bare)


def test_the_terminal_shows_tables_and_checks(result, capsys):
    report.print_tables(result)
    shown = capsys.readouterr().out
    assert NASTY in shown
    assert re.search(r"ten\s+-", shown)
    assert "passed  all stored\n" in shown
    assert f"FAILED  none twice: {NASTY}" in shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"),
        (0.0, "0"),
        (True, "yes"),
        (1234567, "1,234,567"),
        (1234.5, "1,234"),
        (0.12345, "0.123"),
        (12.345, "12.35"),
        ("x", "x"),
    ],
)
def test_a_cell(value, shown):
    assert report.cell(value) == shown


def test_the_command_shown_names_no_host_path_or_password():
    shown = facts.shown_command(
        [
            "load",
            "--db-url",
            "postgresql://ann:secret@db.example/x",
            "--db-url=postgresql://ann:secret@db.example/x",
            "--trace=/home/ann/traces/conv.csv",
            "--url",
            "http://127.0.0.1:8000",
            "--url",
            "https://ann:secret@ingest.example/x",
            "--batch",
            "1000",
        ]
    )
    assert shown == (
        "python -m benchmarks load --db-url postgresql://… --db-url=postgresql://… --trace=conv.csv "
        "--url http://127.0.0.1:8000 --url https://… --batch 1000"
    )


def test_the_machine_is_told_without_its_name():
    told = facts.machine((0.0, 0.0, 0.0))
    assert told.cores >= 1
    assert told.memory_bytes > 2**28
    assert "msgspec" in told.packages
    assert told.python.startswith("CPython 3.")
