"""Crisis lines by locale: the shipped file, a user's own file over it, and what is said when a locale is not known.

    asked for     found                                    `Match`
    en-US         en-US                                    exact
    de-LU         de: what is valid across borders         language; a note says so
    xx, nothing   the default, findahelpline.com           default; a note says so

A number of another country is never offered in place of one that is missing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml

from dialogue.crisis.rules import CrisisKind

SHIPPED = Path(__file__).parent.parent / "data" / "crisis_resources.yaml"
_TOP = ("default", "phrases", "locales")
_KINDS = tuple(kind.value for kind in CrisisKind if kind is not CrisisKind.NONE)
_PHRASES = (*_KINDS, "lines", "emergency", "fixed")
_NAME = re.compile(r"[a-z]{2,3}(?:-[A-Z]{2})?|international")
_ADDRESS = re.compile(r"(?:https?://)?[\w-]+(?:\.[\w-]+)+(?:/\S*)?")


class ResourceError(ValueError):
    """Resources that cannot be used. The message names the file and the key."""


class Match(StrEnum):
    """How closely the resources fit the locale that was asked for."""

    EXACT = "exact"
    LANGUAGE = "language"
    DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Line:
    """One service. `contact` is a number or an address; `kinds` are those it is offered for."""

    name: str
    how: str
    contact: str
    kinds: frozenset[CrisisKind]

    def __str__(self) -> str:
        return f"- {self.name}: {self.how} {self.contact}"


@dataclass(frozen=True, slots=True)
class Resources:
    """What is offered in one locale, and in which words."""

    locale: str
    emergency: str
    lines: tuple[Line, ...]
    phrases: Mapping[str, str]

    def lines_for(self, kind: CrisisKind) -> tuple[Line, ...]:
        return tuple(line for line in self.lines if kind in line.kinds)


@dataclass(frozen=True, slots=True)
class Found:
    """The resources for a locale. `note` is empty for an exact match, else says what was taken instead."""

    resources: Resources
    match: Match
    note: str


class ResourceBook:
    """All locales of a file."""

    def __init__(self, locales: Mapping[str, Resources], default: str) -> None:
        self._locales = locales
        self._default = default

    def names(self) -> list[str]:
        return sorted(self._locales)

    def find(self, locale: str | None) -> Found:
        """The resources for a locale such as `en-US`, `en_us` or `de_DE.UTF-8`."""
        wanted = _spelled(locale or "")
        if wanted in self._locales:
            return Found(self._locales[wanted], Match.EXACT, "")
        known = f"no crisis lines for {locale!r}" if locale else "no locale given"
        language = wanted.partition("-")[0]
        if language in self._locales:
            note = f"{known}: offering what is valid for {language!r} across borders"
            return Found(self._locales[language], Match.LANGUAGE, note)
        return Found(self._locales[self._default], Match.DEFAULT, f"{known}: offering {self._default!r}")


def load_resources(own: Path | None = None) -> ResourceBook:
    """The shipped file, with the locales and phrases of the user's own file over it.

    Raises:
        ResourceError: a file cannot be read, or a key of it is missing, unknown or of the wrong type.
    """
    content = _read(SHIPPED)
    if own is not None:
        over = _read(own)
        content = {
            "default": over.get("default", content["default"]),
            "phrases": _merged(content["phrases"], over.get("phrases", {}), f"{own}: phrases"),
            "locales": content["locales"] | _mapping(over.get("locales", {}), f"{own}: locales"),
        }
    place = own or SHIPPED
    phrases = {name: _phrases(value, f"{place}: phrases.{name}") for name, value in content["phrases"].items()}
    locales = {
        str(name): _resources(str(name), value, phrases, f"{place}: locales.{name}")
        for name, value in content["locales"].items()
    }
    if content["default"] not in locales:
        raise ResourceError(f"{place}: default is {content['default']!r}; expected one of {', '.join(sorted(locales))}")
    return ResourceBook(locales, content["default"])


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ResourceError(f"{path}: cannot be read as YAML ({error})") from error
    content = _mapping(content, str(path))
    _refuse_unknown(content, _TOP, str(path))
    return content


def _merged(below: Mapping[str, Any], above: Any, where: str) -> dict[str, Any]:
    phrases = {str(name): _mapping(value, f"{where}.{name}") for name, value in _mapping(above, where).items()}
    return {**below, **{name: {**below.get(name, below["en"]), **value} for name, value in phrases.items()}}


def _phrases(value: Any, where: str) -> dict[str, str]:
    content = _mapping(value, where)
    _refuse_unknown(content, _PHRASES, where)
    found = {name: _text(content, name, where) for name in _PHRASES}
    if "{emergency}" not in found["emergency"]:
        raise ResourceError(f"{where}.emergency: expected {{emergency}} where the number goes")
    return found


def _resources(name: str, value: Any, phrases: Mapping[str, Mapping[str, str]], where: str) -> Resources:
    content = _mapping(value, where)
    _refuse_unknown(content, ("language", "emergency", "lines"), where)
    if not _NAME.fullmatch(name):
        raise ResourceError(f"{where}: expected a locale such as en-US, or a language such as en")
    language = content.get("language", "en")
    if language not in phrases:
        raise ResourceError(f"{where}.language: no phrases for {language!r}; there are {', '.join(phrases)}")
    lines = content.get("lines")
    if not isinstance(lines, list) or not lines:
        raise ResourceError(f"{where}.lines: expected a list with at least one service")
    found = tuple(_line(line, f"{where}.lines[{index}]") for index, line in enumerate(lines))
    if not any(line.kinds == frozenset(map(CrisisKind, _KINDS)) for line in found):
        raise ResourceError(f"{where}.lines: expected at least one service without `kinds`, offered for every crisis")
    return Resources(name, _text(content, "emergency", where), found, phrases[language])


def _line(value: Any, where: str) -> Line:
    content = _mapping(value, where)
    _refuse_unknown(content, ("name", "how", "contact", "kinds"), where)
    contact = _text(content, "contact", where)
    digits = re.sub(r"[\s().+-]", "", contact)
    if not _ADDRESS.fullmatch(contact) and not (digits.isascii() and digits.isdigit() and len(digits) >= 3):
        raise ResourceError(
            f"{where}.contact: {contact!r} is neither a number of three digits or more (in quotes) nor an address"
        )
    kinds = content.get("kinds", list(_KINDS))
    if not isinstance(kinds, list) or not kinds or not set(map(str, kinds)) <= set(_KINDS):
        raise ResourceError(f"{where}.kinds: expected a list of {', '.join(_KINDS)}")
    return Line(_text(content, "name", where), _text(content, "how", where), contact, frozenset(map(CrisisKind, kinds)))


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ResourceError(f"{where}: expected keys and values")
    return value


def _refuse_unknown(content: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    unknown = [str(key) for key in content if key not in known]
    if unknown:
        raise ResourceError(f"{where}: unknown key {unknown[0]!r}; expected {', '.join(known)}")


def _text(content: Mapping[str, Any], key: str, where: str) -> str:
    value = content.get(key)
    if not isinstance(value, str) or not value.strip():
        raise ResourceError(f"{where}.{key}: expected a text (numbers in quotes); found {value!r}")
    return value.strip()


def _spelled(locale: str) -> str:
    language, _, country = locale.partition(".")[0].replace("_", "-").partition("-")
    return f"{language.lower()}-{country.upper()}" if country else language.lower()
