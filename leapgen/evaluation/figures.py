"""Pictures of results, in the forms that the paper uses, with its numbers as hollow diamonds. Needs matplotlib."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from leapgen.evaluation.results import Column, Result, Row

INK, MUTED, GRID = "#1f2328", "#6a7078", "#e3e6ea"
COLOURS = ("#2f6fb2", "#9aa3ad", "#d9822b", "#3f9470", "#8a63ab", "#c4515a")  # first: what is asked about; second: without
KIND_COLOURS = {"own": COLOURS[0], "summaries": COLOURS[2], "peers' words": COLOURS[3], "consistent": COLOURS[3],
                "unaffected": COLOURS[1], "influenced": COLOURS[0], "changed otherwise": COLOURS[2]}
STYLE: dict[Any, Any] = {  # of matplotlib's own names
    "figure.facecolor": "white", "axes.facecolor": "white", "savefig.facecolor": "white", "font.size": 9.5,
    "text.color": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK, "axes.edgecolor": MUTED,
    "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True, "grid.color": GRID, "grid.linewidth": 0.8,
    "axes.titlesize": 9.5, "axes.titlelocation": "left", "legend.frameon": False, "legend.fontsize": 8.5,
    "xtick.major.size": 3, "ytick.major.size": 0}
PAPER: dict[str, Any] = {"marker": "D", "markersize": 5.5, "markerfacecolor": "white", "markeredgecolor": INK,
                         "markeredgewidth": 1.1, "linestyle": "none"}
OUTLINE = "the paper's"
Draw = Callable[[Result, Any], None]  # into a matplotlib Figure
Panel = Callable[[Result, Any], None]  # into matplotlib Axes
Spans: TypeAlias = "tuple[list[float], list[float], list[float]]"  # means, how far intervals reach below and above


def save_picture(result: Result, draw: Draw, size: tuple[float, float], file: str | os.PathLike[str]) -> None:
    """Writes a PNG; ``size`` in inches.

    Raises:
        ModuleNotFoundError: matplotlib is not installed. OSError: the file cannot be written.
    """
    try:
        from matplotlib import rc_context
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError('pictures need matplotlib: pip install "leapgen[eval]".') from error
    with rc_context(STYLE):
        drawn(result, draw, size).savefig(file, dpi=160)


def drawn(result: Result, draw: Draw, size: tuple[float, float]) -> Any:
    """The picture as a matplotlib figure, in the style that is set."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    draw(result, figure)
    figure.suptitle(result.title, x=0.01, ha="left", fontsize=11.5, fontweight="bold")
    _legend(figure, result)
    return figure


def one(panel: Panel) -> Draw:
    return lambda result, figure: panel(result, figure.add_subplot())


def beside(*panels: Panel) -> Draw:
    """Panels side by side."""
    def draw(result: Result, figure: Any) -> None:
        for panel, axes in zip(panels, figure.subplots(1, len(panels)), strict=True):
            panel(result, axes)

    return draw


def curve(column: str, label: str = "with peers", also: Mapping[str, str] | None = None,
          reference: Sequence[str] = ()) -> Panel:
    """A line over the rows' scale. ``also``: other columns and their names; ``reference``: labels of rows off the scale."""
    def draw(result: Result, axes: Any) -> None:
        rows = [row for row in result.table.rows if row.x is not None]
        for (name, said), colour in zip([(column, label), *(also or {}).items()], COLOURS, strict=False):
            there = [row for row in rows if name in row.values]
            x = [row.x for row in there if row.x is not None]
            means, below, above = _spans(there, result.table.column(name))
            axes.errorbar(x, means, yerr=[below, above], color=colour, marker="o", markersize=5, linewidth=1.8, capsize=2.5,
                          elinewidth=1, label=said)
            _beside(axes, there, result, name, x)
        for row, style in zip((row for row in result.table.rows if row.x is None and row.label in reference),
                              ("--", ":"), strict=False):
            if column in row.values:
                scale = result.table.column(column).scale
                value = row.values[column]
                axes.axhline(scale * value.mean, color=MUTED, linestyle=style, linewidth=1.3, label=row.label)
                axes.axhspan(scale * value.low, scale * value.high, color=MUTED, alpha=0.09, linewidth=0)
                if (number := result.published.get(column, {}).get(row.key)) is not None:
                    axes.plot([1], [number], **PAPER, transform=axes.get_yaxis_transform(), clip_on=False, zorder=5)
        axes.set_xlabel(result.table.along)
        axes.set_xticks([row.x for row in rows], [row.label for row in rows])
        _measured(axes, result.table.column(column), "y")

    return draw


