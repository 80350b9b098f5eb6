"""Where records come from: a file, a folder, or the hub through `datasets`.

file                                       read as it is
folder with one of the reader's file names that file
folder written by `save_to_disk`           `datasets.load_from_disk`
any other folder, or `owner/name`          `datasets.load_dataset`
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dialogue.loaders import DataError
from sft.examples import Split
from sft.readers.ledger import BadRecord, Reason, Record

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
SPLIT_NAMES = {
    Split.TRAIN: ("train",),
    Split.VALID: ("validation", "valid", "dev"),
    Split.TEST: ("test",),
}
SAVED_MARKS = ("dataset_dict.json", "state.json")


def find_file(source: str | Path, names: Sequence[str]) -> Path | None:
    """The file to read, or None where `datasets` is to open `source`.

    Args:
        names: file names to look for when `source` is a folder, best first.

    Raises:
        DataError: neither a file, nor a folder, nor a hub id.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        return next((path / name for name in names if (path / name).is_file()), None)
    if HUB_ID.fullmatch(str(source)) and not str(source).startswith((".", "~")):
        return None
    raise DataError(f"{source}: there is no such file; expected a file, a folder or a hub id (owner/name)")


def require_file(source: str | Path) -> Path:
    """A local file. Raises DataError where it is anything else."""
    path = Path(source).expanduser()
    if not path.is_file():
        raise DataError(f"{source}: there is no such file")
    return path


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    r"""Line numbers from 1 and lines without their end. Only `\n` ends a line: texts hold U+2028 and the like.

    Raises:
        DataError: the file cannot be opened or is not UTF-8.
    """
    number = 0
    try:
        with path.open(encoding="utf-8-sig", newline="\n") as stream:
            for number, line in enumerate(stream, start=1):
                yield number, line.rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}, after line {number}: not UTF-8 ({error.reason}); expected UTF-8 text") from error
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; expected a readable file") from error


def is_json(path: Path) -> bool:
    """Whether the first character of the file opens a JSON object or array."""
    return next((line.lstrip()[0] for _, line in read_lines(path) if line.strip()), "") in ("{", "[")


def json_records(path: Path) -> Iterator[Record]:
    """The entries of a JSON array, or one object a line.

    Raises:
        DataError: the array is not whole. A faulty line is a record that is bad.
    """
    if next((line.lstrip()[0] for _, line in read_lines(path) if line.strip()), "") == "[":
        try:
            entries = json.loads(path.read_text(encoding="utf-8-sig"))
        except ValueError as error:
            raise DataError(f"{path}: not a JSON array ({error}); is the file cut off?") from error
        yield from (Record(f"{path}, entry {number}", entry) for number, entry in enumerate(entries))
        return
    for number, line in read_lines(path):
        if line.strip():
            yield Record(f"{path}, line {number}", parse_json(line))


def parse_json(text: str) -> Any:
    """The value, or a `BadRecord` (not raised: it is a record's value)."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        return BadRecord(Reason.MALFORMED, f"not JSON ({error}); expected one object a line")


def hub_records(source: str | Path, split: Split, config: str | None = None) -> Iterator[Record]:
    """The rows of one split of a dataset.

    Args:
        config: the configuration's name on the hub; local folders have none.

    Raises:
        DataError: `datasets` cannot open it, or it has no such split.
    """
    import datasets

    path = Path(source).expanduser()
    try:
        if any((path / mark).is_file() for mark in SAVED_MARKS):
            opened = datasets.load_from_disk(str(path))
        else:
            opened = datasets.load_dataset(str(source), None if path.is_dir() else config)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f"{source}: `datasets` could not open it ({type(error).__name__}: {error}); give a local file or folder, "
            "or check the hub id and the network"
        ) from error
    if isinstance(opened, datasets.Dataset):  # saved as a single split: it is the one that was asked for
        opened = {SPLIT_NAMES[split][0]: opened}
    name = next((name for name in SPLIT_NAMES[split] if name in opened), None)
    if name is None:
        raise DataError(f"{source}: no split {split.value}; it has {', '.join(opened)}")
    for number, row in enumerate(opened[name]):
        yield Record(f"{source}, split {name}, row {number}", row)
