"""The numbers and the samples of one training step, under stable names.

reward/*   means over the rollouts in groups: total, raw components, empathy dimensions
rollout/*  lengths, stop reasons, text variety
groups/*   what happened to whole groups; counts/*  what happened to single rollouts
learner/*  from the learner ranks; time/*  seconds per phase
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from reward_servers.protocol import Dimension
from rl.evaluation import common_opening, distinct_ngrams
from rl.scoring import ScoredGroup, StepScores
from rl.types import RolloutGroup, StopReason


def step_metrics(
    groups: Sequence[RolloutGroup],
    scores: StepScores,
    learned: Mapping[str, float],
    timings: Mapping[str, float],
) -> dict[str, float]:
    """All metrics of one step. Names whose value does not exist (no scored reply at all) are left out."""
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    texts = [rollout.text for rollout in rollouts]
    tokens = [len(rollout.token_ids) for rollout in rollouts]
    wording = {"rollout/distinct_2": distinct_ngrams(texts, 2), "rollout/common_opening": common_opening(texts)}
    generate_s = timings.get("generate", 0.0)
    return {
        **_reward_metrics(scores),
        "rollout/tokens_mean": float(np.mean(tokens)),
        "rollout/tokens_max": float(np.max(tokens)),
        "rollout/truncated": float(np.mean([r.stop_reason is StopReason.LENGTH for r in rollouts])),
        **{name: value for name, value in wording.items() if not math.isnan(value)},
        "rollout/tokens_per_s": sum(tokens) / generate_s if generate_s else 0.0,
        "groups/asked": float(len(groups)),
        "groups/zero_variance": float(sum(group.zero_variance for group in scores.groups)),
        "groups/handed_back": float(len(scores.handed_back)),
        "counts/failed_scores": float(scores.failed),
        "counts/empty": float(sum(b.empty for group in scores.groups for b in group.breakdowns)),
        "counts/leaked": float(sum(b.leaked for group in scores.groups for b in group.breakdowns)),
        **{f"learner/{name}": value for name, value in learned.items()},
        **{f"time/{name}": seconds for name, seconds in timings.items()},
    }


def sample_records(scores: StepScores, batch_of: Sequence[ScoredGroup]) -> list[dict[str, Any]]:
    """One record per scored rollout, with every component of its reward and the tactics of each sentence."""
    trained = {id(group) for group in batch_of}
    return [
        {
            "prompt_id": group.prompt.id,
            "rollout": index,
            "seeker": group.prompt.history[-1]["content"],
            "previous_counts": group.prompt.previous_counts,
            "text": rollout.text,
            "tokens": len(rollout.token_ids),
            "stop_reason": rollout.stop_reason.value,
            "policy_version": rollout.policy_version,
            "trained": id(group) in trained,
            **asdict(breakdown),
            "empathy": score.empathy.as_dict() if score else None,
            "sentences": list(score.sentences) if score else [],
            "sentence_tactics": [list(map(str, tactics)) for tactics in score.sentence_tactics] if score else [],
        }
        for group in scores.groups
        for index, (rollout, breakdown, score) in enumerate(
            zip(group.rollouts, group.breakdowns, group.scores, strict=True)
        )
    ]


def _reward_metrics(scores: StepScores) -> dict[str, float]:
    breakdowns = [breakdown for group in scores.groups for breakdown in group.breakdowns]
    if not breakdowns:
        return {}
    metrics = {
        "reward/mean": float(np.mean([breakdown.reward for breakdown in breakdowns])),
        "reward/std_in_group": float(np.mean([np.std(group.rewards) for group in scores.groups])),
        "rollout/stock_phrases": float(np.mean([breakdown.stock for breakdown in breakdowns])),
        "rollout/habits": float(np.mean([breakdown.habit for breakdown in breakdowns])),
    }
    raw = [breakdown.raw for breakdown in breakdowns if breakdown.raw is not None]
    if raw:
        for name in ("quality", "d_kl", "entropy", "bigram", "trigram"):
            metrics[f"reward/{name}"] = float(np.mean([getattr(item, name) for item in raw]))
        dimensions = np.array([s.empathy.dimensions for group in scores.groups for s in group.scores if s is not None])
        for index, dimension in enumerate(Dimension):
            metrics[f"reward/{dimension.value}"] = float(dimensions[:, index].mean())
    return metrics
