"""JSON objects and JSONL read from disk, with errors that name file and line; `evaluation.files` has arrays and CSV."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from evaluation.files import EvaluationDataError, read_text, shown


class _DoubleKeyError(ValueError):
    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


def read_json_value(path: Path) -> Any:
    """Whatever one JSON file holds.

    Raises:
        EvaluationDataError: the file cannot be read, is not UTF-8 or JSON, or an object in it has a key twice.
    """
    return _parsed(read_text(path), str(path), line=None)


def read_jsonl(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """Line number (from 1) and object of every line that is not blank.

    Raises:
        EvaluationDataError: as `read_json_value`, or a line holds something else than an object.
    """
    entries = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        entry = _parsed(line, str(path), number)
        if not isinstance(entry, dict):
            raise EvaluationDataError(f"{path}, line {number}: found {shown(entry)}; expected an object")
        entries.append((number, entry))
    return entries


def read_replies(path: Path) -> dict[str, str | None]:
    """Replies by question id from lines {"id": str, "response": str}; None where `response` is null: a failed call.

    Raises:
        EvaluationDataError: as `read_jsonl`, or a line lacks one of the two, or an id is there twice.
    """
    replies: dict[str, str | None] = {}
    for number, entry in read_jsonl(path):
        where = f"{path}, line {number}"
        name, text = entry.get("id"), entry.get("response", 0)
        if not isinstance(name, str) or not name:
            raise EvaluationDataError(f'{where}: "id" must be the id of a question; found {shown(name)}')
        if text is not None and not isinstance(text, str):
            found = "it is missing" if "response" not in entry else f"found {shown(text)}"
            raise EvaluationDataError(f'{where}: "response" must be a text, or null for a failed call; {found}')
        if name in replies:
            raise EvaluationDataError(f"{where}: a second reply to {name!r}; expected one a question")
        replies[name] = text
    return replies


def _parsed(text: str, where: str, line: int | None) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_without_repeats)
    except json.JSONDecodeError as error:
        place = f"{where}, line {error.lineno if line is None else line}, column {error.colno}"
        raise EvaluationDataError(f"{place}: not valid JSON ({error.msg}); is the file cut off?") from error
    except RecursionError as error:
        raise EvaluationDataError(f"{where}: JSON nested too deeply to read") from error
    except _DoubleKeyError as error:
        found = _line_of_second(text, error.key) if line is None else line
        place = where if found is None else f"{where}, line {found}"
        raise EvaluationDataError(f"{place}: {error.key!r} is there more than once") from error
    except ValueError as error:  # an integer of thousands of digits
        place = where if line is None else f"{where}, line {line}"
        raise EvaluationDataError(f"{place}: {error}") from error


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        names = [name for name, _ in pairs]
        raise _DoubleKeyError(next(name for name in names if names.count(name) > 1))
    return entries


def _line_of_second(text: str, key: str) -> int | None:
    """The line, from 1, on which `key` comes again; None where it is the key of several objects."""
    found = list(re.finditer(re.escape(json.dumps(key, ensure_ascii=False)) + r"\s*:", text))
    return text.count("\n", 0, found[1].start()) + 1 if len(found) == 2 else None
