"""YAML presets and `key=value` overrides merged into a typed configuration; errors say which key and what was expected.

Works for any tree of frozen dataclasses: `rl.config.RunConfig` and `sft.config.SftConfig` are loaded by it.
"""

from __future__ import annotations

import difflib
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rl.config import ConfigError

Config = TypeVar("Config")
_EXPECTED = {
    "could not be converted to Integer": "expected a whole number",
    "could not be converted to Float": "expected a number",
    "is not a ListConfig, list or tuple.": "expected a list, such as [a,b]",
}


@dataclass(frozen=True, slots=True)
class Presets:
    """The YAML files of a folder. `example` is an override that makes sense for them, for error messages."""

    folder: Path
    example: str

    def names(self) -> list[str]:
        return sorted(path.stem for path in self.folder.glob("*.yaml"))

    def load(self, kind: type[Config], preset: str, overrides: Sequence[str] = ()) -> Config:
        """Merge defaults, preset and overrides, in this order.

        Args:
            kind: a frozen dataclass whose fields all have defaults.
            preset: a name in the folder or the path of a YAML file. Its key `extends` names another to start from: a
                name, or a path from the folder of the file.
            overrides: `key=value` strings with dotted keys; `key=` sets an empty text.

        Raises:
            ConfigError: unknown preset, key or enum member, or a value of the wrong type.
        """
        return cast(Config, _merge(kind, [*self._layers(preset), *map(self._override, overrides)], preset))

    def change(self, config: Config, overrides: Sequence[str]) -> Config:
        """`config`, a frozen dataclass, with `key=value` overrides. Raises ConfigError as `load`."""
        return cast(Config, _merge(config, list(map(self._override, overrides)), type(config).__name__))

    def _layers(self, preset: str, below: tuple[Path, ...] = ()) -> list[tuple[str, DictConfig]]:
        """The file and those that it extends, the farthest first. `below`: the files that led here."""
        is_path = preset.endswith((".yaml", ".yml"))
        path = below[-1].parent / preset if is_path and below else Path(preset)
        path = path if is_path else self.folder / f"{preset}.yaml"
        if not path.is_file():
            known = self.names()
            extended = f"{below[-1]}: extends: " if below else ""
            hint = _suggestion(preset, known)
            raise ConfigError(
                f"{extended}no preset {preset!r}{hint}; presets: {', '.join(known)}, or the path of a .yaml"
            )
        if path in below:
            raise ConfigError(f"{path}: extends itself, by way of {', '.join(map(str, below))}")
        content = _read(path)
        parent = content.pop("extends", None)
        above = self._layers(str(parent), (*below, path)) if parent else []
        try:
            return [*above, (str(path), OmegaConf.create(content))]
        except OmegaConfBaseException as error:
            raise ConfigError(f"{path}: {_in_plain_words(error)}") from error

    def _override(self, override: str) -> tuple[str, DictConfig]:
        key, equals, value = override.partition("=")
        if not equals or not all(key.split(".")):
            raise ConfigError(f"override {override!r}: expected key=value, for example {self.example}")
        written = override if value else f'{override}""'  # else it would be null
        try:
            return f"override {override}", OmegaConf.from_dotlist([written])
        except (yaml.YAMLError, OmegaConfBaseException) as error:
            problem = getattr(error, "problem", None) or str(error).splitlines()[0]
            raise ConfigError(f"override {override}: the value cannot be read: {problem}") from error


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a key that stands twice in a mapping: YAML would take the last one without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for number, key in enumerate(keys):
            if key.value in {earlier.value for earlier in keys[:number]}:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} stands twice", key.start_mark
                )
        return super().construct_mapping(node, deep)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{path}{line}: not valid YAML: {error.problem}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected a mapping of keys to values at the top, such as `steps: 30`")
    return content


