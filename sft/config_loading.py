"""From a preset and overrides to a checked `SftConfig`; an error names the key, the value and what would be right."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from rl.typed_yaml import Presets
from sft.config import ConfigError, SftConfig
from sft.examples import Loss

PRESETS = Presets(Path(__file__).resolve().parent.parent / "configs" / "sft", example="optimizer.lr=1e-4")


def load_config(preset: str, overrides: Sequence[str] = ()) -> SftConfig:
    """Build and check the configuration of a run.

    Args:
        preset: a name in configs/sft/ or the path of a YAML file. Its key `extends` names another to start from.
        overrides: `key=value` strings with dotted keys, e.g. `optimizer.lr=1e-4`.

    Raises:
        ConfigError: unknown preset, key or enum member, a value of the wrong type, or a combination that cannot run.
    """
    config = PRESETS.load(SftConfig, preset, overrides)
    problems = list(find_problems(config))
    if problems:
        raise ConfigError(f"{preset}: " + "; ".join(problems))
    return config


def find_problems(config: SftConfig) -> Iterable[str]:
    """Yield what would stop this run later: ranges, then rules between keys."""
    yield from _range_problems(config)
    if config.steps == 0 and not config.epochs > 0:
        yield f"steps=0 and epochs={config.epochs}: nothing to train; set one of them above 0"
    if not any(config.losses.of(loss) for loss in Loss):
        yield "losses: every lambda is 0, so nothing is learnt"
    if config.dev.patience and not config.dev.every:
        yield f"dev.patience={config.dev.patience} with dev.every=0: nothing is measured before the end"
    if not config.model.lora.target_modules:
        yield "model.lora.target_modules is empty: no layer would get an adapter"
    if "lm_head" in config.model.lora.target_modules:
        yield "model.lora.target_modules: lm_head cannot be adapted, student and teacher share it"
    if "/" in config.name or config.name in ("", ".", ".."):
        yield f"name={config.name!r}: must be a plain folder name"


def _range_problems(config: SftConfig) -> Iterable[str]:
    optimizer, data, heads = config.optimizer, config.data, config.model.heads
    at_least_one = {
        "save_every": config.save_every,
        "keep_checkpoints": config.keep_checkpoints,
        "vocabulary_chunk": config.vocabulary_chunk,
        "model.lora.rank": config.model.lora.rank,
        "model.lora.alpha": config.model.lora.alpha,
        "model.heads.emotion_width": heads.emotion_width,
        "model.heads.strategy_width": heads.strategy_width,
        "model.heads.affect_width": heads.affect_width,
        "data.length_window": data.length_window,
        "optimizer.batch": optimizer.batch,
        "optimizer.accumulation": optimizer.accumulation,
    }
    yield from (f"{key}={value}: must be 1 or more" for key, value in at_least_one.items() if value < 1)
    above_zero = {
        "safety.tau": config.safety.tau,
        "optimizer.lr": optimizer.lr,
        "optimizer.head_lr": optimizer.head_lr,
        "optimizer.max_grad_norm": optimizer.max_grad_norm,
    }
    yield from (
        f"{key}={value}: must be a number above 0" for key, value in above_zero.items() if not 0 < value < math.inf
    )
    not_negative = {
        "seed": config.seed,
        "steps": config.steps,
        "epochs": config.epochs,
        "dev.every": config.dev.every,
        "dev.patience": config.dev.patience,
        "dev.min_gain": config.dev.min_gain,
        "data.alpha": data.alpha,
        "data.max_examples": data.max_examples,
        "data.max_dev": data.max_dev,
        "optimizer.weight_decay": optimizer.weight_decay,
    }
    yield from (f"{key}={value}: must be 0 or more" for key, value in not_negative.items() if not 0 <= value < math.inf)
    if data.max_tokens < 2:
        yield f"data.max_tokens={data.max_tokens}: a prompt and a reply need at least 2"
    shares = {
        "optimizer.warmup": optimizer.warmup,
        "model.lora.dropout": config.model.lora.dropout,
        "model.heads.dropout": heads.dropout,
        **{f"optimizer.betas[{place}]": beta for place, beta in enumerate(optimizer.betas)},
    }
    if len(optimizer.betas) != 2:
        yield f"optimizer.betas={list(optimizer.betas)}: must be two numbers, such as [0.9,0.999]"
    yield from (f"{key}={value}: must lie from 0 to below 1" for key, value in shares.items() if not 0 <= value < 1)
