"""A result for people: tables on the terminal, and a page that holds everything and needs nothing, with plots."""

import re
from collections.abc import Sequence
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from benchmarks.results import Plot, Result, Scalar, Series

TEMPLATE = "report.html.jinja"

WIDTH_WITHOUT_TERMINAL = 160

# A colour that no line has: text and axes are drawn in it, and it is replaced by the colour of the page's text.
_INK = "#010203"
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text, in the page's font
    "text.parse_math": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "text.color": _INK,
    "axes.axisbelow": True,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": cycler(color=["#3b82f6", "#f97316", "#10b981", "#e11d48", "#a855f7", "#ca8a04", "#0891b2", "#64748b"]),
    "legend.frameon": False,
    "font.size": 10.0,
}
_SIZE_INCHES = (8.5, 3.6)
_METADATA = {"Creator": None, "Date": None, "Format": None, "Type": None}

_NINES = (0, 50, 90, 99, 99.9, 99.99, 99.999, 99.9999)


def page(result: Result) -> str:
    """The result as one HTML page."""
    plots = [(plot.title, svg(plot, f"plot{number}")) for number, plot in enumerate(result.plots)]
    return _environment().get_template(TEMPLATE).render(result=result, plots=plots)


def print_tables(result: Result) -> None:
    """Tables, notes and checks, on standard output."""
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = WIDTH_WITHOUT_TERMINAL
    for table in result.tables:
        console.print(table.title, style="bold")
        shown = RichTable(box=None, pad_edge=False, header_style="dim")
        for place, column in enumerate(table.columns):
            is_text = any(isinstance(row[place], str) for row in table.rows)
            shown.add_column(Text(str(column)), justify="left" if is_text else "right")
        for row in table.rows:
            shown.add_row(*(Text(cell(value)) for value in row))
        console.print(shown)
        console.print()
    for note in result.notes:
        console.print(note)
    for check in result.checks:
        console.print(f"{'passed' if check.passed else 'FAILED'}  {check.what}{f': {check.detail}' if check.detail else ''}")


def cell(value: Scalar | Sequence[Scalar]) -> str:
    """A value of a table: whole numbers with their thousands apart, others with about four digits that count."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        if value == 0:
            return "0"
        decimals = next((digits for limit, digits in ((1000, 0), (100, 1), (10, 2)) if abs(value) >= limit), 3)
        return f"{value:,.{decimals}f}"
    return ", ".join(map(cell, value))


def svg(plot: Plot, prefix: str) -> Markup:
    """A plot as an SVG element, to stand in a page.

    prefix: of all ids in it, because those of two plots must differ.
    """
    with mpl.rc_context({**_SETTINGS, "svg.hashsalt": prefix}):
        figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
        axes = figure.add_subplot()
        _DRAW[plot.kind](axes, plot.series)
        axes.set_xlabel(str(plot.x))
        axes.set_ylabel(str(plot.y))
        axes.yaxis.set_major_formatter("{x:,.10g}")
        axes.grid(visible=True, axis="y", alpha=0.25, color=_INK)
        if len(plot.series) > 1:
            axes.legend()
        drawn = StringIO()
        canvas: Any = FigureCanvasSVG(figure)
        canvas.print_svg(drawn, metadata=_METADATA)
    text = drawn.getvalue()
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}-", text)
    return Markup(text)  # noqa: S704 - matplotlib has escaped what stands in it


def _draw_lines(axes: Axes, series: Sequence[Series]) -> None:
    for line in series:
        axes.plot(_numbers(line.x), _numbers(line.y), label=line.name, linewidth=1.6, marker="." if len(line.x) < 40 else "")
    axes.set_ylim(bottom=0)


def _draw_bars(axes: Axes, series: Sequence[Series]) -> None:
    names = list(dict.fromkeys(str(name) for bars in series for name in bars.x))
    width = 0.8 / len(series)
    for number, bars in enumerate(series):
        places = [names.index(str(name)) - 0.4 + (number + 0.5) * width for name in bars.x]
        drawn = axes.bar(places, _numbers(bars.y), width, label=bars.name)
        axes.bar_label(drawn, [cell(value) for value in bars.y], fontsize=8)
    axes.set_xticks(range(len(names)), names)


def _draw_percentiles(axes: Axes, series: Sequence[Series]) -> None:
    for line in series:
        # Of HdrHistogram: 1 / (1 - p) is 10 at 90 %, 100 at 99 %.
        axes.plot([1 / (1 - p / 100) for p in _numbers(line.x)], _numbers(line.y), label=line.name, linewidth=1.6)
    axes.set_xscale("log")
    last = max((p for line in series for p in _numbers(line.x)), default=0.0)
    shown = [nine for nine in _NINES if nine <= last] or [0]
    axes.set_xticks([1 / (1 - nine / 100) for nine in shown], [f"{nine:g}" for nine in shown])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)


_DRAW = {"line": _draw_lines, "bar": _draw_bars, "percentile": _draw_percentiles}


def _numbers(values: Sequence[float | str | None]) -> list[float]:
    """matplotlib leaves a gap at a NaN."""
    return [float("nan") if value is None else float(value) for value in values]


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=select_autoescape(["html.jinja"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["cell"] = cell
    return environment
