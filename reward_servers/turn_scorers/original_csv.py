"""EmpatheticDialogues as first released: train.csv, valid.csv and test.csv, in the shape that `dialogues` reads.

One utterance a row: conv_id, utterance_idx, context, prompt, speaker_idx, utterance, selfeval, tags[, candidates]. The
files are no real CSV: quotes are plain characters, and a comma in a text is `_comma_`. `speaker_idx` is the number of a
crowd worker and says nothing about the role; who made utterance 1 told of the situation and is the speaker.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

FILES = {"train": "train.csv", "valid": "valid.csv", "test": "test.csv"}
MAX_BAD_SHARE = 0.01  # of conversations with a faulty row; they are left out, and a warning says how many
_COLUMNS = ("conv_id", "utterance_idx", "context", "prompt", "speaker_idx", "utterance", "selfeval", "tags")


class OriginalFileError(ValueError):
    """A file of the original release that cannot be read. The message names file, line and what is expected."""


@dataclass(frozen=True, slots=True)
class _Utterance:
    number: int
    worker: str
    feeling: str
    text: str


def read_original(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where it stands, and {"conv_id", "emotion", "split", "turns"}, for each conversation of the files there are.

    Turns of one worker in a row become one turn.

    Raises:
        OriginalFileError: a file cannot be read or has other columns, or too many of its conversations are faulty.
    """
    for split, name in FILES.items():
        if (folder / name).is_file():
            yield from _read_file(folder / name, split)


def _read_file(path: Path, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    conversations: dict[str, list[_Utterance] | None] = {}  # None: a faulty row
    first_lines: dict[str, int] = {}
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise OriginalFileError(f"{path}: cannot be read ({error})") from error
    for number, line in enumerate(lines, start=1):
        cells = line.rstrip("\r").split(",")
        if number == 1:
            if tuple(cells[: len(_COLUMNS)]) != _COLUMNS:
                raise OriginalFileError(f"{path}, line 1: the columns are {line[:100]}; expected {','.join(_COLUMNS)}")
            continue
        if line:
            first_lines.setdefault(cells[0], number)
            said, utterance = conversations.setdefault(cells[0], []), _utterance(cells)
            conversations[cells[0]] = None if said is None or utterance is None else [*said, utterance]
    good = {name: turns for name, said in conversations.items() if (turns := _turns(said)) is not None}
    bad = len(conversations) - len(good)
    if bad > MAX_BAD_SHARE * len(conversations):
        example = next(first_lines[name] for name in conversations if name not in good)
        raise OriginalFileError(f"{path}: {bad} of {len(conversations)} conversations are faulty, as at line {example}")
    if bad:
        logger.warning("%s: %d of %d conversations have a faulty row and are left out", path, bad, len(conversations))
    for name, turns in good.items():
        said = conversations[name]
        assert said is not None
        entry = {"conv_id": name, "emotion": said[0].feeling, "split": split, "turns": turns}
        yield f"{path}, line {first_lines[name]}", entry


def _utterance(cells: list[str]) -> _Utterance | None:
    """None for a row of another form."""
    if len(cells) not in (len(_COLUMNS), len(_COLUMNS) + 1) or not (cells[1].isascii() and cells[1].isdigit()):
        return None
    text = cells[5].replace("_comma_", ",").strip()
    return _Utterance(int(cells[1]), cells[4], cells[2], text) if text else None


def _turns(said: list[_Utterance] | None) -> list[dict[str, str]] | None:
    """The turns in order; None where utterances are missing, or there are three workers or two feelings."""
    if not said or sorted(u.number for u in said) != list(range(1, len(said) + 1)):
        return None
    said = sorted(said, key=lambda utterance: utterance.number)
    if len({u.worker for u in said}) > 2 or len({u.feeling for u in said}) > 1:
        return None
    turns: list[dict[str, str]] = []
    for utterance in said:
        role = "speaker" if utterance.worker == said[0].worker else "listener"
        if turns and turns[-1]["role"] == role:
            turns[-1]["text"] += " " + utterance.text
        else:
            turns.append({"role": role, "text": utterance.text})
    return turns
