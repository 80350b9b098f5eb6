"""Advantages by name, computed by verl's registered estimators (`verl.trainer.ppo.core_algos`).

Estimators that need a value model, a greedy baseline or per-token policy statistics (gae, remax, the optimal token
baselines) cannot be fed by this loop and are refused with the reason before anything starts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from verl.trainer.config.algorithm import AlgoConfig
from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY

from rl.config import ConfigError, LossConfig

_NEEDS_MORE = {
    "gae": "a value model",
    "remax": "a greedy rollout of every prompt as its baseline",
    "gdpo": "several separate rewards per rollout; the MINT reward is one number",
    "optimal_token_baseline": "the learner's log-probabilities before the update",
    "tir_optimal_token_baseline": "the learner's log-probabilities before the update",
}


def usable_estimators() -> list[str]:
    """Registered names that work on one outcome reward per rollout, so that a user's own registration counts too."""
    return sorted(name for name in map(str, ADV_ESTIMATOR_REGISTRY) if name not in _NEEDS_MORE)


def validate_advantage(name: str) -> None:
    """Raise ConfigError where `name` is unknown or needs what this loop does not have."""
    if name in _NEEDS_MORE:
        raise ConfigError(
            f"learner.loss.advantage={name}: needs {_NEEDS_MORE[name]}; use one of {', '.join(usable_estimators())}"
        )
    if name not in usable_estimators():
        raise ConfigError(f"learner.loss.advantage={name}: unknown; use one of {', '.join(usable_estimators())}")


def compute_advantages(
    rewards_P_G: Sequence[Sequence[float]],
    lengths_P_G: Sequence[Sequence[int]],
    config: LossConfig,
) -> list[list[tuple[float, ...]]]:
    """Per-token advantages of the rollouts of P prompts.

    Args:
        rewards_P_G: one outcome reward per rollout; groups may differ in size.
        lengths_P_G: tokens of each rollout, 1 or more.

    Returns:
        For every prompt, for every rollout, a tuple of T advantages.
    """
    rewards = [reward for group in rewards_P_G for reward in group]
    lengths = torch.tensor([length for group in lengths_P_G for length in group])
    index = np.array([p for p, group in enumerate(rewards_P_G) for _ in group])
    if not rewards:
        return [[] for _ in rewards_P_G]
    mask = (torch.arange(int(lengths.max()))[None, :] < lengths[:, None]).float()  # (B, T)
    token_rewards = torch.zeros_like(mask)  # an outcome reward sits on the last token
    token_rewards[torch.arange(len(rewards)), lengths - 1] = torch.tensor(rewards, dtype=torch.float32)
    arguments: dict[str, Any] = {"token_level_rewards": token_rewards, "response_mask": mask}
    if config.advantage.startswith("grpo"):
        arguments["norm_adv_by_std_in_grpo"] = config.norm_adv_by_std
    if config.advantage != "reinforce_plus_plus":
        arguments["index"] = index
    algorithm = AlgoConfig(norm_adv_by_std_in_grpo=config.norm_adv_by_std)
    advantages, _ = ADV_ESTIMATOR_REGISTRY[config.advantage](**arguments, config=algorithm)  # (B, T)
    rows = iter([tuple(row[:n].tolist()) for row, n in zip(advantages, lengths.tolist(), strict=True)])
    return [[next(rows) for _ in group] for group in rewards_P_G]
