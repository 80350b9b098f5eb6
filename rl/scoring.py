"""From rollouts to rewards: ask the reward servers, let failed rollouts leave their group, refuse a failing server.

    RolloutGroup --client.score--> Score | ScoreFailure per rollout --group_rewards--> ScoredGroup

A failed score is never a number. Its rollout leaves the group; a group with too few left is dropped and its prompt is
asked again; above `servers.max_failed_fraction` of a step's rollouts the run stops and the error names the server.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from reward_servers.protocol import Score, ScoreFailure, ScoreRequest, ScoreResult
from rl.config import RunConfig
from rl.habit import habit_shares
from rl.reward import RewardBreakdown, group_rewards, is_empty
from rl.stock import stock_shares
from rl.types import Prompt, Rollout, RolloutGroup, TurnTactics


class ScoringError(RuntimeError):
    """Too many replies could not be scored. The message names the server and the root cause."""


class Scorer(Protocol):
    """The one thing the loop asks of the reward servers."""

    def score(self, requests: Sequence[ScoreRequest]) -> list[ScoreResult]: ...


@dataclass(frozen=True, slots=True)
class ScoredGroup:
    """A group ready for advantages: G rollouts with their scores (None: empty reply) and rewards."""

    prompt: Prompt
    rollouts: tuple[Rollout, ...]
    scores: tuple[Score | None, ...]
    breakdowns: tuple[RewardBreakdown, ...]

    @property
    def rewards(self) -> tuple[float, ...]:
        return tuple(breakdown.reward for breakdown in self.breakdowns)

    @property
    def zero_variance(self) -> bool:
        """All rewards equal: nothing to prefer, so the group cannot teach."""
        return max(self.rewards) - min(self.rewards) < 1e-9


@dataclass(frozen=True, slots=True)
class StepScores:
    """The scored groups of one step, what was handed back and why, and how many rollouts failed."""

    groups: tuple[ScoredGroup, ...]
    handed_back: tuple[tuple[Prompt, str], ...]
    failed: int


def score_groups(
    scorer: Scorer,
    groups: Sequence[RolloutGroup],
    config: RunConfig,
    min_group: int | None = None,
) -> StepScores:
    """Score all rollouts of a step in one call, which the client spreads over the servers.

    Args:
        min_group: fewer scored rollouts than this and the group is handed back; by default `reward.min_group`.

    Raises:
        ScoringError: more than `servers.max_failed_fraction` of the rollouts have no score.
    """
    results = dict(_score_texts(scorer, groups))
    failures = [result for result in results.values() if isinstance(result, ScoreFailure)]
    _check_failures(failures, sum(len(group.rollouts) for group in groups), config)
    stock = stock_shares([[rollout.text for rollout in group.rollouts] for group in groups])
    habit = habit_shares(_tactics(results, groups), config.reward.habit_ceiling)
    kept, handed_back = [], []
    for p, group in enumerate(groups):
        alive = [g for g in range(len(group.rollouts)) if not isinstance(results.get((p, g)), ScoreFailure)]
        if len(alive) < (config.reward.min_group if min_group is None else min_group):
            lost = next(f for g in range(len(group.rollouts)) if isinstance(f := results.get((p, g)), ScoreFailure))
            handed_back.append((group.prompt, f"{lost.server}: {lost.message}"))
            continue
        rollouts = tuple(group.rollouts[g] for g in alive)
        scores = tuple(score if isinstance(score := results.get((p, g)), Score) else None for g in alive)
        told, overused = [stock[p][g] for g in alive], [habit[p][g] for g in alive]
        breakdowns = tuple(group_rewards(group.prompt, rollouts, scores, config.reward, told, overused))
        kept.append(ScoredGroup(group.prompt, rollouts, scores, breakdowns))
    return StepScores(tuple(kept), tuple(handed_back), len(failures))


def _score_texts(scorer: Scorer, groups: Sequence[RolloutGroup]) -> list[tuple[tuple[int, int], ScoreResult]]:
    """Results by (prompt, rollout) position; empty replies have nothing to score and are left out."""
    places = [
        (p, g) for p, group in enumerate(groups) for g, rollout in enumerate(group.rollouts) if not is_empty(rollout)
    ]
    requests = [
        ScoreRequest(
            id=f"{groups[p].prompt.id}#{g}",
            history=groups[p].prompt.history,
            response=groups[p].rollouts[g].text,
        )
        for p, g in places
    ]
    return list(zip(places, scorer.score(requests), strict=True))


def _tactics(results: Mapping[tuple[int, int], ScoreResult], groups: Sequence[RolloutGroup]) -> list[list[TurnTactics]]:
    """Tactics of the sentences of each reply; none for one that is empty or has no score."""
    return [
        [
            score.sentence_tactics if isinstance(score := results.get((p, g)), Score) else ()
            for g in range(len(group.rollouts))
        ]
        for p, group in enumerate(groups)
    ]


def _check_failures(failures: Sequence[ScoreFailure], asked: int, config: RunConfig) -> None:
    if not failures or len(failures) <= config.servers.max_failed_fraction * asked:
        return
    causes = Counter((failure.server, failure.kind) for failure in failures)
    (server, kind), count = causes.most_common(1)[0]
    example = next(f for f in failures if (f.server, f.kind) == (server, kind))
    raise ScoringError(
        f"{len(failures)} of {asked} replies could not be scored, more than servers.max_failed_fraction="
        f"{config.servers.max_failed_fraction}; {count} of them: {server}: {kind.value}: {example.message} "
        f"(reply {example.request_id}, {example.attempts} attempts). Nothing was trained on this step: repair the "
        "server and start again, the run resumes from its last checkpoint"
    )