def _merge(start: Any, layers: Sequence[tuple[str, DictConfig]], name: str) -> Any:
    """`start`: a dataclass or one of its objects. `name`: for messages about the whole."""
    schema = OmegaConf.structured(start)
    _unlock(schema)
    for where, layer in layers:
        _refuse_wrong_keys(layer, schema, where)
        try:
            schema = cast(DictConfig, OmegaConf.merge(schema, layer))
        except OmegaConfBaseException as error:
            raise ConfigError(f"{where}: {_in_plain_words(error)}") from error
    try:
        return _freeze_lists(OmegaConf.to_object(schema))
    except OmegaConfBaseException as error:
        raise ConfigError(f"{name}: {_in_plain_words(error)}") from error
    except ValueError as error:
        raise ConfigError(f"{name}: {error}") from error


def to_yaml(config: Any) -> str:
    """The resolved configuration; loading the text again gives an equal configuration."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def changed_keys(default: str, old: str, new: str) -> dict[str, str]:
    """Dotted keys in which two configurations, written by `to_yaml`, differ, with "old value -> new value".

    A key that did not exist when `old` was written had then the value that `default` has now.

    Raises:
        ConfigError: one of them is no mapping in YAML.
    """
    start, before, after = (_flatten(_parsed(text)) for text in (default, old, new))
    before = start | before
    return {
        key: f"{before.get(key)} -> {after.get(key)}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    }


def _refuse_wrong_keys(
    layer: DictConfig, schema: DictConfig, where: str, prefix: str = "", root: DictConfig | None = None
) -> None:
    root = schema if root is None else root
    known = [str(key) for key in schema]
    for key in map(str, layer):
        if key not in schema:
            hint = _suggestion(key, known) or _elsewhere(key, root)
            raise ConfigError(f"{where}: unknown key {prefix}{key}{hint}; keys here: {', '.join(known)}")
        value, expected = layer._get_node(key), schema[key]
        if isinstance(expected, DictConfig):
            if not isinstance(value, DictConfig):
                raise ConfigError(f"{where}: {prefix}{key} is a group of keys: {', '.join(map(str, expected))}")
            _refuse_wrong_keys(value, expected, where, f"{prefix}{key}.", root)


def _elsewhere(key: str, root: DictConfig) -> str:
    """Where in the tree a key of that very name stands: `lr` is meant as `learner.lr`."""
    found = [name for name in _dotted(root) if name.endswith(f".{key}")]
    return f" (did you mean {' or '.join(found)}?)" if found else ""


def _dotted(node: DictConfig, prefix: str = "") -> Iterator[str]:
    for key in map(str, node):
        child = node._get_node(key)
        yield f"{prefix}{key}"
        if isinstance(child, DictConfig):
            yield from _dotted(child, f"{prefix}{key}.")


def _suggestion(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _in_plain_words(error: OmegaConfBaseException) -> str:
    """One line that says what was expected; OmegaConf speaks of its own classes."""
    text = str(error.msg or error).splitlines()[0]
    text = next((plain for end, plain in _EXPECTED.items() if text.endswith(end)), text)
    return f"{error.full_key}: {text}" if error.full_key else text


def _unlock(node: DictConfig) -> None:
    """Frozen dataclasses make every node read-only, which would forbid merging presets into the schema."""
    OmegaConf.set_readonly(node, False)
    for key in node:
        child = node._get_node(key)
        if isinstance(child, DictConfig):
            _unlock(child)


def _freeze_lists(value: Any) -> Any:
    """OmegaConf gives lists for tuple fields; a frozen configuration holds tuples, so that it can be hashed."""
    if is_dataclass(value) and not isinstance(value, type):
        return type(value)(**{f.name: _freeze_lists(getattr(value, f.name)) for f in fields(value)})
    return tuple(value) if isinstance(value, list) and not isinstance(value, Enum) else value


def _parsed(text: str) -> dict[str, Any]:
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError("not a mapping of keys to values")
    return content


def _flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(node, dict):
        return {prefix.rstrip("."): node}
    return {k: v for key, value in node.items() for k, v in _flatten(value, f"{prefix}{key}.").items()}
