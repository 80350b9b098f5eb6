"""The configuration of a preference stage. What it starts from gives its defaults; unknown keys are errors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from sft.config import ConfigError, DataConfig, DevConfig, LoraConfig, ModelConfig, OptimizerConfig
from sft.config_loading import PRESETS
from sft.readers.ledger import MAX_BAD_SHARE


@dataclass(frozen=True)
class PreferenceConfig:
    """The loss of a pair, see `sft.dpo.losses`.

    Attributes:
        beta: how much a log-probability ratio counts; small lets the policy move far from the reference.
        label_smoothing: the share of pairs thought to be labelled the wrong way round, from 0 to below 0.5.
        safety_margin: what the reward of a reply that breaks a safety rule must be lower by; 0 for no difference.
    """

    beta: float = 0.1
    label_smoothing: float = 0.0
    safety_margin: float = 0.0


@dataclass(frozen=True)
class PairsConfig:
    """Where pairs come from and how they are rendered.

    Attributes:
        source: a JSONL file, a folder of `datasets`, or a hub id.
        dev_share: of the conversations, kept for the dev loss.
        max_bad_share: more bad records than this share and the source is refused.
        max_pairs: the first ones only; 0 for all.
        max_tokens: of a prompt with its longer reply; earlier turns are left out to fit.
        system: the system prompt; that of the fine-tuned model it starts from, by default.
        length_window: batches among which pairs of similar length are put together; 1 turns that off.
    """

    source: str = ""
    dev_share: float = 0.1
    max_bad_share: float = MAX_BAD_SHARE
    max_pairs: int = 0
    max_tokens: int = 1024
    system: str = ""
    enable_thinking: bool = False
    length_window: int = 32


@dataclass(frozen=True)
class DpoConfig:
    """A whole run. `steps` of 0 means `epochs` times as many pairs as there are.

    `optimizer.batch` counts pairs, each of them two sequences. `start`: see `sft.dpo.start`.
    """

    name: str = "dpo"
    output_dir: str = "runs"
    start: str = ""
    seed: int = 0
    steps: int = 0
    epochs: float = 1.0
    save_every: int = 50
    keep_checkpoints: int = 2
    resume: bool = True
    tensorboard: bool = True
    vocabulary_chunk: int = 8192
    loss: PreferenceConfig = field(default_factory=PreferenceConfig)
    pairs: PairsConfig = field(default_factory=PairsConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(lr=2e-5))
    dev: DevConfig = field(default_factory=DevConfig)


PLAIN_LORA = LoraConfig(dropout=0.0)  # of a new adapter: this stage trains without dropout


def configure(start: str, source: str, model: ModelConfig, data: DataConfig, overrides: Sequence[str]) -> DpoConfig:
    """Defaults from what the stage starts from, then overrides.

    Args:
        start: as the user named it.
        source: the pairs.
        model, data: of the fine-tuned model, or of a plain one with `PLAIN_LORA`.
        overrides: `key=value`, e.g. `loss.beta=0.2`.

    Raises:
        ConfigError: an unknown key, a value of the wrong type or out of range, or one that this start does not allow.
    """
    rendered = PairsConfig(source, max_tokens=data.max_tokens, system=data.system, enable_thinking=data.enable_thinking)
    config = PRESETS.change(replace(DpoConfig(), start=start, pairs=rendered, model=model), overrides)
    problems = [*_problems(config), *_fixed(config, model)]
    if config.start != start or config.pairs.source != source:
        problems.append("start and pairs.source are given by START and --pairs")
    if problems:
        raise ConfigError("rapport sft dpo: " + "; ".join(problems))
    return config


def _fixed(config: DpoConfig, model: ModelConfig) -> Iterable[str]:
    """What belongs to the model that the stage starts from."""
    for key in ("path", "lora"):
        if getattr(config.model, key) != getattr(model, key) and not (key == "lora" and model.lora == PLAIN_LORA):
            yield f"model.{key} belongs to START and cannot be changed here"
    if config.model.lora.dropout != model.lora.dropout:
        yield "model.lora.dropout: this stage trains without dropout"
    if config.model.heads != model.heads or config.optimizer.head_lr != OptimizerConfig().head_lr:
        yield "model.heads and optimizer.head_lr: the heads are kept as they are, preferences do not train them"


def _problems(config: DpoConfig) -> Iterable[str]:
    optimizer, pairs, loss = config.optimizer, config.pairs, config.loss
    at_least_one = {
        "save_every": config.save_every,
        "keep_checkpoints": config.keep_checkpoints,
        "vocabulary_chunk": config.vocabulary_chunk,
        "model.lora.rank": config.model.lora.rank,
        "model.lora.alpha": config.model.lora.alpha,
        "optimizer.batch": optimizer.batch,
        "optimizer.accumulation": optimizer.accumulation,
        "pairs.length_window": pairs.length_window,
    }
    yield from (f"{key}={value}: must be 1 or more" for key, value in at_least_one.items() if value < 1)
    above_zero = {
        "loss.beta": loss.beta,
        "optimizer.lr": optimizer.lr,
        "optimizer.max_grad_norm": optimizer.max_grad_norm,
    }
    yield from (f"{key}={value}: must be above 0" for key, value in above_zero.items() if not 0 < value < math.inf)
    not_negative = {
        "seed": config.seed,
        "steps": config.steps,
        "epochs": config.epochs,
        "loss.safety_margin": loss.safety_margin,
        "pairs.max_pairs": pairs.max_pairs,
        "dev.every": config.dev.every,
        "dev.patience": config.dev.patience,
        "dev.min_gain": config.dev.min_gain,
        "optimizer.weight_decay": optimizer.weight_decay,
    }
    yield from (f"{key}={value}: must be 0 or more" for key, value in not_negative.items() if not 0 <= value < math.inf)
    shares = {"optimizer.warmup": (optimizer.warmup, 1.0), "loss.label_smoothing": (loss.label_smoothing, 0.5)}
    shares |= {f"optimizer.betas[{i}]": (beta, 1.0) for i, beta in enumerate(optimizer.betas)}
    if len(optimizer.betas) != 2:
        yield f"optimizer.betas={list(optimizer.betas)}: must be two numbers, such as [0.9,0.999]"
    shares |= {"pairs.max_bad_share": (pairs.max_bad_share, 1.0)}
    yield from (
        f"{key}={value}: must lie from 0 to below {end:g}"
        for key, (value, end) in shares.items()
        if not 0 <= value < end
    )
    if not 0 < pairs.dev_share < 1:
        yield f"pairs.dev_share={pairs.dev_share}: must lie between 0 and 1"
    if pairs.max_tokens < 2:
        yield f"pairs.max_tokens={pairs.max_tokens}: a prompt and a reply need at least 2"
    if config.steps == 0 and not config.epochs > 0:
        yield f"steps=0 and epochs={config.epochs}: nothing to train; set one of them above 0"
    if config.dev.patience and not config.dev.every:
        yield f"dev.patience={config.dev.patience} with dev.every=0: nothing is measured before the end"
    if not config.model.lora.target_modules:
        yield "model.lora.target_modules is empty: no layer would get an adapter"
    if "lm_head" in config.model.lora.target_modules:
        yield "model.lora.target_modules: lm_head cannot be adapted, policy and reference share it"
    if "/" in config.name or config.name in ("", ".", ".."):
        yield f"name={config.name!r}: must be a plain folder name"
