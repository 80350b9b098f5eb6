"""Weights -> a plain Hugging Face folder that transformers and vLLM open as it is."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from rl.config import ModelConfig
from rl.files import folder_at_once

ADAPTER = "adapter"  # the folder beside the merged weights


def export(folder: Path, weights: Mapping[str, torch.Tensor], base: Path, config: ModelConfig) -> None:
    """Write model, tokenizer and generation config, under a temporary name that is then renamed.

    Under LoRA the adapter is merged in float32 and also saved as it is in `adapter/`. An older export at the same place
    is replaced.
    """
    if not config.lora.rank:
        save_model(folder, weights, base)
        return
    with folder_at_once(folder) as partial:
        _merged(weights, base, config, partial).save_pretrained(partial)
        save_companions(base, partial)


def save_model(folder: Path, weights: Mapping[str, torch.Tensor], base: Path) -> None:
    """The same for full weights under Hugging Face names."""
    with folder_at_once(folder) as partial:
        _filled(weights, base).save_pretrained(partial)
        save_companions(base, partial)


def save_companions(base: Path, folder: Path) -> None:
    """The tokenizer, its chat template and the generation config of the model that training started from."""
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    generation = base / "generation_config.json"
    if generation.is_file():
        shutil.copyfile(generation, folder / generation.name)


def _filled(weights: Mapping[str, torch.Tensor], base: Path) -> Any:
    from transformers import AutoModelForCausalLM

    dtype = next(iter(weights.values())).dtype
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    missing, unexpected = model.load_state_dict(dict(weights), strict=False)
    named = {name for name, _ in model.named_parameters()}  # tied names are left out here, as in `weights`
    if unexpected or named & set(missing):
        raise ValueError(f"weights do not fit {base}: missing {sorted(named & set(missing))}, unexpected {unexpected}")
    return model


def _merged(weights: Mapping[str, torch.Tensor], base: Path, config: ModelConfig, folder: Path) -> Any:
    from peft import get_peft_model, set_peft_model_state_dict
    from transformers import AutoModelForCausalLM

    from rl.engines.model import peft_config

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    own = AutoModelForCausalLM.from_pretrained(base, dtype="auto").dtype
    peft = get_peft_model(model, peft_config(config))
    result: Any = set_peft_model_state_dict(peft, dict(weights))
    if result.unexpected_keys:
        raise ValueError(f"adapter tensors do not fit {base}: {result.unexpected_keys}")
    peft.save_pretrained(str(folder / ADAPTER))
    return peft.merge_and_unload().to(own if own is not None else torch.float32)
