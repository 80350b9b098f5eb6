"""Matrices, charts, colours and verdicts."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from dialogue.tactics import TACTICS, Tactic
from evaluation.report.charts import Charts, Line, moving_mean
from evaluation.report.measures import shown, verdict
from evaluation.report.palette import LOOKS
from evaluation.report.run_files import Change, read_run
from evaluation.report.tactic_maps import MAX_STEP_BINS, tactic_after_tactic, tactic_by_step, tactic_shares

ADVICE, VALIDATION, QUESTIONING, EMPOWERMENT = (
    TACTICS.index(t) for t in (Tactic.ADVICE, Tactic.VALIDATION, Tactic.QUESTIONING, Tactic.EMPOWERMENT)
)
# Linear RGB as seen without red or green cones (Machado, Oliveira and Fernandes 2009, severity 1).
SEEN = {
    "all colours": np.eye(3),
    "no green": np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]]),
    "no red": np.array([[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]]),
}


@pytest.fixture
def run(run_folder):
    return read_run(run_folder)


def test_tactic_by_step(run):
    shares, steps = tactic_by_step(run.samples)
    assert steps == ["1", "2"] and shares.shape == (10, 2)
    assert shares[VALIDATION].tolist() == [2 / 5, 0]  # the empty reply does not count
    assert shares[EMPOWERMENT, 0] == 1 / 5


def test_many_steps_become_ranges(run):
    many = [replace(run.samples[0], step=step) for step in range(1, 26)]
    shares, steps = tactic_by_step(many)
    assert shares.shape == (10, MAX_STEP_BINS) and steps[0] == "1-3" and steps[-1] == "24-25"


def test_tactic_after_tactic(run):
    shares, seen = tactic_after_tactic(run.evaluations[0].replies)
    assert seen.tolist() == [0, 0, 2, 0, 0, 0, 0, 2, 0, 0]
    assert shares[ADVICE, ADVICE] == 0.5 and shares[QUESTIONING, ADVICE] == 0.5
    assert shares[QUESTIONING, QUESTIONING] == 0 and np.isnan(shares[VALIDATION]).all()
    assert np.nanmean(np.diag(shares)) == 0.25  # the stickiness of these two replies


def test_no_replies_at_all():
    assert np.isnan(tactic_shares([])).all()
    assert np.isnan(tactic_after_tactic([])[0]).all()


def test_a_chart_has_the_colours_of_the_page_and_no_others():
    charts = Charts()
    svg = charts.lines([Line([1, 2], [0.1, 0.2], 0), Line([1, 2], [0.3, math.nan], 7)], "two & more <lines>")
    assert "var(--run-0)" in svg and "var(--run-1)" in svg and not re.search(r"#[0-9a-f]{6}", svg)
    assert "<title>two &amp; more &lt;lines&gt;</title>" in svg and "<style" not in svg
    assert 'id="chart1-' in svg and 'id="chart2-' in charts.lines([Line([1, 2], [0.1, 0.2], 0)], "x")


def test_heat_map_cells_hold_their_numbers():
    svg = Charts().heat_map(np.array([[0.25, np.nan]]), ["row"], ["a", "b"], "x", "map")
    assert ">25</text>" in svg and svg.count("var(--heat)") == 1


def test_moving_mean():
    assert moving_mean([1.0, 2.0, 6.0], 1) == [1.5, 3.0, 4.0]
    assert math.isnan(moving_mean([math.nan], 1)[0])


@pytest.mark.parametrize(
    ("name", "interval", "said"),
    [
        ("empathy", (0.1, 0.2), "better"),
        ("empathy", (-0.2, -0.1), "worse"),
        ("stickiness", (-0.2, -0.1), "better"),
        ("tokens", (-2.0, -1.0), "lower"),
        ("empathy", (0.0, 0.2), "no clear change"),
        ("unknown_measure", (1.0, 2.0), "higher"),
        ("empathy", None, "no interval"),
        ("empathy", (math.nan, math.nan), "no interval"),
    ],
)
def test_verdicts(name, interval, said):
    assert verdict(Change(name, 0.0, 0.0, interval)) == said


def test_numbers_for_people():
    values = [(3.14159, False), (-0.5, True), (0.001, True), (55.94, False), (9.96, True), (math.nan, False)]
    assert [shown(value, signed) for value, signed in values] == ["3.14", "−0.50", "0.00", "55.9", "+10.0", "–"]
    assert [shown(value, signed, share=True) for value, signed in ((0.0038, False), (-0.0612, True), (0, True))] == [
        "0.4 %",
        "−6.1 %",
        "0.0 %",
    ]


def oklab(colour: str, seen: np.ndarray) -> np.ndarray:
    """Perceptual coordinates of `#rrggbb`, times 100 (Ottosson 2020)."""
    rgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.clip(seen @ np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4), 0, 1)
    cones = np.array([[0.4122, 0.5363, 0.0514], [0.2119, 0.6807, 0.1074], [0.0883, 0.2817, 0.6300]]) @ linear
    mixed = [[0.2105, 0.7936, -0.0041], [1.9780, -2.4286, 0.4506], [0.0259, 0.7828, -0.8087]]
    return 100 * np.array(mixed) @ np.cbrt(cones)


@pytest.mark.parametrize("page", ["light", "dark"])
@pytest.mark.parametrize("seen", SEEN.values(), ids=SEEN)
def test_any_two_tactics_can_be_told_apart(page, seen):
    """A distance of 2 is just noticeable side by side; labels stand beside all colours anyway."""
    points = {tactic: oklab(getattr(look, page), seen) for tactic, look in LOOKS.items()}
    nearest = min((np.linalg.norm(points[a] - points[b]), a, b) for a, b in combinations(points, 2))
    assert nearest[0] > 9, nearest


def test_every_tactic_has_a_word_of_its_own():
    assert set(LOOKS) == set(TACTICS) and len({look.short for look in LOOKS.values()}) == len(TACTICS)
