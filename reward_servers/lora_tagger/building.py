"""From annotations, or from adapters that are there already, to a folder that `LoraTagger.load` opens."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from dialogue.tactics import TACTICS, Tactic
from reward_servers.lora_tagger import self_check
from reward_servers.lora_tagger.engine import choose_dtype
from reward_servers.lora_tagger.folder import (
    EngineSettings,
    LoraTaggerConfig,
    LoraTaggerFolderError,
    find_adapters,
    save_config,
    version_of,
)
from reward_servers.lora_tagger.prompts import Annotations, missing
from reward_servers.lora_tagger.tagger import open_encoder
from reward_servers.lora_tagger.training import AdapterTrainer, LoraRecipe, Progress, examples_of


def train_tagger(
    annotations: Mapping[Tactic, Annotations],
    base: str,
    out: Path,
    recipe: LoraRecipe,
    max_tokens: int = 4096,
    dtype: str = "float32",
    progress: Progress | None = None,
    save_every: int = 10,
) -> dict[Tactic, list[float]]:
    """Train ten adapters into `out`, or go on where an earlier call was stopped.

    All prompts are encoded before the base is loaded: one that does not fit is told at once, and so is a folder that
    cannot be written.

    Returns:
        The losses of the steps that were made now, for each tactic.

    Raises:
        LoraTaggerFolderError: a tactic has no annotations, the base no usable tokenizer, or `out` cannot be written.
        LoraTrainingError: the base cannot be trained so, or what is in `out` was made in another way.
        PromptTooLongError: an annotated reply does not fit in `max_tokens`.
        NotFiniteError: the loss became NaN.
    """
    config = _config(annotations, base, EngineSettings(max_tokens=max_tokens))
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LoraTaggerFolderError(f"{out}: cannot be made ({error.strerror}); give another --out") from error
    _check_writable(out)
    encoder = open_encoder(out, config)
    power = recipe.balance_power
    examples = {tactic: examples_of(tactic, annotations[tactic], encoder, power) for tactic in TACTICS}
    trainer = AdapterTrainer(base, out, recipe, dtype, save_every)
    for tactic, some in examples.items():
        trainer.check(tactic, some)
    losses = {tactic: trainer.train(tactic, some, progress) for tactic, some in examples.items()}
    del trainer
    _finish(out, config)
    return losses


def adopt_adapters(folder: Path, annotations: Mapping[Tactic, Annotations], base: str) -> None:
    """Add the prompts in `annotations` and the base to the adapters in `folder`, and PEFT's answers to the probes.

    Raises:
        LoraTaggerFolderError: an adapter, a tactic's annotations or the base is missing, or `folder` cannot be written.
    """
    _check_writable(folder)
    _finish(folder, _config(annotations, base, EngineSettings()))


def _check_writable(folder: Path) -> None:
    if not os.access(folder, os.W_OK):
        raise LoraTaggerFolderError(f"{folder}: cannot be written; give a folder of your own")


def _config(annotations: Mapping[Tactic, Annotations], base: str, engine: EngineSettings) -> LoraTaggerConfig:
    if lacking := missing(annotations):
        raise LoraTaggerFolderError(f"no annotations of {', '.join(lacking)}: a tagger has all ten tactics")
    return LoraTaggerConfig(base, {tactic: annotations[tactic].prompt for tactic in TACTICS}, engine=engine)


def _finish(folder: Path, config: LoraTaggerConfig) -> None:
    """PEFT's answers first: a folder that says it is a tagger has been run once."""
    adapters = find_adapters(folder)
    encoder = open_encoder(folder, config)
    version = version_of(folder, config, adapters)
    dtype = choose_dtype(config.engine.dtype)
    self_check.expected_log_odds(folder, version, config.base_path(folder), adapters, encoder, dtype)
    save_config(folder, config)
