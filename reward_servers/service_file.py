"""A `ServiceConfig` from one YAML file: what the file does not say has its default, what it says is checked."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import yaml

from reward_servers.service_config import (
    QUALITY_LOADER,
    DeploymentConfig,
    HttpConfig,
    ServiceConfig,
    ServiceConfigError,
)

Config = TypeVar("Config")
# Groups of keys that a service may lack: what they hold where the file has them and says no more.
_OPTIONAL = {"quality": DeploymentConfig(QUALITY_LOADER)}
_WANTED = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def load_service(path: Path | None, token: str = "") -> ServiceConfig:
    """The configuration in `path`; the defaults with HTTP on 127.0.0.1:8000 if it is None.

    Folders of models are made absolute, from the current one: a replica may run in another folder.

    Args:
        token: `http.token` where the file has none.

    Raises:
        ServiceConfigError: there is no such file, it is no YAML mapping, or a key or value of it is wrong.
    """
    defaults = ServiceConfig(http=HttpConfig(token=token))
    if path is None:
        return defaults
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ServiceConfigError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ServiceConfigError(f"{path}: not valid YAML: {error}") from error
    config = _changed(defaults, {} if content is None else content, str(path), ())
    quality = None if config.quality is None else _placed(config.quality)
    return replace(config, tagger=_placed(config.tagger), scorer=_placed(config.scorer), quality=quality)


def _placed(config: DeploymentConfig) -> DeploymentConfig:
    return replace(config, folder=str(Path(config.folder).expanduser().resolve())) if config.folder else config


def _changed(config: Config, content: object, file: str, place: Sequence[str]) -> Config:
    """`config`, a frozen dataclass, with the values of a mapping; groups of keys are changed in the same way."""
    known = {field.name: getattr(config, field.name) for field in fields(config)}  # type: ignore[arg-type]
    if isinstance(config, ServiceConfig):
        known |= {name: default for name, default in _OPTIONAL.items() if known[name] is None}
    if not isinstance(content, dict):
        where = ".".join(place) or "the top"
        raise ServiceConfigError(f"{file}: {where} must be a group of keys: {', '.join(known)}")
    changes = {}
    for key, value in content.items():
        dotted = ".".join((*place, str(key)))
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            raise ServiceConfigError(f"{file}: unknown key {dotted}{hint}; keys here: {', '.join(known)}")
        if value is None and getattr(config, key) is None:
            continue
        if is_dataclass(known[key]):
            changes[key] = _changed(known[key], value, file, (*place, key))
        else:
            changes[key] = _checked(value, type(known[key]), f"{file}: {dotted}")
    try:
        return replace(config, **changes)  # type: ignore[type-var]
    except ServiceConfigError as error:
        group = f"{'.'.join(place)}: " if place else ""
        raise ServiceConfigError(f"{file}: {group}{error}") from error


def _checked(value: object, kind: type, place: str) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        raise ServiceConfigError(f"{place} is {value!r:.60}, but must be {_WANTED[kind]}")
    return value
