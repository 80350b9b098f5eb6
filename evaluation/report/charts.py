"""Charts as inline SVG, drawn by matplotlib: lines, intervals, heat-maps, before-and-after pairs.

An SVG of ours has no fixed colours: matplotlib draws in marker colours that nothing else uses, and these are replaced
by the page's CSS custom properties, so that one drawing fits light, dark and paper. Text stays text. Identifiers carry
the number of the chart, because many charts stand in one page. The same numbers give the same bytes.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from evaluation.report.palette import RUNS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, FAINT, RULE, HEAT = "#010203", "#040506", "#070809", "#0a0b0c"
_RUN_MARKS = tuple(f"#0d0e{i:02x}" for i in range(len(RUNS)))
_VARIABLES = {
    INK: "var(--ink)",
    FAINT: "var(--faint)",
    RULE: "var(--rule)",
    HEAT: "var(--heat)",
    **{mark: f"var(--run-{i})" for i, mark in enumerate(_RUN_MARKS)},
}
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "rapport",
    "text.parse_math": False,  # names of runs may hold a dollar sign
    "font.family": "DejaVu Sans",
    "font.size": 8.0,
    "text.color": INK,
    "axes.labelcolor": FAINT,
    "axes.edgecolor": RULE,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": FAINT,
    "ytick.labelcolor": FAINT,
    "axes.axisbelow": True,
    "lines.linewidth": 1.6,
}
_MARKERS = "osD^vP"  # a second sign beside the colour
_MANY_POINTS = 60  # beyond these a line gets a moving mean, and no markers
_HEAT_OPACITY = 0.85  # of the fullest cell: the number on it stays readable


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a chart; `run` is the index of its run among those of the page."""

    steps: Sequence[int]
    values: Sequence[float]
    run: int


class Charts:
    """Draws the charts of one page, each with identifiers of its own."""

    def __init__(self) -> None:
        self._numbers = count(1)

    def lines(self, lines: Sequence[Line], label: str) -> Markup:
        """Values over steps, one line a run."""
        with self._figure(3.5, 1.75) as (figure, axes):
            for line in lines:
                _draw_line(axes, line)
            axes.set_xlabel("step", labelpad=1)
            axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))
            axes.yaxis.set_major_locator(MaxNLocator(5))
            axes.margins(y=0.12)
            return self._svg(figure, label)

    def interval(self, change: float, low: float, high: float, extent: float, run: int, label: str) -> Markup:
        """A change with its interval, as a thin strip around zero; `extent` is the farthest value shown."""
        with self._figure(1.5, 0.22) as (figure, axes):
            axes.set_axis_off()
            axes.set_xlim(-1.08 * extent, 1.08 * extent)
            axes.set_ylim(-1, 1)
            axes.plot([-extent, extent], [0, 0], color=RULE, linewidth=0.8)
            axes.plot([0, 0], [-0.9, 0.9], color=FAINT, linewidth=0.8)
            axes.plot([low, high], [0, 0], color=_RUN_MARKS[run % len(RUNS)], linewidth=4, solid_capstyle="butt")
            axes.plot([change], [0], color=INK, marker="|", markersize=9, markeredgewidth=1.8)
            return self._svg(figure, label)

    def heat_map(
        self, shares: np.ndarray, rows: Sequence[str], columns: Sequence[str], x_label: str, label: str
    ) -> Markup:
        """Percentages as tinted cells with their numbers; NaN is an empty cell.

        Args:
            shares: (R, C), each from 0 to 1.
            rows, columns: R and C names.
        """
        height = 0.22 * len(rows) + 0.95
        with self._figure(max(3.2, 1.1 + 0.285 * len(columns)), height) as (figure, axes):
            tints = matplotlib.colors.LinearSegmentedColormap.from_list(
                "tints", [(*matplotlib.colors.to_rgb(HEAT), alpha) for alpha in (0.0, _HEAT_OPACITY)]
            )
            masked = np.ma.masked_invalid(shares)
            axes.pcolormesh(masked, cmap=tints, vmin=0, vmax=1, edgecolors=RULE, linewidth=0.5, snap=True)
            for row, column in zip(*np.nonzero(~np.isnan(shares)), strict=True):
                text = f"{100 * shares[row, column]:.0f}"
                axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=8.5, color=INK)
            axes.set_xticks(np.arange(len(columns)) + 0.5, columns, rotation=90 if max(map(len, columns)) > 4 else 0)
            axes.set_yticks(np.arange(len(rows)) + 0.5, rows)
            axes.tick_params(length=0, labelcolor=INK, labelsize=8.5)
            axes.grid(False)
            axes.spines[:].set_visible(False)
            axes.invert_yaxis()
            axes.set_xlabel(x_label)
            return self._svg(figure, label)

    def pairs(self, before: np.ndarray, after: np.ndarray, names: Sequence[str], run: int, label: str) -> Markup:
        """Percentages before (hollow) and after (full), joined by a line, one row a name. Both (R,), from 0 to 1."""
        with self._figure(3.5, 0.22 * len(names) + 0.55) as (figure, axes):
            rows = np.arange(len(names))
            mark = _RUN_MARKS[run % len(RUNS)]
            axes.hlines(rows, 100 * before, 100 * after, color=mark, linewidth=2, alpha=0.5)
            axes.plot(100 * before, rows, "o", markerfacecolor="none", markeredgecolor=mark, markersize=6)
            axes.plot(100 * after, rows, "o", color=mark, markersize=6)
            axes.set_yticks(rows, names)
            axes.tick_params(axis="y", length=0, labelcolor=INK)
            axes.grid(axis="x")
            axes.set_ylim(len(names) - 0.4, -0.6)
            axes.set_xlim(left=min(0.0, axes.get_xlim()[0]))
            axes.set_xlabel("% of replies", labelpad=1)
            return self._svg(figure, label)

    @contextmanager
    def _figure(self, width: float, height: float) -> Iterator[tuple[Figure, Axes]]:
        """A figure of one pair of axes, in inches, under the style of this file."""
        with matplotlib.rc_context(_STYLE):
            figure = Figure(figsize=(width, height), layout="constrained")
            FigureCanvasSVG(figure)
            figure.patch.set_visible(False)
            axes = figure.add_subplot()
            axes.patch.set_visible(False)
            yield figure, axes

    def _svg(self, figure: Figure, label: str) -> Markup:
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
        return _inline(out.getvalue(), f"chart{next(self._numbers)}", label)


