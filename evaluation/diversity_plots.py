"""`rapport evaluate diversity --plots DIR`: the measures of `evaluation.diversity` as pictures, one subject a file.

    prevalence             share of replies with each tactic, by number of the supporter turn, one panel a tactic
    stickiness             by number of the turn, all systems
    transitions-<system>   P(tactic now | tactic in the turn before), a heat-map
    co-occurrence-<system> share of replies that have both tactics, a heat-map; the diagonal: replies with one
    similarity             surface likeness of consecutive turns against repetition of their tactics, one panel a system
    pareto                 empathy against stickiness with 95 % intervals; the line joins what no other system beats

Systems differ by colour (those of the report, safe for colour-blind readers) and by marker and dash, so that nothing
depends on colour alone; heat-maps are in cividis and carry their numbers. Curves leave out turns with few replies.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dialogue.tactics import TACTICS
from evaluation.diversity import Diversity
from evaluation.files import EvaluationDataError
from evaluation.printing import heading
from evaluation.ratings import Floats
from evaluation.report.palette import RUNS, spoken
from evaluation.table import EvaluationTable, TableRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEAST_REPLIES = 5  # of a turn number, for a point on a curve
_INK = "#1b1f24"
_COLOURS = [light for light, _ in RUNS]
_MARKERS = "osD^vPX<>hpd"
_DASHES: tuple[Any, ...] = ("solid", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)))
_NAMES = [spoken(tactic.value) for tactic in TACTICS]
_TURNS = f"number of the supporter turn (those with {LEAST_REPLIES} replies or more)"
_STYLE: Any = {
    "font.size": 9.0,
    "font.family": "DejaVu Sans",
    "text.parse_math": False,  # names of systems may hold a dollar sign
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dfe3e8",
    "grid.linewidth": 0.7,
    "svg.fonttype": "none",
    "svg.hashsalt": "rapport",
}


class PictureFormat(StrEnum):
    """How pictures are written."""

    PNG = "png"
    SVG = "svg"


@dataclass(frozen=True, slots=True)
class Look:
    """How one system is drawn, the same in every picture."""

    colour: str
    marker: str
    dash: Any


@dataclass(frozen=True, slots=True)
class Album:
    """Where pictures go. `looks` has one for each system, by name."""

    folder: Path
    form: PictureFormat
    looks: dict[str, Look]

    @contextmanager
    def picture(self, name: str, width: float, height: float) -> Iterator[Figure]:
        """A figure in inches, saved as `name` when the context ends."""
        with matplotlib.rc_context(_STYLE):
            figure = Figure(figsize=(width, height), layout="constrained")
            FigureCanvasAgg(figure)
            yield figure
            path = self.folder / f"{name}.{self.form.value}"
            try:
                figure.savefig(path, dpi=150, metadata={"Date": None} if self.form is PictureFormat.SVG else None)
            except OSError as error:
                raise EvaluationDataError(f"cannot write {path}: {error.strerror}") from error


def looks_of(names: Sequence[str], gold: str | None) -> dict[str, Look]:
    """Black for the people's replies; colours come round after six, but with another marker and dash."""
    looks = {}
    others = [name for name in names if name != gold]
    for number, name in enumerate(others):
        dash = _DASHES[(number // len(_COLOURS)) % len(_DASHES)]
        looks[name] = Look(_COLOURS[number % len(_COLOURS)], _MARKERS[number % len(_MARKERS)], dash)
    return looks | ({gold: Look(_INK, "o", "solid")} if gold is not None else {})


def draw_all(
    results: Sequence[Diversity],
    folder: Path,
    form: PictureFormat = PictureFormat.PNG,
    gold: str | None = None,
    table: EvaluationTable | None = None,
    rated_by: str | None = None,
    on_picture: Callable[[str], None] | None = None,
) -> list[Path]:
    """Draw every picture, that of empathy against stickiness only with a `table`; their paths in order.

    Args:
        gold: name of the people's replies among `results`, if they are there.
        rated_by: who gave the table's ratings; None is the judge of the paper.

    Raises:
        EvaluationDataError: the folder cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EvaluationDataError(f"cannot make {folder}: {error.strerror}") from error
    album = Album(folder, form, looks_of([result.system for result in results], gold))
    pictures: list[tuple[str, Callable[[], None]]] = [
        ("prevalence", lambda: _prevalence(album, results)),
        ("stickiness", lambda: _stickiness(album, results)),
        ("similarity", lambda: _similarity(album, results)),
    ]
    for result in results:
        pictures.append((f"transitions-{result.system}", lambda result=result: _transitions(album, result)))  # type: ignore[misc]
        pictures.append((f"co-occurrence-{result.system}", lambda result=result: _together(album, result)))  # type: ignore[misc]
    if table is not None:
        pictures.append(("pareto", lambda: _pareto(album, table, rated_by)))
    for name, draw in pictures:
        if on_picture is not None:
            on_picture(name)
        draw()
    return [folder / f"{name}.{form.value}" for name, _ in pictures]


def _prevalence(album: Album, results: Sequence[Diversity]) -> None:
    with album.picture("prevalence", 12, 5.2 + _legend_height(12, results)) as figure:
        panels = figure.subplots(2, 5, sharex=True, sharey=True)
        for place, axes in enumerate(panels.flat):
            for result in results:
                _curve(album, axes, result, 100 * result.prevalence[:, place])
            axes.set_title(_NAMES[place], fontsize=10)
            axes.set_ylim(-3, 103)
        panels[1, 2].set_xlabel(_TURNS)  # a label of the whole figure would stand on the legend
        panels[1, 2].xaxis.set_major_locator(MaxNLocator(6, integer=True))
        figure.supylabel("% of replies with the tactic", fontsize=9)
        _legend(figure, panels[0, 0])


def _stickiness(album: Album, results: Sequence[Diversity]) -> None:
    with album.picture("stickiness", 8, 4.4 + _legend_height(8, results)) as figure:
        axes = figure.subplots()
        for result in results:
            _curve(album, axes, result, result.stickiness_by_turn)
        axes.set_xlabel(_TURNS)
        axes.set_ylabel("stickiness: share of the tactics of the turn before\nthat are used again")
        axes.set_ylim(-0.03, 1.03)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _legend(figure, axes)


def _curve(album: Album, axes: Axes, result: Diversity, values: Floats) -> None:
    shown = (result.replies_by_turn >= min(LEAST_REPLIES, result.replies_by_turn.max())) & ~np.isnan(values)
    look = album.looks[result.system]
    axes.plot(
        result.turn_numbers[shown],
        values[shown],
        color=look.colour,
        marker=look.marker,
        linestyle=look.dash,
        markersize=4,
        linewidth=1.4,
        label=result.system,
    )


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    columns = _legend_columns(figure.get_figwidth(), labels)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=8)


def _legend_columns(width: float, labels: Sequence[str]) -> int:
    """As many as fit: at 8 points a letter is at most 0.08 inches wide."""
    return max(1, min(4, int(width / (0.08 * max(map(len, labels)) + 0.5))))


def _legend_height(width: float, rows: Sequence[Diversity] | Sequence[TableRow]) -> float:
    """Inches."""
    return 0.2 * math.ceil((len(rows) + 1) / _legend_columns(width, [row.system for row in rows]))


def _transitions(album: Album, result: Diversity) -> None:
    title = f"{result.system}: how often a tactic follows another"
    rows = [f"{name} ({count})" for name, count in zip(_NAMES, result.chances, strict=True)]
    labels = ("tactic in this turn", "tactic in the turn before (number of turns)")
    _heat_map(album, f"transitions-{result.system}", title, result.transitions, rows, labels, "% of turns")


def _together(album: Album, result: Diversity) -> None:
    replies = int(result.replies_by_turn.sum())
    title = f"{result.system}: tactics in one reply ({replies} replies)"
    name = f"co-occurrence-{result.system}"
    _heat_map(
        album, name, title, result.co_occurrence / replies, _NAMES, ("and this one", "this tactic"), "% of replies"
    )


def _heat_map(
    album: Album, name: str, title: str, shares: Floats, rows: Sequence[str], labels: tuple[str, str], unit: str
) -> None:
    """Percentages as coloured cells with their numbers; NaN, where there is nothing to divide by, is an empty cell."""
    with album.picture(name, 7.6, 6.0) as figure:
        axes = figure.subplots()
        image = axes.imshow(100 * np.ma.masked_invalid(shares), cmap="cividis", vmin=0, vmax=100)
        for row, column in zip(*np.nonzero(~np.isnan(shares)), strict=True):
            value = 100 * shares[row, column]
            colour = "white" if value < 55 else "black"
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=8, color=colour)
        axes.set_xticks(range(len(_NAMES)), _NAMES, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(rows)), rows)
        axes.tick_params(length=0)
        axes.grid(False)
        axes.spines[:].set_visible(False)
        axes.set_xlabel(labels[0])
        axes.set_ylabel(labels[1])
        axes.set_title(title, fontsize=10, loc="left")
        figure.colorbar(image, ax=axes, label=unit, shrink=0.8)


def _similarity(album: Album, results: Sequence[Diversity]) -> None:
    """A little noise keeps equal points apart; the black cross is the mean of both."""
    columns = min(4, len(results))
    rows = math.ceil(len(results) / columns)
    top = max((float(np.max(result.similarity)) for result in results if len(result.similarity)), default=0.0)
    noise = np.random.default_rng(0)
    with album.picture("similarity", 3.1 * columns + 0.5, 2.9 * rows + 0.4) as figure:
        panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axes, result in zip(panels.flat, results, strict=False):
            look, known = album.looks[result.system], ~np.isnan(result.repetition)
            similarity, repetition = result.similarity[known], result.repetition[known]
            spread = noise.uniform(-0.015, 0.015, len(repetition))
            axes.scatter(similarity, repetition + spread, s=9, color=look.colour, alpha=0.4, linewidths=0)
            if len(similarity):
                axes.plot(similarity.mean(), repetition.mean(), "+", color="black", markersize=12, markeredgewidth=2)
            axes.set_title(f"{result.system}\nrho {_shown(result.rank_correlation)}", fontsize=8)
        for axes in panels.flat[len(results) :]:
            axes.set_visible(False)
        panels[0, 0].set_xlim(-0.02 * max(top, 0.1), 1.05 * max(top, 0.1))
        figure.supxlabel("surface: shared word pairs of a turn and the one before (Jaccard)", fontsize=9)
        figure.supylabel("share of the tactics used again", fontsize=9)


def _shown(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def front_of(points: Sequence[tuple[float, float]]) -> list[int]:
    """Places of the points (stickiness, empathy) that no other beats: as low in the first and as high in the second,
    and better in one. In the order of the first; a point with a NaN is none."""
    known = [i for i, point in enumerate(points) if not any(map(math.isnan, point))]

    def beaten(i: int) -> bool:
        (low, high), others = points[i], (points[j] for j in known if j != i)
        return any(x <= low and y >= high and (x, y) != (low, high) for x, y in others)

    return sorted((i for i in known if not beaten(i)), key=lambda i: points[i])


def _pareto(album: Album, table: EvaluationTable, rated_by: str | None) -> None:
    points = [(row.values["stickiness"], row.values["aggregated_empathy"]) for row in table.rows]
    with album.picture("pareto", 8, 5.0 + _legend_height(8, table.rows)) as figure:
        axes = figure.subplots()
        front = front_of(points)
        xs, ys = [points[i][0] for i in front], [points[i][1] for i in front]
        axes.plot(xs, ys, color="#8a949e", linewidth=5, alpha=0.35, zorder=1, label="not beaten in both")
        for row in table.rows:
            _cross(axes, row, album.looks[row.system])
        axes.set_xlabel("stickiness (lower: the tactics vary more)")
        axes.set_ylabel(f"{heading('aggregated_empathy', rated_by, ' ').replace(' ↑', '')}, 1 to 5 (higher is better)")
        _legend(figure, axes)


def _cross(axes: Axes, row: TableRow, look: Look) -> None:
    x, y = row.values["stickiness"], row.values["aggregated_empathy"]
    for value, (low, high), draw in (
        (y, row.intervals["stickiness"], axes.hlines),
        (x, row.intervals["aggregated_empathy"], axes.vlines),
    ):
        draw(value, low, high, color=look.colour, linewidth=1, alpha=0.7)
    axes.plot(x, y, look.marker, color=look.colour, markersize=8, markeredgecolor="white", label=row.system)
