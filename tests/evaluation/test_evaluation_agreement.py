"""Agreement of raters: the resampled measures equal scikit-learn's and SciPy's; figures of the released raters."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import cohen_kappa_score
from typer.testing import CliRunner

from evaluation.agreement import AMONG_EXPERTS, Rater, agreement_report, load_raters
from evaluation.bootstrap import counts_of, draw
from evaluation.commands import app
from evaluation.correlation import (
    resampled_kappa,
    resampled_ranks,
    resampled_spearman,
    spearman,
    weighted_kappa,
    whole,
)
from evaluation.files import EvaluationDataError
from reward_servers.protocol import Dimension

HEADER = ["conversation_id", *(dimension.value for dimension in Dimension)]


def write_rater(path: Path, rows: list[list[object]], header: list[str] = HEADER) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def test_kappa_by_hand() -> None:
    x, y = np.array([1.0, 2, 3, 5]), np.array([1.0, 3, 3, 4])
    # Squared distances 0, 1, 0, 1: mean 1/2. Expected: mean x^2 39/4 + mean y^2 35/4 - 2 (11/4)(11/4).
    assert weighted_kappa(x, y) == pytest.approx(1 - 0.5 / (39 / 4 + 35 / 4 - 2 * (11 / 4) ** 2))


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=2, max_size=25), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_resampled_measures_are_those_of_the_libraries(pairs: list[tuple[int, int]], seed: int) -> None:
    x, y = np.array(pairs, dtype=float).T
    indices = draw(len(x), 6, seed)
    kappas = resampled_kappa(x[:, None], y[:, None], counts_of(indices))[:, 0]
    rhos = resampled_spearman(resampled_ranks(x[:, None], indices), resampled_ranks(y[:, None], indices))[:, 0]
    for row, kappa, rho in zip(indices, kappas, rhos, strict=True):
        if np.ptp(np.concatenate([x[row], y[row]])) == 0:
            assert math.isnan(kappa)
        else:
            expected = cohen_kappa_score(x[row], y[row], labels=[1, 2, 3, 4, 5], weights="quadratic")
            assert kappa == pytest.approx(expected, abs=1e-9)
        if np.ptp(x[row]) == 0 or np.ptp(y[row]) == 0:
            assert math.isnan(rho)
        else:
            assert rho == pytest.approx(spearmanr(x[row], y[row]).statistic, abs=1e-9)


def test_means_of_people_are_rounded_for_kappa_halves_upward() -> None:
    assert whole(np.array([1.49, 2.5, 3.5, 4.9])).tolist() == [1, 3, 4, 5]


def test_constant_ratings_have_no_correlation() -> None:
    ones = np.ones(4)
    assert math.isnan(weighted_kappa(ones, ones))
    assert math.isnan(spearman(ones, np.array([1.0, 2, 3, 4])))
    assert weighted_kappa(ones, np.array([1.0, 2, 1, 2])) == 0


def test_a_rater_is_compared_with_each_expert_alone() -> None:
    rng = np.random.default_rng(0)
    ratings = rng.integers(1, 6, size=(4, 30, 6)).astype(float)
    raters = [Rater(name, r) for name, r in zip(("expert1", "judge", "expert2", "expert3"), ratings, strict=True)]
    report = agreement_report(raters, resamples=100)
    wanted = np.mean([weighted_kappa(ratings[1][:, 0], ratings[e][:, 0]) for e in (0, 2, 3)])
    judge = report.raters["judge"]
    assert judge["validating_emotions"].kappa == pytest.approx(wanted)
    among = np.mean([spearman(ratings[a][:, 5], ratings[b][:, 5]) for a, b in ((0, 2), (0, 3), (2, 3))])
    assert report.raters[AMONG_EXPERTS]["dismissing_emotions"].spearman == pytest.approx(among)
    assert judge["mean"].kappa == pytest.approx(np.mean([judge[d.value].kappa for d in Dimension]))
    assert judge["mean"].kappa_interval[0] < judge["mean"].kappa < judge["mean"].kappa_interval[1]


def test_a_perfect_rater() -> None:
    ratings = np.random.default_rng(1).integers(1, 6, size=(20, 6)).astype(float)
    report = agreement_report([Rater("expert1", ratings), Rater("echo", ratings)], resamples=100)
    assert report.raters["echo"]["mean"].kappa == pytest.approx(1)
    assert report.raters["echo"]["mean"].spearman_interval == pytest.approx((1, 1))
    assert AMONG_EXPERTS not in report.raters


def test_conversations_are_matched_by_id_and_turns_are_averaged(tmp_path: Path) -> None:
    expert = write_rater(tmp_path / "expert1_ratings.csv", [["b", *[2] * 6], ["a", *[1] * 6]])
    rows: list[list[object]] = [["a", 1, *[1] * 6], ["b", 1, *[4] * 6], ["a", 3, *[2] * 6]]
    judge = write_rater(tmp_path / "judge_ratings.csv", rows, [HEADER[0], "turn_index", *HEADER[1:]])
    raters = load_raters([expert, judge])
    assert [rater.name for rater in raters] == ["expert1", "judge"]
    assert [rater.ratings[:, 0].tolist() for rater in raters] == [[1, 2], [1.5, 4]]


@pytest.mark.parametrize(
    ("rows", "parts"),
    [
        ([["a", *[1] * 6]], ["crowd.csv", "1 conversations where", "'b' is not in"]),
        ([["a", *[1] * 6], ["b", *[1] * 6], ["a", *[1] * 6]], ["line 4", "'a'", "line 2 already"]),
        ([["a", *[1] * 6], ["b", "", *[1] * 5]], ["line 3", "'b'", "validating_emotions"]),
        ([["a", *[1] * 6], ["b", *[9] * 6]], ["line 3", "'9'", "1 to 5"]),
        ([["a", *[1] * 6], ["b", *[1] * 5]], ["line 3", "6 cells"]),
    ],
)
def test_faulty_raters_are_named(tmp_path: Path, rows: list[list[object]], parts: list[str]) -> None:
    expert = write_rater(tmp_path / "expert1.csv", [["a", *[1] * 6], ["b", *[2] * 6]])
    with pytest.raises(EvaluationDataError) as caught:
        load_raters([expert, write_rater(tmp_path / "crowd.csv", rows)])
    for part in parts:
        assert part in str(caught.value)


def test_who_is_missing_is_said(tmp_path: Path) -> None:
    crowd = write_rater(tmp_path / "crowd.csv", [["a", *[1] * 6]])
    with pytest.raises(EvaluationDataError, match="no experts among crowd"):
        agreement_report(load_raters([crowd]))
    expert = write_rater(tmp_path / "expert1.csv", [["a", *[1] * 6]])
    with pytest.raises(EvaluationDataError, match="nobody to compare"):
        agreement_report(load_raters([expert]))
    (tmp_path / "again").mkdir()
    again = write_rater(tmp_path / "again" / "crowd_ratings.csv", [["a", *[1] * 6]])
    with pytest.raises(EvaluationDataError, match="another file for the rater 'crowd'"):
        load_raters([crowd, again])


def test_the_released_raters(real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "lend_an_ear_ratings" / "lend_an_ear"
    names = ("crowd", "gpt", "gemini", "expert1", "expert2", "expert3")
    judge = real_data / "mint" / "outputs" / "gold" / "gpt-oss-120b_ratings.csv"
    files = [str(folder / f"{name}_ratings.csv") for name in names] + [str(judge)]
    out = tmp_path / "agreement.json"
    done = CliRunner().invoke(app, ["agreement", *files, "--json", str(out), "--resamples", "500"])
    assert done.exit_code == 0, done.output
    result = json.loads(out.read_text(encoding="utf-8"))
    assert result["conversations"] == 50 and result["experts"] == ["expert1", "expert2", "expert3"]
    means = {rater: scales["mean"] for rater, scales in result["raters"].items()}
    # Judges agree with experts about as much as these do among themselves, the crowd far less.
    assert means[AMONG_EXPERTS]["kappa"] == pytest.approx(0.546, abs=0.002)
    assert means["gemini"]["kappa"] == pytest.approx(0.539, abs=0.001)
    assert means["gpt-oss-120b"]["spearman"] == pytest.approx(0.618, abs=0.001)
    assert means["crowd"]["kappa_interval"][1] < means["gpt"]["kappa_interval"][0]
    assert "Quadratically weighted kappa" in done.output and "Spearman" in done.output