def _draw_line(axes: Axes, line: Line) -> None:
    mark = _RUN_MARKS[line.run % len(RUNS)]
    if len(line.values) <= _MANY_POINTS:
        marker = _MARKERS[line.run % len(_MARKERS)]
        axes.plot(line.steps, line.values, color=mark, marker=marker, markersize=3.5)
        return
    axes.plot(line.steps, line.values, color=mark, linewidth=0.7, alpha=0.4)
    axes.plot(line.steps, moving_mean(line.values, len(line.values) // 20), color=mark)


def moving_mean(values: Sequence[float], reach: int) -> list[float]:
    """Mean of each value and its `reach` neighbours on both sides, as far as there are any; NaN is passed over."""
    windows = (values[max(0, i - reach) : i + reach + 1] for i in range(len(values)))
    finite = ([value for value in window if math.isfinite(value)] for window in windows)
    return [sum(window) / len(window) if window else math.nan for window in finite]


def _inline(svg: str, prefix: str, label: str) -> Markup:
    """A stand-alone SVG file made fit to stand in a page: no header, own identifiers, the page's colours and font."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<defs>\s*<style.*?</defs>", "", svg, count=1, flags=re.DOTALL)  # it would reach the whole page
    svg = re.sub(r'<g id="[^"]+"', "<g", svg)  # nothing refers to a group
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', svg)
    svg = re.sub(r'(xlink:href="#|url\(#)', rf"\1{prefix}-", svg)
    svg = re.sub(r"'DejaVu Sans'[^;\"]*", "var(--sans)", svg)
    for mark, variable in _VARIABLES.items():
        svg = svg.replace(mark, variable)
    width = re.search(r'viewBox="0 0 ([\d.]+)', svg)
    attributes = f'class="chart" role="img" style="max-width: {width[1] if width else 250}pt"'
    svg = re.sub(r'<svg[^>]*?(viewBox="[^"]+")[^>]*>', rf"<svg {attributes} \1><title></title>", svg, count=1)
    return Markup(svg.replace("<title></title>", Markup("<title>{}</title>").format(label), 1))
