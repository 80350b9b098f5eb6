"""The MINT reward on numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import entropy as scipy_entropy

from dialogue.tactics import TACTICS, Tactic
from reward_servers.protocol import EmpathyScore, Score
from rl.config import RewardConfig, RewardMode
from rl.reward import entropy, group_rewards, kl_to_previous, ngram_surprisal, scale_within_group
from rl.types import Prompt, Rollout, StopReason

V, Q, A = Tactic.VALIDATION, Tactic.QUESTIONING, Tactic.ADVICE
counts = st.lists(st.integers(0, 6), min_size=10, max_size=10).map(tuple)


def one_hot(tactic: Tactic, count: int = 1) -> tuple[int, ...]:
    return tuple(count if t is tactic else 0 for t in TACTICS)


def prompt(*past: tuple[tuple[Tactic, ...], ...]) -> Prompt:
    return Prompt("c/1", "c", ({"role": "user", "content": "I failed."},), (1, 2), past)


def rollout(text: str = "I hear you.", tokens: int = 10, stop: StopReason = StopReason.EOS) -> Rollout:
    return Rollout((5,) * tokens, (-1.0,) * tokens, 0, stop, text)


def score(quality: float, *sentences: tuple[Tactic, ...]) -> Score:
    probabilities = tuple((0.5,) * 10 for _ in sentences)
    return Score("c/1#0", ("x",) * len(sentences), sentences, probabilities, EmpathyScore((3.0,) * 6), quality)


def test_what_is_said_to_everybody_costs_in_proportion():
    config = RewardConfig(gamma_kl=0.0, stock_penalty=2.0)
    got = group_rewards(prompt(), [rollout(), rollout()], [score(4.0), score(2.0)], config, [0.25, 0.5])
    assert [item.reward for item in got] == pytest.approx([1.0 - 0.5, 0.0 - 1.0])
    assert [item.stock for item in got] == [0.25, 0.5]


def test_what_is_done_with_everybody_costs_in_proportion():
    config = RewardConfig(gamma_kl=0.0, habit_penalty=10.0)
    got = group_rewards(prompt(), [rollout(), rollout()], [score(4.0), score(2.0)], config, habit=[0.25, 0.0])
    assert [item.reward for item in got] == pytest.approx([1.0 - 2.5, 0.0])
    assert [item.habit for item in got] == [0.25, 0.0]


def test_kl_between_two_single_tactics_by_hand():
    # one count each: the used tactic has (1 + 0.1) / 2 = 0.55, the others 0.1 / 2 = 0.05
    expected = 0.55 * math.log(0.55 / 0.05) + 0.05 * math.log(0.05 / 0.55)
    assert kl_to_previous(one_hot(V), one_hot(Q), alpha=0.1, cap=5.0) == pytest.approx(expected)


def test_kl_is_zero_for_the_same_tactics_without_tactics_and_on_the_first_turn():
    assert kl_to_previous(one_hot(V), one_hot(V), 0.1, 5.0) == pytest.approx(0.0)
    assert kl_to_previous((0,) * 10, one_hot(V), 0.1, 5.0) == 0.0
    assert kl_to_previous(one_hot(V), None, 0.1, 5.0) == 0.0


def test_kl_is_capped():
    assert kl_to_previous(one_hot(V, 50), one_hot(Q, 50), alpha=1e-6, cap=5.0) == 5.0


@given(counts, counts)
def test_kl_agrees_with_scipy_and_is_never_negative(current, previous):
    value = kl_to_previous(current, previous, 0.1, 5.0)
    expected = scipy_entropy([c + 0.1 for c in current], [c + 0.1 for c in previous]) if any(current) else 0.0
    assert value == pytest.approx(min(5.0, expected), abs=1e-9)
    assert value >= -1e-12


@given(counts)
def test_entropy_agrees_with_scipy(current):
    expected = scipy_entropy(current) if any(current) else 0.0
    assert entropy(current) == pytest.approx(expected, abs=1e-12)


def test_bigram_surprisal_by_hand():
    past = [((V,), (Q,)), ((V,), (Q,)), ((V,), (A,))]
    # after V the past has Q twice and A once: P(Q | V) = (2 + 0.1) / (3 + 1)
    assert ngram_surprisal(((V,), (Q,)), past, 2, 0.1) == pytest.approx(-math.log(2.1 / 4))
    # never seen after Q: P(V | Q) = 0.1 / (0 + 1)
    assert ngram_surprisal(((V,), (Q,), (V,)), past, 2, 0.1) == pytest.approx((-math.log(2.1 / 4) - math.log(0.1)) / 2)


def test_sentences_without_a_tactic_are_passed_over_and_short_turns_have_no_surprisal():
    past = [((V,), (), (Q,))]
    assert ngram_surprisal(((V,), (), (Q,)), past, 2, 0.1) == pytest.approx(-math.log(1.1 / 2))
    assert ngram_surprisal(((V,),), past, 2, 0.1) == 0.0
    assert ngram_surprisal(((V,), (Q,)), past, 3, 0.1) == 0.0


def test_trigram_surprisal_averages_over_the_tactics_of_a_sentence():
    past = [((V,), (Q,), (A,))]
    seen, unseen = -math.log(1.1 / 2), -math.log(0.1 / 2)
    assert ngram_surprisal(((V,), (Q,), (A, V)), past, 3, 0.1) == pytest.approx((seen + unseen) / 2)


def test_min_max_scaling_and_the_flat_range():
    assert scale_within_group([1.0, 3.0, 2.0]) == [0.0, 1.0, 0.5]
    assert scale_within_group([2.0, 2.0]) == [0.5, 0.5]


MODES = {
    RewardMode.quality_only: (1.0, 0.0),
    RewardMode.diversity_only: (0.0, 2.0),
    RewardMode.quality_plus_diversity: (1.0, 2.0),
    RewardMode.quality_times_diversity: (0.0, 0.0),
}


@pytest.mark.parametrize(("mode", "expected"), MODES.items())
def test_the_four_modes(mode, expected):
    # the first reply has the better quality and repeats the past tactic; the second has the worse and varies
    config = RewardConfig(mode=mode, weight=2.0, gamma_kl=1.0)
    past = prompt(((V,),))
    got = group_rewards(past, [rollout(), rollout()], [score(4.0, (V,)), score(2.0, (Q,))], config)
    assert tuple(item.reward for item in got) == pytest.approx(expected)


def test_a_long_reply_is_scaled_down_by_200_over_its_tokens():
    long = rollout(tokens=400)
    got = group_rewards(prompt(), [long, rollout()], [score(4.0), score(2.0)], RewardConfig(gamma_kl=0.0))
    assert [item.reward for item in got] == pytest.approx([1.0 * 200 / 400, 0.0])


def test_a_leaked_label_costs_two_after_the_length_factor():
    leaked = rollout("**Validation**: that makes sense.", tokens=400)
    got = group_rewards(prompt(), [leaked, rollout()], [score(4.0), score(2.0)], RewardConfig(gamma_kl=0.0))
    assert got[0].reward == pytest.approx(0.5 - 2.0)
    assert got[0].leaked
    assert not got[1].leaked


def test_an_empty_reply_is_below_every_honest_one_and_does_not_move_their_scaling():
    replies = [rollout(), rollout("  "), rollout()]
    scores = [score(4.0, (V,)), None, score(2.0, (V,))]
    got = group_rewards(prompt(), replies, scores, RewardConfig(gamma_kl=0.0))
    assert [item.reward for item in got] == [1.0, -1.0, 0.0]
    assert got[1].empty
    assert got[1].raw is None


def test_a_truncated_reply_costs_what_the_config_says():
    cut = rollout(stop=StopReason.LENGTH)
    config = RewardConfig(gamma_kl=0.0, truncation_penalty=0.25)
    got = group_rewards(prompt(), [cut, rollout()], [score(4.0), score(2.0)], config)
    assert got[0].reward == pytest.approx(0.75)


def test_a_missing_score_is_refused_instead_of_becoming_a_number():
    with pytest.raises(ValueError, match="c/1"):
        group_rewards(prompt(), [rollout()], [None], RewardConfig())
