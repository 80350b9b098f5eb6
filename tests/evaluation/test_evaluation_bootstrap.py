"""The vectorised bootstrap equals a plain loop over resamples; p-values and Holm's rule by hand."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.bootstrap import counts_of, draw, holm, interval, mean_defined, p_value


def test_counts_of_two_resamples_by_hand() -> None:
    assert counts_of(np.array([[0, 0, 2], [1, 2, 0]])).tolist() == [[2, 0, 1], [1, 1, 1]]


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=20), st.integers(0, 100))
@settings(max_examples=40, deadline=None)
def test_a_mean_by_counts_is_the_mean_of_the_resample(values: list[float], seed: int) -> None:
    indices = draw(len(values), 8, seed)
    counts = counts_of(indices)
    assert (counts.sum(axis=1) == len(values)).all()
    loop = [np.mean([values[i] for i in row]) for row in indices]
    np.testing.assert_allclose(counts @ np.array(values) / len(values), loop, atol=1e-9)


def test_draws_are_those_of_the_seed_and_uniform() -> None:
    assert (draw(7, 50, 3) == draw(7, 50, 3)).all()
    assert (draw(7, 50, 3) != draw(7, 50, 4)).any()
    shares = counts_of(draw(5, 20_000, 0)).mean(axis=0)
    np.testing.assert_allclose(shares, 1.0, atol=0.03)


def test_the_interval_of_a_mean_is_the_textbook_one() -> None:
    values = np.random.default_rng(0).normal(size=400)
    low, high = interval(counts_of(draw(400, 10_000, 1)) @ values / 400)
    error = values.std() / math.sqrt(400)
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.1 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.1 * error)


def test_p_values_by_hand() -> None:
    # 1 of 9 resamples lies at or below 0: 2 (1 + 1) / (9 + 1).
    assert p_value(np.array([-1.0, 1, 2, 3, 4, 5, 6, 7, 8])) == pytest.approx(0.4)
    assert p_value(np.array([1.0, 2, 3, 4, 5, 6, 7, 8, 9])) == pytest.approx(2 / 10)
    assert p_value(-np.array([1.0, 2, 3, 4, 5, 6, 7, 8, 9])) == pytest.approx(2 / 10)
    assert p_value(np.zeros(9)) == 1.0
    assert p_value(np.array([-1e-16, 1e-16, 2e-16])) == 1.0  # no difference but rounding
    assert math.isnan(p_value(np.array([np.nan])))


def test_p_values_of_a_null_effect_are_uniform() -> None:
    rng = np.random.default_rng(0)
    counts = counts_of(draw(60, 400, 0))
    p_values = [p_value(counts @ rng.normal(size=60) / 60) for _ in range(300)]
    assert 0.02 < np.mean(np.array(p_values) < 0.05) < 0.10
    assert np.mean(p_values) == pytest.approx(0.5, abs=0.06)


def test_holm_by_hand() -> None:
    # Sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1 gives 0.04, 0.06, 0.06, 0.04; no later one may be smaller.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_counts_only_the_tests_that_exist() -> None:
    adjusted = holm([0.01, math.nan, 0.04])
    assert adjusted[0] == pytest.approx(0.02)
    assert math.isnan(adjusted[1])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
@settings(max_examples=40, deadline=None)
def test_holm_never_lowers_a_p_value_and_keeps_their_order(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    assert all(p <= q <= 1 for p, q in zip(p_values, adjusted, strict=True))
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    assert all(adjusted[i] <= adjusted[j] for i, j in pairwise(order))


def test_undefined_values_stay_out_of_means_and_intervals() -> None:
    values = np.array([[1.0, np.nan], [3.0, np.nan]])
    np.testing.assert_array_equal(mean_defined(values, axis=0), [2.0, np.nan])
    assert interval(np.array([np.nan, 1.0, 1.0])) == (1.0, 1.0)
    assert all(map(math.isnan, interval(np.array([np.nan]))))
