"""A LoRA tagger on disk: ten adapters in peft's layout, one folder per tactic, and `lora_tagger.json` beside them.

    FOLDER/
      lora_tagger.json      base model, prompts, thresholds, settings of the engine
      self_check.json       what PEFT says of a few prompts (written when the tagger is trained or adopted)
      advice/               adapter_config.json, adapter_model.safetensors
      ...                   one such folder for each of the ten tactics

The folders of adapters are those that MINT releases; `rapport tagger adopt` adds the two files to them.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

from dialogue.tactics import TACTICS, Tactic
from reward_servers.lora_tagger.prompts import TacticPrompt, missing, named_tactic

CONFIG_FILE = "lora_tagger.json"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# What peft can do and vLLM's LoRA cannot, or does not heed: key of adapter_config.json -> the values that are harmless.
_HARMLESS: Mapping[str, tuple[Any, ...]] = {
    "use_dora": (False, None),
    "bias": ("none", None),
    "modules_to_save": ([], None),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
    "trainable_token_indices": ([], {}, None),
    "fan_in_fan_out": (False, None),
}


class LoraTaggerFolderError(ValueError):
    """A folder that holds no usable LoRA tagger. The message names the file and says what to do."""


class EngineDtype(StrEnum):
    """What the model computes in; `auto`: bfloat16 where the machine multiplies it in hardware, else float32."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How vLLM runs the tagger.

    Attributes:
        dtype: see `EngineDtype`.
        max_tokens: the longest prompt; the paper's 4,096. Less where the base takes less.
        max_sequences: prompts computed at once.
        kv_cache_gib: on a processor, memory for the prefixes that are kept between calls.
        gpu_memory_utilization: on a GPU, the share of its memory that vLLM may take.
    """

    dtype: EngineDtype = EngineDtype.AUTO
    max_tokens: int = 4096
    max_sequences: int = 64
    kv_cache_gib: float = 0.5
    gpu_memory_utilization: float = 0.9


@dataclass(frozen=True, slots=True)
class LoraTaggerConfig:
    """What `lora_tagger.json` says.

    Attributes:
        base: folder of the base model in the Hugging Face layout, relative to the tagger's or absolute; or a hub id.
        prompts: what each tactic is asked with.
        thresholds: from which probability on a tactic holds; 0.5 is the more probable answer, the paper's verdict.
    """

    base: str
    prompts: Mapping[Tactic, TacticPrompt]
    thresholds: Mapping[Tactic, float] = field(default_factory=lambda: dict.fromkeys(TACTICS, 0.5))
    engine: EngineSettings = field(default_factory=EngineSettings)

    def base_path(self, folder: Path) -> str:
        """What transformers and vLLM are given: a folder that is there, else the hub id."""
        local = folder / Path(self.base).expanduser()
        return str(local) if local.is_dir() else self.base


def is_lora_tagger(folder: Path) -> bool:
    """Whether `folder` is meant as a LoRA tagger rather than as the encoder's."""
    return (folder / CONFIG_FILE).is_file()