def against(x: str, y: str, series: Mapping[str, str]) -> Panel:
    """Points of one column over another, a line for each prefix of the rows' keys; points are named by the rows."""
    def draw(result: Result, axes: Any) -> None:
        for (prefix, said), colour in zip(series.items(), COLOURS, strict=False):
            rows = [row for row in result.table.rows if row.key.startswith(prefix) and x in row.values and y in row.values]
            across = [result.table.column(x).scale * row.values[x].mean for row in rows]
            means, below, above = _spans(rows, result.table.column(y))
            axes.errorbar(across, means, yerr=[below, above], color=colour, marker="o", markersize=5, linewidth=1.8,
                          capsize=2.5, elinewidth=1, label=said)
            for row, place in zip(rows, zip(across, means, strict=True), strict=True):
                axes.annotate(row.label, place, (5, -11), textcoords="offset points", fontsize=7.5, color=MUTED)
        axes.set_xlabel(result.table.column(x).heading)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        _measured(axes, result.table.column(y), "y")

    return draw


def dots(column: str, cost: str = "") -> Panel:
    """A row a line, from the top; ``cost``: a column that is written beside."""
    def draw(result: Result, axes: Any) -> None:
        rows = [row for row in result.table.rows if column in row.values]
        means, below, above = _spans(rows, result.table.column(column))
        places = np.arange(len(rows))
        axes.errorbar(means, places, xerr=[below, above], color=COLOURS[0], marker="o", markersize=5.5, linestyle="none",
                      capsize=2.5, elinewidth=1.3, label="measured, 95% interval")
        _beside(axes, rows, result, column, places, flat=True)
        for place, row in zip(places, rows, strict=True):
            if cost in row.values:
                axes.annotate(f"{row.values[cost].mean:,.0f}", (1.01, place), xycoords=("axes fraction", "data"),
                              va="center", fontsize=8, color=MUTED, annotation_clip=False)
        if cost:
            axes.annotate("tokens\na path", (1.01, 1.0), xycoords="axes fraction", va="bottom", fontsize=8, color=MUTED)
        axes.set_yticks(places, [row.label for row in rows])
        axes.set_ylim(max(len(rows), 1) - 0.5, -0.5)
        _measured(axes, result.table.column(column), "x")

    return draw


def bars(columns: Mapping[str, str], colours: Sequence[int] = (0, 2, 3, 4), axis: str = "") -> Panel:
    """Rows side by side, a bar for each column.

    Args:
        columns: their names and what the legend calls them.
        axis: what is measured, if not the first column's heading.
    """
    def draw(result: Result, axes: Any) -> None:
        shown = [row for row in result.table.rows if any(name in row.values for name in columns)]
        width = 0.8 / len(columns)
        for i, (name, said) in enumerate(columns.items()):
            there = [(place, row) for place, row in enumerate(shown) if name in row.values]
            x = [place + (i - (len(columns) - 1) / 2) * width for place, _ in there]
            column = result.table.column(name)
            means, below, above = _spans([row for _, row in there], column)
            axes.bar(x, means, width * 0.92, color=COLOURS[colours[i]], label=said or None, yerr=[below, above], capsize=2.5,
                     error_kw={"elinewidth": 1, "ecolor": INK})
            _beside(axes, [row for _, row in there], result, name, x)
            _written(axes, x, (means, below, above), len(shown) * len(columns))
        axes.set_xticks(range(len(shown)), [_folded(row.label) for row in shown])
        _measured(axes, result.table.column(next(iter(columns))), "y", bars=True)
        if axis:
            axes.set_ylabel(axis)

    return draw


def grouped(column: str, series: Mapping[str, int], axis: str = "") -> Panel:
    """Rows whose keys are ``group, series``: groups side by side, a bar for each series, which are given their colours."""
    def draw(result: Result, axes: Any) -> None:
        rows = [row for row in result.table.rows if column in row.values]
        groups = list(dict.fromkeys(row.label.split(", ")[0] for row in rows))
        width = 0.8 / len(series)
        for i, (said, colour) in enumerate(series.items()):
            own = [row for row in rows if row.key.split(", ")[1] == said]
            x = [groups.index(row.label.split(", ")[0]) + (i - (len(series) - 1) / 2) * width for row in own]
            means, below, above = _spans(own, result.table.column(column))
            axes.bar(x, means, width * 0.92, color=COLOURS[colour], label=said, yerr=[below, above], capsize=2.5,
                     error_kw={"elinewidth": 1, "ecolor": INK})
            _beside(axes, own, result, column, x)
            _written(axes, x, (means, below, above), len(groups) * len(series))
        axes.set_xticks(range(len(groups)), groups)
        axes.set_xlim(-0.6, len(groups) - 0.4)
        axes.axhline(0, color=MUTED, linewidth=0.8)
        _measured(axes, result.table.column(column), "y", bars=True)
        axes.set_ylabel(axis or result.table.column(column).heading)

    return draw


