"""The page: one HTML file with everything in it, which opens from disk and asks for nothing.

Replies are untrusted text. The template escapes them, the reader's data stands in a script element as JSON without `<`,
reader.js writes text nodes only, and the page's own security policy allows no request and no script but that file, by
its hash.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from markupsafe import Markup

from dialogue.tactics import DEFINITIONS, TACTICS
from evaluation.report.charts import Charts, Line
from evaluation.report.curves import CHAPTERS, Chapter, Curve
from evaluation.report.facts import facts_of
from evaluation.report.measures import HEADLINE, in_order, measure_of, shown, verdict
from evaluation.report.palette import LOOKS, RUNS, colour_rules, spoken
from evaluation.report.reader import as_script, reader_data
from evaluation.report.run_files import HONEST, Change, Evaluation, Run
from evaluation.report.tactic_maps import tactic_after_tactic, tactic_by_step, tactic_shares
from evaluation.report.templates import HERE, template


@dataclass(frozen=True, slots=True)
class Cell:
    """One run's value of one measure in the headline table, in words and as a strip."""

    before: str
    after: str
    change: str
    interval: str
    verdict: str
    strip: Markup | None


@dataclass(frozen=True, slots=True)
class Row:
    """One measure; a cell per run, None where a run does not have it."""

    title: str
    note: str
    headline: bool
    cells: tuple[Cell | None, ...]


@dataclass(frozen=True, slots=True)
class Drawing:
    """A chart with its title and a line below it."""

    title: str
    note: str
    svg: Markup


def render(runs: Sequence[Run]) -> str:
    """The whole page about one run, or about several side by side."""
    charts = Charts()
    data = reader_data(runs)
    script = (HERE / "reader.js").read_text(encoding="utf-8")
    return template("page.html.j2", autoescape=True).render(
        runs=runs,
        facts=[facts_of(run) for run in runs],
        tiles=rows(runs, charts, HEADLINE) if len(runs) == 1 else [],
        rows=rows(runs, charts),
        chapters=[drawn for chapter in CHAPTERS if (drawn := _chapter(chapter, runs, charts))["drawings"]],
        maps=[_maps(run, index, len(runs) > 1, charts) for index, run in enumerate(runs)],
        tactics=[(f"--tactic-{i}", LOOKS[t].short, spoken(t), DEFINITIONS[t]) for i, t in enumerate(TACTICS)],
        data=data,
        embedded=Markup(as_script(data)),
        style=Markup(colour_rules() + (HERE / "style.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        shown=shown,
        spoken=spoken,
        honest=HONEST,
        colours=len(RUNS),
    )


def rows(runs: Sequence[Run], charts: Charts, wanted: Sequence[str] | None = None) -> list[Row]:
    """A row for each measure of a run, or for the `wanted` ones only; the most telling first."""
    changes = [{c.name: c for c in in_order(run.closing.changes)} if run.closing else {} for run in runs]
    found = dict.fromkeys(name for by_name in changes for name in by_name)
    names = [name for name in found if wanted is None or name in wanted]
    return [
        Row(
            title=measure_of(name).title,
            note=measure_of(name).note,
            headline=name in HEADLINE,
            cells=tuple(_cells([by_name.get(name) for by_name in changes], charts)),
        )
        for name in names
    ]


def _cells(changes: Sequence[Change | None], charts: Charts) -> list[Cell | None]:
    """One measure of all runs; their strips share one scale."""
    bounds = [abs(x) for change in changes if change and change.interval for x in change.interval]
    extent = max((x for x in bounds if np.isfinite(x)), default=0.0)
    return [_cell(change, extent, run, charts) if change else None for run, change in enumerate(changes)]


def _cell(change: Change, extent: float, run: int, charts: Charts) -> Cell:
    measure, difference = measure_of(change.name), change.after - change.before
    signed = partial(shown, signed=True, share=measure.share)
    interval, strip = "", None
    if change.interval is not None and np.isfinite(change.interval).all():
        low, high = change.interval
        interval = f"{signed(low)} to {signed(high)}"
        if extent > 0:
            label = f"{measure.title}: change {signed(difference)}, 95 % interval {interval}"
            strip = charts.interval(difference, low, high, extent, run, label)
    before, after = (shown(value, share=measure.share) for value in (change.before, change.after))
    return Cell(before, after, signed(difference), interval, verdict(change), strip)


def _chapter(chapter: Chapter, runs: Sequence[Run], charts: Charts) -> dict[str, Any]:
    """A chart for each metric with a line per run; what is 0 all the time is said in words instead."""
    drawings: list[Drawing] = []
    always_zero: list[Curve] = []
    for curve in chapter.curves:
        lines = [Line(*run.series(curve.metric), run=index) for index, run in enumerate(runs)]
        lines = [line for line in lines if len(line.steps) >= chapter.least]
        if any(value for line in lines for value in line.values):
            drawings.append(Drawing(curve.title, curve.note, charts.lines(lines, f"{curve.title} over steps")))
        elif lines:
            always_zero.append(curve)
    return {"chapter": chapter, "drawings": drawings, "always_zero": always_zero}


def _maps(run: Run, index: int, several: bool, charts: Charts) -> dict[str, Any]:
    """The tactic charts of one run."""
    names = [spoken(tactic) for tactic in TACTICS]
    drawings: list[Drawing] = []
    if run.samples:
        shares, steps = tactic_by_step(run.samples)
        svg = charts.heat_map(shares, names, steps, "training step", f"{run.name}: tactics by training step")
        drawings.append(Drawing("Tactic by step", "% of the replies sampled in training that use it", svg))
    drawings += _before_and_after(run, index, names, charts)
    drawings += [_what_follows_what(run, evaluation, charts) for evaluation in _ends(run)]
    return {"title": run.name if several else "", "drawings": drawings}


def _ends(run: Run) -> list[Evaluation]:
    """The first and the last evaluation, where they are two."""
    return list({evaluation.step: evaluation for evaluation in (run.evaluations[:1] + run.evaluations[-1:])}.values())


def _before_and_after(run: Run, index: int, names: Sequence[str], charts: Charts) -> list[Drawing]:
    drawings = []
    for first, last in pairwise(_ends(run)):
        before, after = tactic_shares(first.replies), tactic_shares(last.replies)
        note = f"held-out replies that use it, step {first.step} (hollow) and step {last.step} (full)"
        svg = charts.pairs(before, after, names, index, f"{run.name}: tactics before and after training")
        drawings.append(Drawing("Tactics before and after", note, svg))
    return drawings


def _what_follows_what(run: Run, evaluation: Evaluation, charts: Charts) -> Drawing:
    shares, seen = tactic_after_tactic(evaluation.replies)
    svg = charts.heat_map(
        shares,
        rows=[f"{LOOKS[tactic].short} ({n})" for tactic, n in zip(TACTICS, seen, strict=True)],
        columns=[LOOKS[tactic].short for tactic in TACTICS],
        x_label="tactic of the reply",
        label=f"{run.name}: tactic of the reply by tactic of the previous turn, step {evaluation.step}",
    )
    note = (
        "Row: a tactic of the supporter's previous turn, and in how many cases. Cell: % of the replies then that use "
        "the column's tactic. The diagonal is repetition; its mean is the stickiness."
    )
    return Drawing(f"What follows what, step {evaluation.step}", note, svg)
