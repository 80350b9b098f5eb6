"""What the rollout tests compare with: transformers on the same weights, in float32; and how they make weights move."""

from __future__ import annotations

from collections.abc import Sequence

import ray
import torch
from torch import nn

from rl.config import Dtype, LoraConfig, ModelConfig, RolloutConfig, RunConfig
from rl.types import Prompt, Rollout, RolloutGroup
from rl.weight_sync import WeightUpdate, pack

CONFIG = RunConfig(
    model=ModelConfig(path="tiny-qwen3", dtype=Dtype.float32),
    rollout=RolloutConfig(
        workers=2, max_prompt_tokens=128, max_response_tokens=256, kv_cache_gib=0.15, timeout_s=15, retries=2
    ),
)
LORA = LoraConfig(rank=6, alpha=24, target_modules=("q_proj", "v_proj", "o_proj", "gate_proj", "down_proj"))


def make_prompt(name: str, token_ids: Sequence[int]) -> Prompt:
    return Prompt(name, name.split("/")[0], (), tuple(token_ids))


def disturb(policy: nn.Module, seed: int) -> None:
    """Move all weights far enough that stale ones cannot be mistaken for them."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in policy.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator) * weight.abs().mean() * 0.3)


def full_update(policy: nn.Module, version: int) -> WeightUpdate:
    """What a learner sends: every weight under its Hugging Face name, the tied head left out."""
    buckets = pack(policy.named_parameters(), bucket_bytes=2**20)
    return WeightUpdate(version, tuple(ray.put(bucket) for bucket in buckets), None)


def expected_logprobs(policy: nn.Module, prompt: Prompt, rollout: Rollout, temperature: float) -> torch.Tensor:
    """Log-probs of the reply's tokens by transformers, (T,); greedy sampling is scored at temperature 1."""
    ids = torch.tensor([prompt.token_ids + rollout.token_ids])
    with torch.no_grad():
        logits = policy(ids).logits[0, len(prompt.token_ids) - 1 : -1].float()
    return (logits / (temperature or 1.0)).log_softmax(-1).gather(1, torch.tensor(rollout.token_ids)[:, None])[:, 0]


def worst_gap(policy: nn.Module, groups: Sequence[RolloutGroup], temperature: float) -> float:
    """The largest difference between a worker's log-prob and that of transformers."""
    gaps = [
        (expected_logprobs(policy, group.prompt, rollout, temperature) - torch.tensor(rollout.logprobs)).abs().max()
        for group in groups
        for rollout in group.rollouts
    ]
    return float(torch.stack(gaps).max())


def greedy_agreement(policy: nn.Module, groups: Sequence[RolloutGroup]) -> float:
    """The share of greedy tokens that are the most probable ones by transformers, given what came before."""
    hits: list[torch.Tensor] = []
    for group in groups:
        for rollout in group.rollouts:
            ids = torch.tensor([group.prompt.token_ids + rollout.token_ids])
            with torch.no_grad():
                best = policy(ids).logits[0, len(group.prompt.token_ids) - 1 : -1].argmax(-1)
            hits.append(best == torch.tensor(rollout.token_ids))
    return float(torch.cat(hits).float().mean())