def stacked(columns: Sequence[str], axis: str) -> Panel:
    """Rows side by side, the columns on one another; the paper's stand beside in outline. ``axis``: what is measured."""
    def draw(result: Result, axes: Any) -> None:
        shown = [row for row in result.table.rows if any(name in row.values for name in columns)]
        paper = [all(row.key in result.published.get(name, {}) for name in columns[:3]) for row in shown]
        width = 0.42 if any(paper) else 0.64
        floor, theirs = np.zeros(len(shown)), np.zeros(len(shown))
        for name in columns:
            scale = result.table.column(name).scale
            heights = np.array([scale * row.values[name].mean if name in row.values else 0.0 for row in shown])
            axes.bar(range(len(shown)), heights, width, bottom=floor, color=KIND_COLOURS[name], label=name)
            for place, (low, height) in enumerate(zip(floor, heights, strict=True)):
                if height > 0.07 * max(1e-9, (floor + heights).max()):
                    axes.annotate(_short(height), (place, low + height / 2), ha="center", va="center", fontsize=7.5,
                                  color="white")
            floor += heights
            numbers = result.published.get(name, {})
            outline = np.array([there * numbers.get(row.key, 0.0) for row, there in zip(shown, paper, strict=True)])
            if outline.any():
                axes.bar(np.arange(len(shown)) + 0.35, outline, 0.2, bottom=theirs, facecolor="none", linewidth=1.6,
                         edgecolor=KIND_COLOURS[name], gid=OUTLINE)
                theirs += outline
        axes.set_xticks(range(len(shown)), [_folded(row.label) for row in shown])
        axes.set_xlabel(result.table.along)
        _measured(axes, result.table.column(columns[0]), "y", bars=True)
        axes.set_ylabel(axis)

    return draw


# -- what they share --------------------------------------------------------------------------------------------------


def _spans(rows: Sequence[Row], column: Column) -> Spans:
    """Means, and how far the intervals reach below and above them."""
    values = [row.values[column.name] for row in rows]
    means = [column.scale * value.mean for value in values]
    return (means, [max(0.0, column.scale * (value.mean - value.low)) for value in values],
            [max(0.0, column.scale * (value.high - value.mean)) for value in values])


def _beside(axes: Any, rows: Sequence[Row], result: Result, column: str, places: Sequence[float] | np.ndarray,
            flat: bool = False) -> None:
    """The paper's numbers of these rows, where it has them. Its tokens are of another length, and are not drawn."""
    numbers = result.published.get(column, {}) if result.table.column(column).unit in ("%", "points") else {}
    found = [(place, numbers[row.key]) for row, place in zip(rows, places, strict=True) if row.key in numbers]
    if found:
        where, what = zip(*found, strict=True)
        axes.plot(*((what, where) if flat else (where, what)), **PAPER, zorder=5)


def _written(axes: Any, places: Sequence[float], spans: Spans, bars: int) -> None:
    """Values at the foot of their bars; beyond the interval where that comes too near to the foot."""
    size, room = 8 if bars <= 12 else 6.5, 0.1 * np.ptp(axes.get_ylim())
    for place, mean, low, high in zip(places, *spans, strict=True):
        up = mean >= 0
        inside = (mean - low if up else -mean - high) > room
        foot = 0.0 if inside else max(0.0, mean + high) if up else min(0.0, mean - low)
        axes.annotate(_short(mean), (place, foot), (0, 4 if up else -4), textcoords="offset points", ha="center",
                      va="bottom" if up else "top", fontsize=size, color="white" if inside else INK)


def _measured(axes: Any, column: Column, along: str, bars: bool = False) -> None:
    """The axis that a column is read on."""
    getattr(axes, f"set_{along}label")(column.heading)
    axes.grid(axis=along)
    axis = axes.yaxis if along == "y" else axes.xaxis
    low, high = getattr(axes, f"get_{along}lim")()
    if column.unit != "%":
        axis.set_major_formatter("{x:,.0f}" if high >= 10 else "{x:g}")
        if not bars or -low == high:  # nothing but zeros
            getattr(axes, f"set_{along}lim")(0, None if high > 0.1 else 1)
        return
    low = 0.0 if bars else max(-2.0, 10 * math.floor(low / 10))
    getattr(axes, f"set_{along}lim")(low, min(104.0 if not bars else 112.0, high))
    axis.set_ticks([tick for tick in range(0, 101, 10 if high - low < 60 else 20) if tick >= low])


def _legend(figure: Any, result: Result) -> None:
    """One for all panels, below them, each entry once; the paper's mark says whose its numbers are."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    entries: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    if any(line.get_marker() == PAPER["marker"] for axes in figure.axes for line in axes.lines):
        entries[f"the paper ({result.whose})"] = Line2D([], [], **PAPER)
    if any(patch.get_gid() == OUTLINE for axes in figure.axes for patch in axes.patches):
        entries[f"the paper, in outline ({result.whose})"] = Patch(facecolor="none", edgecolor=MUTED, linewidth=1.6)
    if len(entries) > 1:
        figure.legend(entries.values(), entries.keys(), loc="outside lower center",
                      ncols=_columns(list(entries), 12 * figure.get_figwidth()))


def _columns(labels: Sequence[str], letters: float) -> int:
    """The most columns of a legend, filled one after the other, whose widest labels fit side by side."""
    for columns in range(len(labels), 1, -1):
        rows = math.ceil(len(labels) / columns)
        if sum(max(map(len, labels[i:i + rows])) + 6 for i in range(0, len(labels), rows)) <= letters:
            return columns
    return 1


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}"


def _folded(label: str) -> str:
    return label.replace(", ", ",\n")
