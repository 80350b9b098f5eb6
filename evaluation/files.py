"""Files in and out: JSON arrays and CSV tables with errors that name file and line, and results that appear whole."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_BETWEEN = re.compile(r"[\s,]*")  # what stands before an entry of a JSON array


class EvaluationDataError(ValueError):
    """A file that cannot be measured. The message names the file, the line or entry, and what is expected."""


@dataclass(frozen=True, slots=True)
class Row:
    """One record of a CSV file: the line on which it starts (the header is on line 1), and column -> text."""

    line: int
    cells: Mapping[str, str]


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, byte order mark removed.

    Raises:
        EvaluationDataError: the file is missing, cannot be read or is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise EvaluationDataError(f"{path}: there is no such file") from error
    except OSError as error:
        raise EvaluationDataError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        found = f"byte {error.object[error.start]:#04x} is not UTF-8"
        raise EvaluationDataError(f"{path}, line {line}: {found}; save the file as UTF-8") from error


def read_json_array(path: Path) -> list[dict[str, Any]]:
    """The objects of a file that holds one JSON array of objects.

    Raises:
        EvaluationDataError: as `read_text`, or the text is no such array; entries are counted from 0.
    """
    text = read_text(path)
    try:
        array = json.loads(text)
    except json.JSONDecodeError as error:
        where = f"{path}, line {error.lineno}, column {error.colno}"
        raise EvaluationDataError(f"{where}: not valid JSON ({error.msg}); is the file cut off?") from error
    except RecursionError as error:
        raise EvaluationDataError(f"{path}: JSON nested too deeply to read; expected an array of objects") from error
    except ValueError as error:  # Python refuses integers of thousands of digits
        raise EvaluationDataError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(array, list):
        raise EvaluationDataError(f"{path}: found {shown(array)}; expected a JSON array of objects")
    for number, entry in enumerate(array):
        if not isinstance(entry, dict):
            raise EvaluationDataError(f"{path}, entry {number}: found {shown(entry)}; expected an object")
    return array


def read_json_entries(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """As `read_json_array`, each object with its place for messages: file, the line on which it starts, and number."""
    array = read_json_array(path)
    lines = _lines_of_entries(read_text(path), len(array))
    return [
        (f"{path}, line {line}, entry {number}", entry)
        for number, (line, entry) in enumerate(zip(lines, array, strict=True))
    ]


def _lines_of_entries(text: str, count: int) -> list[int]:
    """The lines, from 1, on which the `count` entries of a valid JSON array start."""
    decoder, lines, line, counted = json.JSONDecoder(), [], 1, 0
    place = text.index("[") + 1
    for _ in range(count):
        start = _BETWEEN.match(text, place).end()  # type: ignore[union-attr]  # it matches nothing, too
        line, counted = line + text.count("\n", counted, start), start
        lines.append(line)
        place = decoder.raw_decode(text, start)[1]
    return lines


def read_csv(path: Path, required: Sequence[str]) -> list[Row]:
    """The records of a CSV file with a header; empty lines are left out, other columns than `required` are kept.

    Raises:
        EvaluationDataError: as `read_text`, or a column is missing or there twice, a record has another number of
            cells than the header, or there is no record.
    """
    records = _records(path)
    _, header = next(records, (1, []))
    missing = [column for column in required if column not in header]
    if missing:
        found = ", ".join(header) or "none"
        raise EvaluationDataError(f"{path}, line 1: missing column {', '.join(missing)}; the columns are {found}")
    if twice := sorted({column for column in header if column and header.count(column) > 1}):
        raise EvaluationDataError(f"{path}, line 1: column {', '.join(twice)} is there more than once")
    rows = []
    for line, cells in records:
        if len(cells) != len(header):
            found = f"{len(cells)} cells where the header has {len(header)}; is the file cut off?"
            raise EvaluationDataError(f"{path}, line {line}: {found}")
        rows.append(Row(line, dict(zip(header, cells, strict=True))))
    if not rows:
        raise EvaluationDataError(f"{path}: a header but no records; expected at least one")
    return rows


def _records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """First line and cells of every record; a cell in quotes may hold line breaks."""
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    line = 1
    try:
        for cells in reader:
            if cells:
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise EvaluationDataError(f"{path}, line {line}: not valid CSV ({error}); is the file cut off?") from error


def shown(value: object) -> str:
    """A value for a message, cut to 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def check_target(path: Path) -> None:
    """Find out before the work, not after it, that a result cannot be written.

    Raises:
        EvaluationDataError: the folder of `path` does not exist, or `path` is a folder.
    """
    if not path.parent.is_dir():
        raise EvaluationDataError(f"cannot write {path}: there is no folder {path.parent}")
    if path.is_dir():
        raise EvaluationDataError(f"cannot write {path}: it is a folder; give the name of a file in it")


def write_json(path: Path, value: object) -> None:
    """Write a result. The file appears whole or not at all; NaN, an undefined measure, is written as null.

    Raises:
        EvaluationDataError: the file cannot be written there.
    """
    write_text(path, json.dumps(without_nan(value), ensure_ascii=False, indent=1, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all; half of a surrogate pair, which UTF-8 cannot hold, becomes a question mark.

    Raises:
        EvaluationDataError: the file cannot be written there.
    """
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    except OSError as error:
        raise EvaluationDataError(f"cannot write {path}: {error.strerror}") from error
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="replace", newline="") as out:
            out.write(text)
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def without_nan(value: Any) -> Any:
    """The same nested dictionaries and sequences with None for every NaN."""
    if isinstance(value, Mapping):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
