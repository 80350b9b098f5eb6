"""JSON and JSONL read from disk, with errors that name file, line and key."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class ReportError(ValueError):
    """What a report is made from cannot be used. The message names the file, the line and what to do."""


@dataclass(frozen=True, slots=True)
class Record:
    """A JSON object and where it stands, so that a wrong value is told with its place."""

    values: dict[str, Any]
    where: str

    def text(self, key: str) -> str:
        return self._of(key, str, "a text")

    def flag(self, key: str) -> bool:
        return self._of(key, bool, "true or false")

    def whole(self, key: str) -> int:
        value = self._of(key, int, "a whole number")
        if isinstance(value, bool):
            raise self.wrong(key, "a whole number")
        return value

    def number(self, key: str) -> float:
        value = self._of(key, int | float, "a number")
        if isinstance(value, bool):
            raise self.wrong(key, "a number")
        return float(value)

    def items(self, key: str) -> list[Any]:
        return self._of(key, list, "a list")

    def records(self, key: str) -> list[Record]:
        """The objects of a list, each with its place."""
        return [_record(item, f"{self.where}, {key} {i}") for i, item in enumerate(self.items(key), start=1)]

    def numbers(self, key: str) -> dict[str, float] | None:
        """An object whose values are all numbers, or None where it is null."""
        if self.values.get(key) is None and key in self.values:
            return None
        inner = _record(self._of(key, dict, "an object of numbers"), f"{self.where}, {key}")
        return {name: inner.number(name) for name in inner.values}

    def wrong(self, key: str, expected: str) -> ReportError:
        found = "it is missing" if key not in self.values else f"found {_shown(self.values[key])}"
        return ReportError(f'{self.where}: "{key}" must be {expected}; {found}')

    def _of(self, key: str, kind: Any, expected: str) -> Any:
        if not isinstance(self.values.get(key), kind):
            raise self.wrong(key, expected)
        return self.values[key]


def read_json(path: Path) -> Record:
    """The object that a JSON file holds.

    Raises:
        ReportError: the file cannot be read, is not UTF-8, is cut off or holds something else than an object.
    """
    text = _decoded(_bytes(path), str(path))
    try:
        return _record(json.loads(text), str(path))
    except json.JSONDecodeError as error:
        where = f"{path}, line {error.lineno}"
        raise ReportError(
            f"{where}: not valid JSON ({error.msg}); the file is damaged: restore it or remove it"
        ) from error


def read_jsonl(path: Path) -> tuple[list[Record], bool]:
    """The objects of a JSONL file, one a line, and whether its last line was cut off.

    A run that was killed while writing, or writes just now, leaves a last line without its newline: it is left out.

    Raises:
        ReportError: as `read_json`, for any other line.
    """
    *lines, rest = _bytes(path).split(b"\n")
    return list(_parsed(lines, path)), bool(rest.strip())


def _parsed(lines: list[bytes], path: Path) -> Iterator[Record]:
    for number, line in enumerate(lines, start=1):
        where = f"{path}, line {number}"
        if not line.strip():
            continue
        try:
            yield _record(json.loads(_decoded(line, where)), where)
        except json.JSONDecodeError as error:
            raise ReportError(
                f"{where}: not valid JSON ({error.msg}); the line is damaged: remove it to make the report without it"
            ) from error


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ReportError(f"{path}: cannot be read ({error.strerror})") from error


def _decoded(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        found = f"byte {error.start} is {data[error.start]:#04x}"
        raise ReportError(f"{where}: not UTF-8 ({found}); the file is damaged: restore it or remove it") from error


def _record(value: object, where: str) -> Record:
    if not isinstance(value, dict):
        raise ReportError(f"{where}: expected an object, found {_shown(value)}")
    return Record(value, where)


def _shown(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
