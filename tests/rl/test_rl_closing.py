"""The closing table: formulae by hand, intervals that mean something, no progress invented."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from dialogue.tactics import TACTICS, Tactic
from rl.closing import Change, Closing, compare, joint_rewards
from rl.config import RewardConfig
from rl.evaluation import EvalReply, EvalRun, common_opening, distinct_ngrams, stickiness, summary
from rl.reward import Components

V, Q, A = Tactic.VALIDATION, Tactic.QUESTIONING, Tactic.ADVICE
CONFIG = RewardConfig(gamma_kl=1.0)


def counts(*tactics: Tactic) -> tuple[int, ...]:
    return tuple(tactics.count(t) for t in TACTICS)


def reply(prompt_id: str, quality: float, d_kl: float = 0.0, previous: tuple[int, ...] | None = None) -> EvalReply:
    return EvalReply(
        prompt_id=prompt_id,
        seeker="I failed.",
        text="That hurts. What happened?",
        tokens=10,
        truncated=False,
        leaked=False,
        sentences=("That hurts.", "What happened?"),
        sentence_tactics=(("validation",), ("questioning",)),
        previous_counts=previous,
        dimensions=(3.0,) * 6,
        raw=Components(quality, d_kl, 0.0, 0.0, 0.0),
    )


def test_stickiness_by_hand():
    # validation: previous in three turns, repeated in two; questioning: previous in one, not repeated
    turns = [
        (counts(V), frozenset({V})),
        (counts(V, V), frozenset({V, Q})),
        (counts(V, Q), frozenset({A})),
        (None, frozenset({Q})),
    ]
    assert stickiness(turns) == pytest.approx((2 / 3 + 0 / 1) / 2)
    assert math.isnan(stickiness([(None, frozenset({Q}))]))


def test_one_phrase_everywhere_shows_in_the_variety_measures():
    assert distinct_ngrams(["a b c", "a b d"], 2) == pytest.approx(3 / 4)
    assert distinct_ngrams(["I hear you"] * 10, 2) == pytest.approx(2 / 20)
    assert common_opening(["I am so sorry now", "I am so sorry then", "Well done to you"]) == pytest.approx(2 / 3)


def test_joint_rewards_scale_both_policies_in_one_group():
    old, new = joint_rewards([reply("p", 2.0)], [reply("p", 4.0), reply("p", 3.0)], replace(CONFIG, gamma_kl=0.0))
    assert old == [0.0]
    assert new == [1.0, 0.5]


def runs(gain: float, prompts: int = 30) -> tuple[EvalRun, EvalRun]:
    rng = np.random.default_rng(0)
    before = tuple(reply(f"p{i}", 3.0 + float(rng.normal(0, 0.3)), previous=counts(V)) for i in range(prompts))
    after = tuple(reply(f"p{i}", 3.0 + gain + float(rng.normal(0, 0.3)), previous=counts(V)) for i in range(prompts))
    return EvalRun(0, before, 0), EvalRun(9, after, 0)


def interval(row: Change) -> tuple[float, float]:
    assert row.interval is not None
    return row.interval


def test_a_real_gain_has_an_interval_above_zero_and_no_gain_has_one_around_it():
    gained = {row.name: row for row in compare(*runs(1.0), CONFIG)}
    still = {row.name: row for row in compare(*runs(0.0), CONFIG)}
    assert interval(gained["empathy"])[0] > 0.5
    assert interval(gained["reward_in_a_joint_group"])[0] > 0
    assert interval(still["empathy"])[0] < 0 < interval(still["empathy"])[1]


def test_the_interval_of_a_mean_agrees_with_scipy():
    from scipy.stats import bootstrap

    before, after = runs(0.2)
    row = next(row for row in compare(before, after, CONFIG) if row.name == "empathy")
    gains = [
        a.raw.quality - b.raw.quality for a, b in zip(after.replies, before.replies, strict=True) if a.raw and b.raw
    ]
    expected = bootstrap((gains,), np.mean, n_resamples=10_000, method="percentile", rng=1).confidence_interval
    assert row.interval == pytest.approx((expected.low, expected.high), abs=0.02)


def test_the_same_policy_twice_changes_nothing():
    before, _ = runs(0.0)
    for row in compare(before, EvalRun(9, before.replies, 0), CONFIG):
        assert row.before == pytest.approx(row.after, nan_ok=True)


def test_rows_agree_with_the_summary_of_the_evaluation():
    before, after = runs(0.5)
    rows = {row.name: row for row in compare(before, after, CONFIG)}
    for name, value in summary(after.replies).items():
        assert rows[name].after == pytest.approx(value, nan_ok=True), name


def test_no_common_prompt_is_an_error():
    with pytest.raises(ValueError, match="no prompt in common"):
        compare(EvalRun(0, (reply("a", 3.0),), 0), EvalRun(1, (reply("b", 3.0),), 0), CONFIG)


def test_an_evaluation_survives_its_file(tmp_path):
    empty = replace(reply("p/1", 0.0), raw=None, dimensions=None, sentences=(), sentence_tactics=(), text="")
    run = EvalRun(3, (reply("p/1", 3.5, 0.2, counts(V)), empty), 1)
    run.save(EvalRun.path(tmp_path, 3))
    assert EvalRun.load(EvalRun.path(tmp_path, 3)) == run


def test_evaluations_past_a_checkpoint_are_forgotten(tmp_path):
    for step in (0, 2, 4):
        EvalRun(step, (), 0).save(EvalRun.path(tmp_path, step))
    EvalRun.forget_after(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evaluation-000000.json", "evaluation-000002.json"]


def test_the_tables_can_be_shown():
    from rich.console import Console

    before, after = runs(0.5)
    console = Console(width=120, record=True)
    for table in Closing(0, 9, 30, compare(before, after, CONFIG), ()).tables():
        console.print(table)
    assert "reward in a joint group" in console.export_text()
