"""From a preset and overrides to a checked `RunConfig`; an error names the key, the value and what would be right."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from rl.config import ConfigError, RewardConfig, RewardMode, RunConfig
from rl.typed_yaml import Presets

PRESETS = Presets(Path(__file__).resolve().parent.parent / "configs", example="learner.lr=2e-6")


def load_config(preset: str, overrides: Sequence[str] = ()) -> RunConfig:
    """Build and check the configuration of a run.

    Args:
        preset: a name in configs/ or the path of a YAML file. Its key `extends` names another preset to start from.
        overrides: `key=value` strings with dotted keys, e.g. `learner.lr=2e-6`.

    Raises:
        ConfigError: unknown preset, key or enum member, a value of the wrong type, or a combination that cannot run.
    """
    config = PRESETS.load(RunConfig, preset, overrides)
    problems = list(find_problems(config))
    if problems:
        raise ConfigError(f"{preset}: " + "; ".join(problems))
    return config


def find_problems(config: RunConfig) -> Iterable[str]:
    """Yield what would stop this run later: ranges, then rules between keys."""
    yield from (f"{key}={value}: must be a finite number" for key, value in _floats(config) if not math.isfinite(value))
    yield from _range_problems(config)
    yield from _share_problems(config)
    yield from _cross_problems(config)
    yield from _part_problems(config)


def _floats(config: Any, prefix: str = "") -> Iterator[tuple[str, float]]:
    """Every number with a fraction in the tree, under its dotted key."""
    for field in fields(config):
        value, key = getattr(config, field.name), prefix + field.name
        if is_dataclass(value):
            yield from _floats(value, f"{key}.")
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float):
                yield key, number


def _range_problems(config: RunConfig) -> Iterable[str]:
    at_least_one = {
        "prompts_per_step": config.prompts_per_step,
        "save_every": config.save_every,
        "keep_checkpoints": config.keep_checkpoints,
        "rollout.workers": config.rollout.workers,
        "rollout.max_prompt_tokens": config.rollout.max_prompt_tokens,
        "rollout.max_response_tokens": config.rollout.max_response_tokens,
        "rollout.tensor_parallel_size": config.rollout.tensor_parallel_size,
        "learner.ranks": config.learner.ranks,
        "learner.minibatches": config.learner.minibatches,
        "learner.epochs_per_step": config.learner.epochs_per_step,
        "learner.micro_batch_tokens": config.learner.micro_batch_tokens,
        "learner.logit_chunk_tokens": config.learner.logit_chunk_tokens,
        "servers.replicas": config.servers.replicas,
        "reward.target_tokens": config.reward.target_tokens,
        "evaluation.max_prompts": config.evaluation.max_prompts,
        "evaluation.samples_per_prompt": config.evaluation.samples_per_prompt,
        "warm_start.batch_conversations": config.warm_start.batch_conversations,
        "model.lora.alpha": config.model.lora.alpha,
    }
    yield from (f"{key}={value}: must be 1 or more" for key, value in at_least_one.items() if value < 1)
    above_zero = {
        "learner.lr": config.learner.lr,
        "warm_start.lr": config.warm_start.lr,
        "learner.max_grad_norm": config.learner.max_grad_norm,
        "learner.timeout_s": config.learner.timeout_s,
        "learner.max_logprob_gap": config.learner.max_logprob_gap,
        "rollout.temperature": config.rollout.temperature,
        "rollout.timeout_s": config.rollout.timeout_s,
        "rollout.kv_cache_gib": config.rollout.kv_cache_gib,
        "servers.timeout_s": config.servers.timeout_s,
        "reward.alpha": config.reward.alpha,
        "reward.kl_cap": config.reward.kl_cap,
    }
    yield from (f"{key}={value}: must be above 0" for key, value in above_zero.items() if not value > 0)
    not_negative = {
        "steps": config.steps,
        "epochs": config.epochs,
        "seed": config.seed,
        "learner.weight_decay": config.learner.weight_decay,
        "learner.loss.kl_coef": config.learner.loss.kl_coef,
        "learner.loss.clip_ratio_low": config.learner.loss.clip_ratio_low,
        "learner.loss.clip_ratio_high": config.learner.loss.clip_ratio_high,
        "learner.warmup_steps": config.learner.warmup_steps,
        "model.lora.rank": config.model.lora.rank,
        "warm_start.epochs": config.warm_start.epochs,
        "warm_start.max_updates": config.warm_start.max_updates,
        "reward.leak_penalty": config.reward.leak_penalty,
        "reward.truncation_penalty": config.reward.truncation_penalty,
        "reward.stock_penalty": config.reward.stock_penalty,
        "reward.habit_penalty": config.reward.habit_penalty,
        "rollout.retries": config.rollout.retries,
        "servers.retries": config.servers.retries,
        "evaluation.every": config.evaluation.every,
        "evaluation.temperature": config.evaluation.temperature,
    }
    yield from (f"{key}={value}: must be 0 or more" for key, value in not_negative.items() if value < 0)


def _share_problems(config: RunConfig) -> Iterable[str]:
    shares = {
        "data.holdout_fraction": (config.data.holdout_fraction, 0.0, 0.9),
        "servers.max_failed_fraction": (config.servers.max_failed_fraction, 0.0, 1.0),
        "rollout.top_p": (config.rollout.top_p, 1e-6, 1.0),
        "rollout.gpu_memory_utilization": (
            config.rollout.gpu_memory_utilization,
            0.05,
            0.98,
        ),
        "reward.habit_ceiling": (config.reward.habit_ceiling, 0.0, 1.0),
        "rollout.gpu_share": (config.rollout.gpu_share, 0.05, 1.0),
        "learner.gpu_share": (config.learner.gpu_share, 0.05, 1.0),
    }
    for key, (value, low, high) in shares.items():
        if not low <= value <= high:
            yield f"{key}={value}: must lie between {low} and {high}"
    if len(config.learner.betas) != 2:
        yield f"learner.betas={list(config.learner.betas)}: AdamW takes two, such as [0.9,0.999]"
    below_one = {"model.lora.dropout": (config.model.lora.dropout,), "learner.betas": config.learner.betas}
    for key, values in below_one.items():
        yield from (f"{key}: {value} must lie from 0 to below 1" for value in values if not 0 <= value < 1)


def _cross_problems(config: RunConfig) -> Iterable[str]:
    if config.rollout.n < 2:
        yield f"rollout.n={config.rollout.n}: a group needs at least 2 rollouts to compare"
    if not 2 <= config.reward.min_group <= config.rollout.n:
        yield f"reward.min_group={config.reward.min_group}: must lie between 2 and rollout.n={config.rollout.n}"
    if config.rollout.top_p < 1.0 and config.learner.loss.correction.rollout_is != "none":
        yield (
            f"rollout.top_p={config.rollout.top_p} with learner.loss.correction.rollout_is="
            f"{config.learner.loss.correction.rollout_is}: the learner scores tokens under the full distribution, so "
            "importance weights would be wrong; set top_p=1.0 or rollout_is=none"
        )
    if config.learner.minibatches > config.prompts_per_step:
        yield (
            f"learner.minibatches={config.learner.minibatches}: more than prompts_per_step={config.prompts_per_step}; "
            "a minibatch would be empty"
        )
    loss = config.learner.loss
    if not loss.norm_adv_by_std and not loss.advantage.startswith("grpo"):
        yield (
            f"learner.loss.norm_adv_by_std=False with learner.loss.advantage={loss.advantage}: only grpo and its kin "
            "divide by the spread; leave it at true"
        )
    if config.steps == 0 and config.epochs == 0:
        yield "steps=0 and epochs=0: nothing to train; set one of them"
    if config.evaluation.temperature == 0 and config.evaluation.samples_per_prompt > 1:
        yield (
            f"evaluation.samples_per_prompt={config.evaluation.samples_per_prompt} with evaluation.temperature=0: all "
            "would be the same reply; set samples_per_prompt=1, or a temperature above 0"
        )
    if config.evaluation.every and config.data.holdout_fraction == 0:
        yield f"evaluation.every={config.evaluation.every} with data.holdout_fraction=0: no conversation is held out"
    if config.name in ("", ".", "..") or "/" in config.name:
        yield f"name={config.name!r}: must be a plain folder name"
    yield from _reward_problems(config.reward)


def _reward_problems(reward: RewardConfig) -> Iterable[str]:
    gammas = (reward.gamma_kl, reward.gamma_entropy, reward.gamma_bigram, reward.gamma_trigram)
    needs_variety = reward.mode in (RewardMode.diversity_only, RewardMode.quality_times_diversity)
    if needs_variety and not (reward.weight and any(gammas)):
        yield (
            f"reward.mode={reward.mode.value} with reward.weight={reward.weight} and every reward.gamma_* at 0: all "
            "replies would get the same reward; set one of them, such as reward.gamma_kl=1"
        )


def _part_problems(config: RunConfig) -> Iterable[str]:
    if config.rollout.gpu_share < 1 and config.rollout.tensor_parallel_size > 1:
        yield f"rollout.gpu_share={config.rollout.gpu_share}: a worker of several GPUs needs them whole"
    if config.learner.gpu_share <= 0.5 and config.learner.ranks > 1:
        yield (
            f"learner.gpu_share={config.learner.gpu_share}: two ranks would land on one GPU, which NCCL refuses; "
            "set it above 0.5, or learner.ranks=1"
        )
    if "lm_head" in config.model.lora.target_modules:
        yield "model.lora.target_modules: lm_head cannot be adapted, log-probabilities are read off it as it is"
    if config.model.lora.rank and not config.model.lora.target_modules:
        yield f"model.lora.rank={config.model.lora.rank} with no model.lora.target_modules: nothing would be trained"
    if config.servers.url and config.servers.tagger:
        yield (
            f"servers.tagger={config.servers.tagger} with servers.url={config.servers.url}: the servers there have a "
            "tagger of their own; leave one of the two empty"
        )
