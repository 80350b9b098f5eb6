"""What becomes of replies that cannot be scored: they leave their group, and never turn into a number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest

from dialogue.tactics import Tactic
from reward_servers.protocol import EmpathyScore, FailureKind, Score, ScoreFailure, ScoreRequest, ScoreResult
from rl.config import RunConfig, ServersConfig
from rl.metrics import step_metrics
from rl.scoring import ScoringError, score_groups
from rl.types import Prompt, Rollout, RolloutGroup, StopReason

CONFIG = RunConfig(servers=ServersConfig(max_failed_fraction=0.5))


class ScriptedScorer:
    """Answers with the number in the reply's text; a reply that says `down` fails."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def score(self, requests: Sequence[ScoreRequest]) -> list[ScoreResult]:
        self.asked += [request.id for request in requests]
        return [self._answer(request) for request in requests]

    def _answer(self, request: ScoreRequest) -> ScoreResult:
        if request.response == "down":
            return ScoreFailure(request.id, FailureKind.UNAVAILABLE, "connection refused", "tagger", 3)
        tactics = ((Tactic.VALIDATION,),)
        return Score(request.id, ("x",), tactics, ((0.5,) * 10,), EmpathyScore((3.0,) * 6), float(request.response))


def group(prompt_id: str, *texts: str) -> RolloutGroup:
    prompt = Prompt(prompt_id, prompt_id, ({"role": "user", "content": "hi"},), (1,))
    return RolloutGroup(prompt, tuple(Rollout((1, 2), (-1.0, -1.0), 0, StopReason.EOS, text) for text in texts))


def test_a_failed_rollout_leaves_its_group_and_the_rest_is_scaled_without_it():
    result = score_groups(ScriptedScorer(), [group("a", "1", "down", "3", "2")], CONFIG)
    (scored,) = result.groups
    assert [rollout.text for rollout in scored.rollouts] == ["1", "3", "2"]
    assert [b.scaled.quality for b in scored.breakdowns if b.scaled] == [0.0, 1.0, 0.5]
    assert (result.failed, result.handed_back) == (1, ())


def test_a_group_with_too_few_left_is_handed_back_with_the_reason():
    groups = [group("a", "1", "down", "down"), group("b", "1", "2", "3")]
    result = score_groups(ScriptedScorer(), groups, CONFIG)
    assert [scored.prompt.id for scored in result.groups] == ["b"]
    ((prompt, reason),) = result.handed_back
    assert prompt.id == "a"
    assert "connection refused" in reason


def test_a_step_without_a_scored_group_has_no_number_for_what_does_not_exist():
    lenient = replace(CONFIG, servers=replace(CONFIG.servers, max_failed_fraction=1.0))
    groups = [group("a", "1", "down", "down")]
    metrics = step_metrics(groups, score_groups(ScriptedScorer(), groups, lenient), {}, {})
    assert metrics["groups/handed_back"] == 1
    assert not any(math.isnan(value) for value in metrics.values())
    assert "rollout/stock_phrases" not in metrics


def test_what_is_told_to_everybody_is_found_across_the_groups_of_a_step():
    class Fixed(ScriptedScorer):
        def _answer(self, request: ScoreRequest) -> ScoreResult:
            return super()._answer(replace(request, response="2"))

    config = replace(CONFIG, reward=replace(CONFIG.reward, stock_penalty=2.0))
    groups = [group("a", "I am here for you", "What did he say?"), group("b", "I am here for you", "Was it loud?")]
    first, second = score_groups(Fixed(), groups, config).groups
    assert [b.stock for b in first.breakdowns] == [b.stock for b in second.breakdowns] == [1.0, 0.0]
    assert [first.rewards[1] - first.rewards[0], second.rewards[1] - second.rewards[0]] == pytest.approx([2.0, 2.0])


def test_what_is_done_with_everybody_is_found_across_the_groups_of_a_step():
    """By its tactics: the words differ."""
    moves = {"ask": Tactic.QUESTIONING, "validate": Tactic.VALIDATION}

    class Moves(ScriptedScorer):
        def _answer(self, request: ScoreRequest) -> ScoreResult:
            answer = super()._answer(replace(request, response="2"))
            assert isinstance(answer, Score)
            return replace(answer, sentence_tactics=((moves[request.response],),))

    config = replace(CONFIG, reward=replace(CONFIG.reward, gamma_kl=0.0, habit_penalty=4.0, habit_ceiling=0.25))
    groups = [group("a", "ask", "validate"), group("b", "ask", "ask", " "), group("c", "ask", "ask")]
    first, second, _ = score_groups(Moves(), groups, config).groups
    assert [b.habit for b in first.breakdowns] == [0.75, 0.0]  # the other four ask
    assert first.rewards == (0.5 - 3.0, 0.5)
    assert [b.habit for b in second.breakdowns] == [0.5, 0.5, 0.0]  # three of the other four


def test_too_many_failures_stop_the_run_and_name_the_server():
    strict = replace(CONFIG, servers=replace(CONFIG.servers, max_failed_fraction=0.1))
    with pytest.raises(ScoringError, match=r"1 of 4 .*tagger: unavailable: connection refused \(reply a#1, 3 attempts"):
        score_groups(ScriptedScorer(), [group("a", "1", "down", "3", "2")], strict)


def test_an_empty_reply_is_not_sent_and_has_the_floor():
    scorer = ScriptedScorer()
    (scored,) = score_groups(scorer, [group("a", "1", " ", "3")], CONFIG).groups
    assert scorer.asked == ["a#0", "a#2"]
    assert scored.rewards[1] == CONFIG.reward.empty_reward
    assert min(scored.rewards) == scored.rewards[1]


def test_equal_rewards_are_zero_variance():
    same, different = score_groups(ScriptedScorer(), [group("a", "2", "2"), group("b", "1", "2")], CONFIG).groups
    assert same.zero_variance
    assert not different.zero_variance
