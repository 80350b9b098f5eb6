"""Diversity measures on five made-up turns, by hand, and what the released systems show."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_systems import write_outputs
from typer.testing import CliRunner

from dialogue.tactics import TACTICS, Tactic
from evaluation.commands import app
from evaluation.diversity import Diversity, bigram_jaccard, diversity_of, stickiness, transition_matrix
from evaluation.systems import load_system, load_systems
from evaluation.table import make_table

QUESTIONING, ADVICE, VALIDATION = (TACTICS.index(t) for t in (Tactic.QUESTIONING, Tactic.ADVICE, Tactic.VALIDATION))
EXPRESSION, EMPOWERMENT = TACTICS.index(Tactic.EMOTIONAL_EXPRESSION), TACTICS.index(Tactic.EMPOWERMENT)


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    return write_outputs(tmp_path / "outputs")


@pytest.fixture
def ours(outputs: Path) -> Diversity:
    gold, system = load_systems(outputs, outputs / "gold")
    return diversity_of(system, gold)


def test_prevalence_by_turn(ours: Diversity) -> None:
    assert ours.turn_numbers.tolist() == [1, 2, 3]
    assert ours.replies_by_turn.tolist() == [2, 2, 1]
    assert ours.prevalence[:, VALIDATION].tolist() == [1, 0, 0]
    assert ours.prevalence[:, QUESTIONING].tolist() == [0, 0.5, 1]


def test_transitions_from_what_the_person_said_before(ours: Diversity) -> None:
    # Previous turns with questioning: a1 and a3; ours then is questioning twice, and nothing else.
    assert ours.chances[QUESTIONING] == 2
    assert ours.transitions[QUESTIONING, QUESTIONING] == 1
    assert ours.transitions[ADVICE, EMPOWERMENT] == 1
    assert ours.transitions[EXPRESSION, EXPRESSION] == 0
    assert np.isnan(ours.transitions[VALIDATION]).all()  # never before another turn
    assert ours.reuse[QUESTIONING] == 1
    assert ours.reuse_baseline[QUESTIONING] == 0  # only b3 follows a turn without it
    assert ours.reuse_baseline[ADVICE] == 0  # neither a3 nor a5 has it


def test_co_occurrence_counts_replies(ours: Diversity) -> None:
    assert ours.co_occurrence[ADVICE, EMPOWERMENT] == ours.co_occurrence[EMPOWERMENT, ADVICE] == 1
    assert ours.co_occurrence[QUESTIONING, QUESTIONING] == 2  # a5 has it in two sentences, and counts once
    assert ours.co_occurrence[QUESTIONING, ADVICE] == 0


def test_stickiness_by_turn(ours: Diversity) -> None:
    # Turn 2: expression 0/1, questioning 1/1, advice 1/1. Turn 3: questioning 1/1.
    assert math.isnan(ours.stickiness_by_turn[0])
    assert ours.stickiness_by_turn[1:].tolist() == pytest.approx([2 / 3, 1])


def test_surface_similarity_and_repetition(ours: Diversity) -> None:
    # a5 "why did he say that tell me" against "what did he say": (did he), (he say) shared of 6 + 3 - 2 bigrams.
    # b3 "you could call a friend you can do it" against "call a friend": 2 shared of 8 + 2 - 2.
    assert ours.similarity.tolist() == pytest.approx([0, 2 / 7, 2 / 8])
    assert ours.repetition.tolist() == pytest.approx([1 / 2, 1, 1])
    # Ranks 1, 3, 2 and 1, 2.5, 2.5: covariance 1.5, over sqrt(2 * 1.5).
    assert ours.rank_correlation == pytest.approx(1.5 / math.sqrt(3))


def test_a_systems_own_turns_can_be_the_previous_ones(outputs: Path) -> None:
    system = load_systems(outputs)[1]
    own = diversity_of(system, system)
    # a3 "what did he say to you", a5 "why did he say that tell me": (did he), (he say) of 5 + 6 - 2.
    assert own.similarity.tolist() == pytest.approx([0, 2 / 9, 0])
    assert own.repetition.tolist() == [0, 1, 0]


def test_stickiness_is_the_mean_of_the_reuse_that_exists() -> None:
    before, uses = np.zeros((2, 4, 10), dtype=bool)
    before[:, 0], uses[:2, 0] = True, True
    before[3, 1] = True
    assert stickiness(before, uses) == pytest.approx((2 / 4 + 0) / 2)
    assert math.isnan(stickiness(np.zeros((4, 10), dtype=bool), uses))


@given(st.lists(st.integers(0, 2**20 - 1), min_size=1, max_size=12))
@settings(max_examples=40, deadline=None)
def test_transitions_are_conditional_means(rows: list[int]) -> None:
    flags = np.array([[row >> bit & 1 for bit in range(20)] for row in rows], dtype=bool)
    before, uses = flags[:, :10], flags[:, 10:]
    matrix = transition_matrix(before, uses)
    for a in range(10):
        chosen = uses[before[:, a]]
        np.testing.assert_allclose(matrix[a], chosen.mean(axis=0) if len(chosen) else np.full(10, np.nan))


@given(st.text(max_size=30), st.text(max_size=30))
@settings(max_examples=50, deadline=None)
def test_similarity_is_symmetric_between_nothing_and_everything(left: str, right: str) -> None:
    assert 0 <= bigram_jaccard(left, right) == bigram_jaccard(right, left) <= 1


def test_similarity_ignores_case_and_punctuation() -> None:
    assert bigram_jaccard("I'm SO sorry!", "I'm so, sorry.") == 1
    assert bigram_jaccard("a b c", "a b d") == pytest.approx(1 / 3)
    assert bigram_jaccard("Yes.", "Yes.") == 0  # one word has no bigram


def test_the_command_writes_all_by_name(outputs: Path, tmp_path: Path) -> None:
    out = tmp_path / "diversity.json"
    (outputs / "ours" / "gpt-oss-120b_ratings.csv").unlink()  # ratings are not needed here
    done = CliRunner().invoke(app, ["diversity", str(outputs), "--out", str(out)])
    assert done.exit_code == 0, done.output
    ours = json.loads(out.read_text(encoding="utf-8"))["ours"]
    assert ours["prevalence_by_turn"]["2"]["questioning"] == 0.5
    assert ours["transitions"]["advice"]["empowerment"] == 1
    assert ours["transitions"]["validation"]["advice"] is None
    assert ours["co_occurrence"]["questioning"]["questioning"] == 2
    assert ours["stickiness_by_turn"]["1"] is None
    assert len(ours["similarity_and_repetition"]) == 3
    assert "Reuse" in done.output


def test_a_system_is_measured_without_gold_against_its_own_turns(outputs: Path, tmp_path: Path) -> None:
    (outputs / "gold").rename(tmp_path / "gold")
    out = tmp_path / "diversity.json"
    done = CliRunner().invoke(app, ["diversity", str(outputs), "--out", str(out), "--previous", "own"])
    assert done.exit_code == 0, done.output
    assert list(json.loads(out.read_text(encoding="utf-8"))) == ["ours"]
    missing = CliRunner().invoke(app, ["diversity", str(outputs), "--out", str(out)])
    assert "gold" in str(missing.exception)


def test_stickiness_is_that_of_the_table(real_data: Path) -> None:
    outputs = real_data / "mint" / "outputs"
    systems = [load_system(outputs / name) for name in ("gold", "ours1_q_dkl_Qwen3-1.7B")]
    table = make_table(systems, systems[0], resamples=100)
    for system, row in zip(systems, table.rows, strict=True):
        assert diversity_of(system, systems[0]).stickiness == pytest.approx(row.values["stickiness"])
