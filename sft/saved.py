"""A fine-tuned model on disk: the adapter as peft keeps it, the heads beside it, and the one call that loads both.

    adapter_config.json  adapter_model.safetensors    peft's own files: `PeftModel.from_pretrained` opens the folder
    heads.safetensors                                 the heads' parameters, float32
    heads.json                                        the labels in the order of the outputs, and the configuration

An exported folder (`sft.export`) has the adapter in its weights, the heads beside them, and is opened by the same call.

A folder whose labels are not those of this version is refused: outputs would be read under wrong names.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rl.files import write_atomically
from rl.models import resolve_model
from rl.typed_yaml import to_yaml
from sft.base import BaseModelError, pick_device
from sft.config import Quantisation, SftConfig
from sft.config_loading import load_config
from sft.emotions import EMOTIONS
from sft.model import TRAINED_ADAPTER, SftModel, build_model
from sft.strategies import STRATEGIES

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

HEADS, HEADS_INFO, CONFIG = "heads.safetensors", "heads.json", "sft.yaml"
ADAPTER = "adapter_model.safetensors"
LABELS: Mapping[str, list[str]] = {"emotion": list(EMOTIONS), "strategy": list(STRATEGIES)}


class SavedModelError(ValueError):
    """A folder that does not hold a fine-tuned model that fits."""


class Loaded(NamedTuple):
    """A model in evaluation mode, its base's tokenizer, and the configuration that it was trained with."""

    model: SftModel
    tokenizer: PreTrainedTokenizerBase
    config: SftConfig


def save_model(model: SftModel, config: SftConfig, folder: Path) -> None:
    """Write adapter, heads and configuration into `folder`, which exists."""
    from safetensors.torch import save_file

    model.lm.save_pretrained(str(folder), save_embedding_layers=False, selected_adapters=[TRAINED_ADAPTER])
    (folder / "README.md").unlink(missing_ok=True)  # peft's empty card; the run writes its own
    save_file({name: value.contiguous() for name, value in model.heads.state_dict().items()}, str(folder / HEADS))
    info = {"heads": sorted(model.heads), "labels": LABELS}
    write_atomically(folder / HEADS_INFO, json.dumps(info, indent=1))
    write_atomically(folder / CONFIG, to_yaml(config))


def load_model(folder: str | Path, device: torch.device | None = None) -> Loaded:
    """Base, adapter and heads of a folder that `save_model` wrote, or merged weights and heads of an exported one.

    Args:
        device: CUDA where it is there, by default.

    Raises:
        SavedModelError: the folder is not one of these, or its parts do not fit together.
        BaseModelError, ConfigError: the base cannot be had here.
    """
    place = Path(folder)
    config, merged = saved_config(place), is_merged(place)
    if merged:
        config = replace(config, model=replace(config.model, path=str(place), quantisation=Quantisation.none))
    base = resolve_model(config.model.path)
    reading = replace(config, model=replace(config.model, gradient_checkpointing=False))
    model = build_model(reading, base, device or pick_device())
    if merged:  # the adapter is in the weights; the new one changes nothing
        load_heads(model, place)
    else:
        load_weights(model, place)
    return Loaded(model.eval(), load_tokenizer(base), config)


def is_merged(folder: Path) -> bool:
    """Whether it has whole weights and no adapter, as an exported model has."""
    return (folder / "config.json").is_file() and not (folder / ADAPTER).is_file()


def where_models_are(source: Path) -> Iterator[Path]:
    """Where a model may be in a folder that a user names: best/ of a run, its checkpoints, newest first, the folder."""
    checkpoints = sorted((source / "checkpoints").glob("step-*"), key=lambda path: (len(path.name), path.name))
    yield from (source / "best", *reversed(checkpoints), source)


def tuned_folder(folder: Path) -> Path | None:
    """The folder that holds heads, and an adapter or merged weights: the best model of a run, its newest checkpoint
    where nothing was measured yet, or this one; None where there is none."""
    for place in where_models_are(folder):
        described = (place / CONFIG).is_file() and (place / HEADS_INFO).is_file()
        if described and ((place / ADAPTER).is_file() or is_merged(place)):
            return place
    return None


def saved_config(folder: Path) -> SftConfig:
    """The configuration of the run that wrote `folder`."""
    if not (folder / CONFIG).is_file() or not (folder / HEADS_INFO).is_file():
        raise SavedModelError(f"{folder} has no {CONFIG} and {HEADS_INFO}: give the `best` folder of a run, or a copy")
    return load_config(str(folder / CONFIG))


def load_weights(model: SftModel, folder: Path) -> None:
    """Fill a model's adapter and heads.

    Raises:
        SavedModelError: a file cannot be read, or names, shapes or labels are others.
    """
    from peft import set_peft_model_state_dict

    adapter = _tensors(folder / ADAPTER)
    try:
        result: Any = set_peft_model_state_dict(model.lm, adapter)
    except RuntimeError as error:
        raise SavedModelError(f"{folder} does not fit its base: {error}") from error
    if result.unexpected_keys:
        raise SavedModelError(f"{folder}: its adapter has {result.unexpected_keys[:3]}, which the base has not")
    absent = [name for name in result.missing_keys if "lora_" in name and f".{TRAINED_ADAPTER}." in name]
    if absent:
        raise SavedModelError(f"{folder}: its adapter lacks {absent[:3]}, which its {CONFIG} asks for")
    load_heads(model, folder)


def load_heads(model: SftModel, folder: Path) -> None:
    """Fill a model's heads. Raises as `load_weights`."""
    try:
        info = json.loads((folder / HEADS_INFO).read_text(encoding="utf-8"))
        heads, labels = info["heads"], info["labels"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SavedModelError(f"{folder / HEADS_INFO} cannot be read ({type(error).__name__}: {error})") from error
    if heads != sorted(model.heads) or labels != LABELS:
        raise SavedModelError(f"{folder}: its heads {heads} or their labels are not {sorted(model.heads)}")
    tensors = _tensors(folder / HEADS)
    lacking = sorted(model.heads.state_dict().keys() - tensors.keys())
    if lacking:
        raise SavedModelError(
            f"{folder / HEADS} lacks {', '.join(lacking[:3])}: another version of Rapport wrote it; use that one, or "
            "train anew"
        )
    try:
        model.heads.load_state_dict(tensors)
    except RuntimeError as error:
        raise SavedModelError(f"{folder} does not fit its base: {error}") from error


def _tensors(file: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(str(file))
    except (OSError, SafetensorError) as error:
        raise SavedModelError(f"{file} cannot be read ({error}); was it copied as a whole?") from error


def load_tokenizer(base: Path) -> PreTrainedTokenizerBase:
    """Raises BaseModelError where the folder has none."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(base)
    except Exception as error:  # tokenizers raises Exception itself for a file that it cannot parse
        raise BaseModelError(f"model {base}: no tokenizer could be read ({error})") from error


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Any token will do, as padding is hidden by the mask; the tokenizer's own where it has one."""
    return tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id


def end_ids(tokenizer: PreTrainedTokenizerBase, lm: Any) -> list[int]:
    """The tokens that end a reply: the tokenizer's, and those of the model's own generation settings.

    Gemma's turns end with another token than its texts; without it, a reply would go on with the user's next turn.
    """
    own = getattr(getattr(lm, "generation_config", None), "eos_token_id", None)
    several = own if isinstance(own, list) else [own]
    return sorted({int(token) for token in (tokenizer.eos_token_id, *several) if token is not None})
