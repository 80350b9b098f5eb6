"""Macro F1 against scikit-learn, thresholds, bootstrap, folds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from reward_servers.tactics.building import fold_indices
from reward_servers.tactics.evaluation import best_thresholds, evaluate, macro_f1


def test_macro_f1_by_hand() -> None:
    truth = np.array([[1.0], [1.0], [0.0], [0.0]])
    predicted = np.array([[1.0], [0.0], [0.0], [0.0]])
    # Positive class: TP 1, FP 0, FN 1, F1 2/3. Negative class: TP 2, FP 1, FN 0, F1 4/5.
    assert macro_f1(truth, predicted)[0] == pytest.approx((2 / 3 + 4 / 5) / 2)


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=40))
@settings(max_examples=60, deadline=None)
def test_macro_f1_agrees_with_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    truth, predicted = np.array(pairs, dtype=float).T
    expected = f1_score(truth, predicted, labels=[0, 1], average="macro", zero_division=0)
    assert macro_f1(truth[:, None], predicted[:, None])[0] == pytest.approx(expected)


def test_thresholds_go_half_way_to_the_middle_of_the_best_cuts() -> None:
    truth = np.tile(np.array([[1.0], [0.0]]), (20, 1))
    probabilities = np.tile(np.array([[0.31], [0.09]]), (20, 1))
    # Every cut of the grid from 0.10 to 0.30 is right; 0.20 lies in the middle, 0.35 half way from there to 0.5.
    assert best_thresholds(truth, probabilities)[0] == pytest.approx(0.35)


def test_a_tactic_with_few_positives_keeps_one_half() -> None:
    truth = np.zeros((50, 1))
    truth[:19] = 1
    assert best_thresholds(truth, np.where(truth > 0, 0.2, 0.1))[0] == 0.5


def test_evaluation_has_the_mean_inside_its_interval() -> None:
    rng = np.random.default_rng(0)
    truth = (rng.random((200, 10)) < 0.3).astype(float)
    predicted = np.where(rng.random((200, 10)) < 0.8, truth, 1 - truth)
    result = evaluate(truth, predicted, [i // 8 for i in range(200)], resamples=200)
    assert result.interval[0] < result.mean < result.interval[1]
    assert result.as_dict()["mean_macro_f1"] == pytest.approx(result.mean, abs=1e-4)


def test_every_reply_is_tested_once_and_never_trained_on_then() -> None:
    folds = list(fold_indices(25, 5))
    assert sorted(i for _, test in folds for i in test) == list(range(25))
    assert all(not set(train) & set(test) and len(train) + len(test) == 25 for train, test in folds)
