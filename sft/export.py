"""Merge and export: a plain Hugging Face folder, with the adapter in its weights, that transformers and vLLM open.

The base is read again in float32 and without quantisation, so that merging rounds once and a 4-bit run merges into the
full weights. The heads are copied beside them, as plain files that other programs do not mind; `sft.saved.load_model`
opens the folder with them.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from rl.files import folder_at_once
from rl.models import resolve_model
from sft.base import be_quiet, open_weights
from sft.config import ConfigError
from sft.saved import ADAPTER, CONFIG, HEADS, HEADS_INFO, load_tokenizer, saved_config, where_models_are


def export_model(source: Path, out: Path) -> Path:
    """Write the merged model of `source` to `out`, in the dtype of the base's own weights.

    Args:
        source: a run's folder, whose best model is taken, or a folder with an adapter and heads.
        out: must not exist.

    Returns:
        The folder whose adapter was merged.

    Raises:
        ConfigError: `out` exists, or `source` holds no model.
        SavedModelError: `source` is not one of ours.
    """
    if out.exists():
        raise ConfigError(f"{out} exists already: choose another --out")
    chosen = model_folder(source)
    base = resolve_model(saved_config(chosen).model.path)
    be_quiet()
    with folder_at_once(out) as folder:
        _merged(base, chosen).save_pretrained(folder)
        load_tokenizer(base).save_pretrained(folder)
        generation = base / "generation_config.json"
        if generation.is_file():
            shutil.copyfile(generation, folder / generation.name)
        for name in (HEADS, HEADS_INFO, CONFIG):
            shutil.copyfile(chosen / name, folder / name)
        card = source / "README.md"
        if card.is_file():
            text = card.read_text(encoding="utf-8").replace("![Loss curves](curves.png)\n\n", "")
            (folder / "README.md").write_text(text, encoding="utf-8")
    return chosen


def model_folder(source: Path) -> Path:
    """The best model of a run, else its newest checkpoint, else the folder itself."""
    for folder in where_models_are(source):
        if (folder / ADAPTER).is_file():
            return folder
    raise ConfigError(f"{source} holds no fine-tuned model: give the folder of a run, such as runs/sft-quickstart")


def _merged(base: Path, adapter: Path) -> Any:
    from peft import PeftModel

    stored = json.loads((base / "config.json").read_text(encoding="utf-8"))
    own = getattr(torch, str(stored.get("dtype") or stored.get("torch_dtype") or "float32"))
    lm = open_weights(base, dtype=torch.float32)
    return PeftModel.from_pretrained(lm, str(adapter)).merge_and_unload().to(own)