def load_config(folder: Path) -> LoraTaggerConfig:
    """What `folder` says of its tagger. Reads no weights.

    Raises:
        LoraTaggerFolderError: there is no `lora_tagger.json`, or it lacks something.
    """
    file = folder / CONFIG_FILE
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
        engine = raw.get("engine", {})
        config = LoraTaggerConfig(
            base=raw["base"],
            prompts={Tactic(name): TacticPrompt(**words) for name, words in raw["prompts"].items()},
            thresholds={Tactic(name): float(value) for name, value in raw["thresholds"].items()},
            engine=EngineSettings(**engine | {"dtype": EngineDtype(engine.get("dtype", EngineDtype.AUTO))}),
        )
    except FileNotFoundError as error:
        raise LoraTaggerFolderError(
            f"{folder} holds no {CONFIG_FILE}: train a tagger (rapport tagger train-lora), or give released adapters "
            "their prompts (rapport tagger adopt)"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LoraTaggerFolderError(f"{file}: not a LoRA tagger's configuration ({error!r})") from error
    for name, given in (("prompts", config.prompts), ("thresholds", config.thresholds)):
        if lacking := missing(given):
            raise LoraTaggerFolderError(f"{file}: {name} lacks {', '.join(lacking)}")
    _check_settings(file, config.engine)
    return config


def save_config(folder: Path, config: LoraTaggerConfig) -> None:
    """Write `lora_tagger.json`, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / CONFIG_FILE, json.dumps(asdict(config), indent=1, ensure_ascii=False) + "\n")


def find_adapters(folder: Path) -> dict[Tactic, Path]:
    """The folder of each tactic's adapter, all ten.

    Raises:
        LoraTaggerFolderError: one is missing or twice there, or is of a kind that vLLM would apply wrongly.
    """
    found: dict[Tactic, Path] = {}
    for path in sorted(path for path in folder.glob("*") if (path / ADAPTER_CONFIG).is_file()):
        tactic = named_tactic(path.name)
        if tactic is None:
            continue
        if tactic in found:
            raise LoraTaggerFolderError(f"{folder}: {path.name} and {found[tactic].name} are both adapters of {tactic}")
        check_adapter(path)
        found[tactic] = path
    if lacking := missing(found):
        raise LoraTaggerFolderError(
            f"{folder} holds no adapter for {', '.join(lacking)}: expected one folder per tactic with {ADAPTER_CONFIG} "
            f"and {ADAPTER_WEIGHTS} in it"
        )
    return {tactic: found[tactic] for tactic in TACTICS}


def check_adapter(path: Path) -> dict[str, Any]:
    """The settings in the adapter's configuration.

    Raises:
        LoraTaggerFolderError: it has no weights or is not plain LoRA.
    """
    file = path / ADAPTER_CONFIG
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LoraTaggerFolderError(f"{file}: cannot be read ({error})") from error
    if not isinstance(settings, dict) or settings.get("peft_type") != "LORA" or not isinstance(settings.get("r"), int):
        raise LoraTaggerFolderError(f"{file}: not the configuration of a LoRA adapter")
    for key, harmless in _HARMLESS.items():
        if key in settings and settings[key] not in harmless:
            raise LoraTaggerFolderError(f"{file}: {key} is {settings[key]!r}, which vLLM's LoRA cannot do")
    if not (path / ADAPTER_WEIGHTS).is_file():
        raise LoraTaggerFolderError(f"{path}: no {ADAPTER_WEIGHTS} in it")
    return settings


def version_of(folder: Path, config: LoraTaggerConfig, adapters: Mapping[Tactic, Path]) -> str:
    """Changes with the adapters, the prompts, the thresholds and the base's configuration and files."""
    digest = hashlib.sha256()
    said = asdict(config)
    digest.update(json.dumps([said["prompts"], said["thresholds"]], sort_keys=True).encode())
    for tactic, path in adapters.items():
        digest.update(tactic.encode())
        digest.update((path / ADAPTER_CONFIG).read_bytes())
        with (path / ADAPTER_WEIGHTS).open("rb") as weights:
            digest.update(hashlib.file_digest(weights, "sha256").digest())
    digest.update(_base_identity(config.base_path(folder)).encode())
    return digest.hexdigest()[:16]


def write_whole(path: Path, text: str) -> None:
    """Write to a temporary name, flush to disk, rename."""
    temporary = path.with_name(f".{path.name}.writing")
    with temporary.open("w", encoding="utf-8") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    temporary.replace(path)


def _base_identity(base: str) -> str:
    """A folder's configuration and the names and sizes of its weights; a hub id's name."""
    folder = Path(base)
    if not folder.is_dir():
        return base
    weights = sorted((path.name, path.stat().st_size) for path in folder.glob("*.safetensors"))
    described = folder / "config.json"
    return f"{described.read_text(encoding='utf-8') if described.is_file() else ''} {weights}"


def _check_settings(file: Path, settings: EngineSettings) -> None:
    for name in (f.name for f in fields(settings)):
        value = getattr(settings, name)
        if isinstance(value, int | float) and not value > 0:
            raise LoraTaggerFolderError(f"{file}: engine.{name} is {value}, but must be above 0")
    if settings.gpu_memory_utilization > 1:
        raise LoraTaggerFolderError(f"{file}: engine.gpu_memory_utilization must be at most 1")
