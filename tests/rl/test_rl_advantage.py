"""Every estimator of verl that this loop can feed, on numbers worked out by hand."""

from __future__ import annotations

import math

import pytest

from rl.advantage import compute_advantages, usable_estimators, validate_advantage
from rl.config import ConfigError, LossConfig

REWARDS, LENGTHS = [[1.0, 2.0, 3.0], [0.0, 1.0]], [[2, 3, 1], [1, 2]]
ROOT_HALF = 1 / math.sqrt(2)
# the advantage of each rollout's tokens
BY_HAND = {
    "grpo": [[-1, 0, 1], [-ROOT_HALF, ROOT_HALF]],  # (r - mean) / sample std
    "grpo_vectorized": [[-1, 0, 1], [-ROOT_HALF, ROOT_HALF]],
    "rloo": [[-1.5, 0, 1.5], [-1, 1]],  # r - mean of the others
    "rloo_vectorized": [[-1.5, 0, 1.5], [-1, 1]],
    "opo": [[1 - 11 / 6, 2 - 11 / 6, 3 - 11 / 6], [-2 / 3, 1 / 3]],  # baseline: mean weighted by length
    "grpo_passk": [[0, 0, 1], [0, math.sqrt(2)]],  # (best - second) / std, for the best only
    "gpg": [[-1.25, 0, 1.25], [-0.625, 0.625]],  # (r - mean) * batch / non-zero rewards
}


@pytest.mark.parametrize(("name", "expected"), BY_HAND.items())
def test_estimator_by_hand(name, expected):
    got = compute_advantages(REWARDS, LENGTHS, LossConfig(advantage=name))
    for group, lengths, values in zip(got, LENGTHS, expected, strict=True):
        for tokens, length, value in zip(group, lengths, values, strict=True):
            assert tokens == pytest.approx((value,) * length, abs=1e-4)


def test_dr_grpo_does_not_divide_by_the_spread():
    got = compute_advantages(REWARDS, LENGTHS, LossConfig(norm_adv_by_std=False))
    assert [tokens[0] for tokens in got[0]] == pytest.approx([-1, 0, 1])
    assert [tokens[0] for tokens in got[1]] == pytest.approx([-0.5, 0.5])


@pytest.mark.parametrize("name", ["reinforce_plus_plus", "reinforce_plus_plus_baseline"])
def test_batch_whitened_estimators_have_mean_zero_over_tokens(name):
    got = compute_advantages(REWARDS, LENGTHS, LossConfig(advantage=name))
    tokens = [x for group in got for row in group for x in row]
    assert sum(tokens) / len(tokens) == pytest.approx(0, abs=1e-5)


def test_every_usable_estimator_is_covered_here():
    assert set(usable_estimators()) == {*BY_HAND, "reinforce_plus_plus", "reinforce_plus_plus_baseline"}


@pytest.mark.parametrize("name", ["gae", "remax", "gdpo", "optimal_token_baseline", "grop"])
def test_what_the_loop_cannot_feed_is_refused(name):
    with pytest.raises(ConfigError, match=f"learner.loss.advantage={name}"):
        validate_advantage(name)


def test_an_empty_batch_has_no_advantages():
    assert compute_advantages([], [], LossConfig()) == []
