"""Which reward deserves trust: one table, its figures those of `rapport evaluate agreement` and of scipy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import cohen_kappa_score
from typer.testing import CliRunner

from evaluation.agreement import AMONG_EXPERTS, Rater, agreement_report
from evaluation.files import EvaluationDataError
from evaluation.ratings import aggregated
from evaluation.trust import AGGREGATE, Rated, by_conversation, tables_of, trust_table
from reward_servers.empathy.commands import app

N = 12


@pytest.fixture
def experts() -> list[Rater]:
    draw = np.random.default_rng(1)
    return [Rater(f"expert{i}", draw.integers(1, 6, size=(N, 6)).astype(float)) for i in (1, 2)]


def test_dimensions_are_those_of_the_agreement_report_and_the_aggregate_that_of_scipy(experts: list[Rater]) -> None:
    other = Rater("crowd", np.random.default_rng(2).uniform(1, 5, size=(N, 6)))
    table = trust_table(experts, [Rated.of_rater(other)], resamples=200, seed=0)
    row = next(row for row in table.rows if row.name == "crowd")
    wanted = agreement_report([other, *experts], 200, 0).raters["crowd"]
    assert {scale: found for scale, found in row.scales.items() if scale != AGGREGATE} == wanted
    own, theirs = aggregated(other.ratings), [aggregated(expert.ratings) for expert in experts]
    rho = np.mean([spearmanr(own, one).statistic for one in theirs])
    whole = [np.floor(values + 0.5).astype(int) for values in (own, *theirs)]
    kappas = [cohen_kappa_score(whole[0], one, labels=[1, 2, 3, 4, 5], weights="quadratic") for one in whole[1:]]
    found = row.scales[AGGREGATE]
    assert found.spearman == pytest.approx(rho) and found.kappa == pytest.approx(np.mean(kappas))
    assert found.spearman_interval[0] < rho < found.spearman_interval[1]
    assert table.rows[0].name == AMONG_EXPERTS


def test_a_scorer_of_one_number_has_an_aggregate_only_and_kappa_only_in_points(experts: list[Rater]) -> None:
    likeness = aggregated(experts[0].ratings)
    rated = [Rated("points", likeness), Rated("logits", 100 * likeness - 7, in_points=False)]
    rows = {row.name: row for row in trust_table(experts, rated, 200, 0).rows}
    assert set(rows["points"].scales) == {AGGREGATE}
    points, logits = rows["points"].scales[AGGREGATE], rows["logits"].scales[AGGREGATE]
    assert points.spearman == pytest.approx(logits.spearman)  # ranks know no scale
    assert not np.isnan(points.kappa) and np.isnan(logits.kappa)


def test_conversations_kept_out_have_a_table_of_their_own(experts: list[Rater]) -> None:
    names = [f"c{i}" for i in range(N)]
    scorer = Rated("s", aggregated(experts[0].ratings))
    tables = tables_of(experts, [scorer], names, frozenset(names[:6]), 100, 0)
    assert {which: table.conversations for which, table in tables.items()} == {"all": N, "kept out": 6}
    assert set(tables_of(experts, [scorer], names, frozenset(), 100, 0)) == {"all"}
    with pytest.raises(EvaluationDataError, match="2 and 5 are needed"):
        trust_table(experts[:1], [scorer], 100, 0)


def test_turns_become_means_of_their_conversation() -> None:
    values = np.array([1.0, 3.0, 5.0, 9.0])
    assert by_conversation(["a", "b"], ["b", "b", "a", "elsewhere"], values).tolist() == [5.0, 2.0]
    with pytest.raises(EvaluationDataError, match="'c'"):
        by_conversation(["c"], ["a"], values[:1])


@pytest.mark.real_data
def test_the_command_ranks_the_shipped_scorer_among_judges_and_people(real_data: Path, tmp_path: Path) -> None:
    names = ("expert1", "expert2", "expert3", "crowd", "gpt", "claude", "gemini")
    ratings = [str(real_data / f"lend_an_ear_ratings/lend_an_ear/{name}_ratings.csv") for name in names]
    out, gold = tmp_path / "trust.json", str(real_data / "mint/outputs/gold")
    result = CliRunner().invoke(
        app, ["trust", *ratings, "--gold", gold, "--json", str(out), "--resamples", "200"], catch_exceptions=False
    )
    assert result.exit_code == 0 and "number of words" in result.output
    tables = json.loads(out.read_text())
    assert (tables["all"]["conversations"], tables["kept out"]["conversations"]) == (50, 15)
    rows = {row["name"]: row["scales"] for row in tables["all"]["rows"]}
    means = {
        name: (round(s["mean"]["kappa"], 2), round(s["mean"]["spearman"], 2)) for name, s in rows.items() if "mean" in s
    }
    assert means[AMONG_EXPERTS] == (0.55, 0.59) and means["crowd"] == (0.28, 0.39)
    assert (means["gpt"], means["claude"], means["gemini"]) == ((0.50, 0.58), (0.45, 0.59), (0.54, 0.63))
    assert set(rows) >= {"shipped scorer", "number of words"}
