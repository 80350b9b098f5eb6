"""From a preset and overrides to a checked `SftConfig`; an error names the key, the value and what would be right."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sft.config import ConfigError, SftConfig
from sft.examples import Loss

PRESETS = Path(__file__).resolve().parent.parent / "configs" / "sft"


def preset_names() -> list[str]:
    """Names that `load_config` finds in configs/sft/."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def load_config(preset: str, overrides: Sequence[str] = ()) -> SftConfig:
    """Build and check the configuration of a run.

    Args:
        preset: a name in configs/sft/ or the path of a YAML file.
        overrides: `key=value` strings with dotted keys, e.g. `optimizer.lr=1e-4`.

    Raises:
        ConfigError: unknown preset, key or enum member, a value of the wrong type, or a combination that cannot run.
    """
    schema = OmegaConf.structured(SftConfig)
    _unlock(schema)
    for where, layer in [_preset_layer(preset), *map(_override_layer, overrides)]:
        _refuse_wrong_keys(layer, schema, where)
        try:
            schema = cast(DictConfig, OmegaConf.merge(schema, layer))
        except OmegaConfBaseException as error:
            raise ConfigError(f"{where}: {_one_line(error)}") from error
    try:
        config = cast(SftConfig, _freeze_lists(OmegaConf.to_object(schema)))
    except (ValueError, OmegaConfBaseException) as error:
        raise ConfigError(f"{preset}: {error}") from error
    problems = list(find_problems(config))
    if problems:
        raise ConfigError(f"{preset}: " + "; ".join(problems))
    return config


def to_yaml(config: SftConfig) -> str:
    """The resolved configuration; loading the text again gives an equal configuration."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def find_problems(config: SftConfig) -> Iterable[str]:
    """Yield what would stop this run later: ranges, then rules between keys."""
    yield from _range_problems(config)
    if config.steps == 0 and not config.epochs > 0:
        yield f"steps=0 and epochs={config.epochs}: nothing to train; set one of them above 0"
    if not any(config.losses.of(loss) for loss in Loss):
        yield "losses: every lambda is 0, so nothing is learnt"
    if config.dev.patience and not config.dev.every:
        yield f"dev.patience={config.dev.patience} with dev.every=0: nothing is measured before the end"
    if "lm_head" in config.model.lora.target_modules:
        yield "model.lora.target_modules: lm_head cannot be adapted, student and teacher share it"
    if not config.name or "/" in config.name:
        yield f"name={config.name!r}: must be a plain folder name"


def _range_problems(config: SftConfig) -> Iterable[str]:
    optimizer, data, heads = config.optimizer, config.data, config.model.heads
    at_least_one = {
        "save_every": config.save_every,
        "keep_checkpoints": config.keep_checkpoints,
        "vocabulary_chunk": config.vocabulary_chunk,
        "model.lora.rank": config.model.lora.rank,
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
        "optimizer.betas[0]": optimizer.betas[0],
        "optimizer.betas[1]": optimizer.betas[1],
    }
    yield from (f"{key}={value}: must lie from 0 to below 1" for key, value in shares.items() if not 0 <= value < 1)


def _preset_layer(preset: str) -> tuple[str, DictConfig]:
    path = Path(preset) if preset.endswith((".yaml", ".yml")) else PRESETS / f"{preset}.yaml"
    if not path.is_file():
        hint = _suggestion(preset, preset_names())
        raise ConfigError(f"no preset {preset!r}{hint}; presets: {', '.join(preset_names())}, or the path of a .yaml")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected a mapping of keys to values at the top")
    return str(path), OmegaConf.create(content)


def _override_layer(override: str) -> tuple[str, DictConfig]:
    if "=" not in override or override.startswith("="):
        raise ConfigError(f"override {override!r}: expected key=value, for example optimizer.lr=1e-4")
    written = override + '""' if override.endswith("=") else override  # data.own= is the empty text, not null
    return f"override {override}", OmegaConf.from_dotlist([written])


def _refuse_wrong_keys(layer: DictConfig, schema: DictConfig, where: str, prefix: str = "") -> None:
    known = [str(key) for key in schema]
    for key in map(str, layer):
        if key not in schema:
            hint = _suggestion(key, known)
            raise ConfigError(f"{where}: unknown key {prefix}{key}{hint}; keys here: {', '.join(known)}")
        value, expected = layer._get_node(key), schema[key]
        if isinstance(expected, DictConfig):
            if not isinstance(value, DictConfig):
                raise ConfigError(f"{where}: {prefix}{key} is a group of keys: {', '.join(map(str, expected))}")
            _refuse_wrong_keys(value, expected, where, f"{prefix}{key}.")


def _suggestion(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _one_line(error: OmegaConfBaseException) -> str:
    text = str(error.msg or error).splitlines()[0]
    return f"{error.full_key}: {text}" if error.full_key else text


def _unlock(node: DictConfig) -> None:
    """Frozen dataclasses make every node read-only, which would forbid merging presets into the schema."""
    OmegaConf.set_readonly(node, False)
    for key in node:
        child = node._get_node(key)
        if isinstance(child, DictConfig):
            _unlock(child)


def _freeze_lists(value: Any) -> Any:
    """OmegaConf gives lists for tuple fields; a frozen configuration holds tuples."""
    if is_dataclass(value) and not isinstance(value, type):
        return type(value)(**{f.name: _freeze_lists(getattr(value, f.name)) for f in fields(value)})
    return tuple(value) if isinstance(value, list) else value
