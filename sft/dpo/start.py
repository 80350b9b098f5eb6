"""What a preference stage starts from, and the policy and the frozen reference that follow from it.

| START                     | policy at the start             | reference                                | heads     |
|---------------------------|---------------------------------|------------------------------------------|-----------|
| a run of `rapport sft`    | its adapter, trained further    | its adapter, a frozen copy beside it     | its, kept |
| a plain model             | a new adapter, which is zero    | the base, adapters off                   | none      |

A copy of the adapter, and not a merged base with a second adapter on it: the base may be in 4 bits, which a merge would
round; the base stays one; and what the stage leaves is one adapter on the original base, which inference and export
open like that of any run. The copy costs as much memory as an adapter, 4 bytes a parameter.

The heads read hidden states that this stage moves and does not look at: measure them again where they matter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rl.models import ModelError, resolve_model
from sft.config import ConfigError, ModelConfig, SftConfig
from sft.dpo.config import PLAIN_LORA
from sft.export import model_folder
from sft.model import TRAINED_ADAPTER, build_model
from sft.saved import ADAPTER, SavedModelError, load_weights, saved_config
from sft.weights import LossWeights

REFERENCE = "reference"
LM_ONLY = LossWeights(emotion=0, strategy=0, safety=0)


@dataclass(frozen=True, slots=True)
class Start:
    """Where the stage starts.

    Attributes:
        base: folder of the base model.
        adapter: folder with the adapter and heads of a fine-tuned model, None for a plain one.
        config: says how to build the model: of the fine-tuning run, or made up for a plain model.
    """

    name: str
    base: Path
    adapter: Path | None
    config: SftConfig

    def fingerprint(self) -> str:
        """Of the adapter's bytes: a run that goes on must find the reference that it began with."""
        return "" if self.adapter is None else hashlib.sha256((self.adapter / ADAPTER).read_bytes()).hexdigest()


def find_start(name: str) -> Start:
    """A run's folder (its best model), a folder with an adapter, or what `rl.models.resolve_model` takes.

    Raises:
        ModelError: none of these.
        SavedModelError: an adapter without the files that say how to build its model.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        return _plain(name)
    try:
        adapter = model_folder(folder)
    except ConfigError as error:  # no adapter in it: a plain model, or neither
        if (folder / "config.json").is_file():
            return _plain(name)
        raise ModelError(
            f"{name} holds no model: neither that of a run of `rapport sft` (best/ or checkpoints/), which begins with "
            "the first evaluation or checkpoint of the run, nor a plain one (config.json)"
        ) from error
    config = saved_config(adapter)
    return Start(name, resolve_model(config.model.path), adapter, config)


def _plain(name: str) -> Start:
    base = resolve_model(name)
    return Start(name, base, None, SftConfig(losses=LM_ONLY, model=ModelConfig(path=name, lora=PLAIN_LORA)))


class Policy:
    """The model that is trained, and the reference within it."""

    def __init__(self, start: Start, config: SftConfig, device: torch.device) -> None:
        self.model = build_model(config, start.base, device)
        self.model.heads.requires_grad_(False)
        self._copied = start.adapter is not None
        if start.adapter is not None:
            load_weights(self.model, start.adapter)
            _add_copy(self.model.lm)
        without_dropout(self.model)

    @contextmanager
    def as_reference(self) -> Iterator[None]:
        """The frozen reference, without gradients; use it before the policy's pass, not between it and backward."""
        if not self._copied:
            with self.model.as_teacher():
                yield
            return
        self.model.lm.set_adapter(REFERENCE, inference_mode=True)
        try:
            with torch.no_grad():
                yield
        finally:
            self.model.lm.set_adapter(TRAINED_ADAPTER)


def _add_copy(lm: Any) -> None:
    """A second adapter with the weights of the first, in float32 as it is, and switched off."""
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    lm.add_adapter(REFERENCE, lm.peft_config[TRAINED_ADAPTER])
    weights = get_peft_model_state_dict(lm, adapter_name=TRAINED_ADAPTER, save_embedding_layers=False)
    for name, parameter in lm.named_parameters():
        if f".{REFERENCE}." in name:
            parameter.data = parameter.data.float()
    result = set_peft_model_state_dict(lm, weights, adapter_name=REFERENCE)
    if result.unexpected_keys:
        raise SavedModelError(f"the reference could not be copied: {result.unexpected_keys[:3]} found no place")
    lm.set_adapter(TRAINED_ADAPTER)


def without_dropout(model: nn.Module) -> None:
    """So that policy and reference agree at the start, and their ratio is about weights only (TRL does so too)."""
    module: Any  # attention layers carry a number that nn.Module does not know of
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):  # read by the attention functions
            module.attention_dropout = 0.0
