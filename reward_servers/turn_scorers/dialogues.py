"""EmpatheticDialogues as scorers need it: every listener turn, with all that was said before it and the feeling.

The published scorers were trained on 2,124 of about 50,000 listener turns, and often on the speaker's own. Here a turn
is a reply only where the listener said it, and every one of them counts. Who speaks first tells of the situation: that
is the speaker, our user. A folder holds JSON Lines, or the files of the original release (`original_csv`):

    {"conv_id": str, "emotion": one of the 32 words, "split": "train" | "valid" | "test",
     "turns": [{"role": "speaker" | "listener", "text": str}, ...]}
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from dialogue.conversation import Message
from dialogue.emotions import Feeling
from reward_servers.turn_scorers.original_csv import FILES, read_original

FILE = "conversations.jsonl"
LICENCE = "CC BY-NC 4.0"
LICENCE_NOTE = (
    f"EmpatheticDialogues is under {LICENCE}: labels and weights made from it are for research, not for commercial use"
)
ROLES = {"speaker": "user", "listener": "assistant"}


class DialogueError(ValueError):
    """EmpatheticDialogues that cannot be read. The message names file, line and what is expected."""


class Split(StrEnum):
    """The original splits, by conversation."""

    TRAIN = "train"
    VALID = "valid"
    TEST = "test"


@dataclass(frozen=True, slots=True)
class ListenerTurn:
    """One reply of the listener; `history` ends with the speaker's turn that it answers."""

    id: str
    conversation: str
    split: Split
    feeling: Feeling
    history: tuple[Message, ...]
    reply: str


def read_listener_turns(source: Path, limit: int | None = None) -> list[ListenerTurn]:
    """All listener turns, in the order of the file.

    Args:
        source: a file of JSON Lines, or the folder that holds `conversations.jsonl` or the original CSV files.
        limit: at most so many conversations of each split, drawn by a hash of their ids: those of a smaller limit are
            among those of a larger one, so a longer run finds the answers of a shorter one in its cache.

    Raises:
        DialogueError: no such file, a faulty line, or no listener turn at all.
        OriginalFileError: a fault in the original files.
    """
    original = not (source / FILE).is_file() and any((source / name).is_file() for name in FILES.values())
    path = source if original or not source.is_dir() else source / FILE
    dialogues = [_checked(entry, where) for where, entry in read_original(source)] if original else list(_read(path))
    if limit is not None:
        dialogues = _limited(dialogues, limit)
    turns = [turn for dialogue in dialogues for turn in dialogue.replies()]
    if not turns:
        raise DialogueError(f"{path}: no listener turn; expected EmpatheticDialogues as JSON Lines")
    return turns


@dataclass(frozen=True, slots=True)
class _Dialogue:
    id: str
    split: Split
    feeling: Feeling
    messages: tuple[Message, ...]

    def replies(self) -> Iterator[ListenerTurn]:
        for index, message in enumerate(self.messages):
            if message["role"] == "assistant":
                before = self.messages[:index]
                yield ListenerTurn(f"{self.id}/{index}", self.id, self.split, self.feeling, before, message["content"])


def _limited(dialogues: list[_Dialogue], limit: int) -> list[_Dialogue]:
    kept: set[str] = set()
    for split in Split:
        names = [dialogue.id for dialogue in dialogues if dialogue.split is split]
        kept.update(sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())[:limit])
    return [dialogue for dialogue in dialogues if dialogue.id in kept]


def _read(path: Path) -> Iterator[_Dialogue]:
    seen: set[str] = set()
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    dialogue = _parse(line, f"{path}, line {number}")
                    if dialogue.id in seen:
                        raise DialogueError(f"{path}, line {number}: conversation {dialogue.id!r} is there twice")
                    seen.add(dialogue.id)
                    yield dialogue
    except FileNotFoundError as error:
        raise DialogueError(f"{path}: there is no such file; give EmpatheticDialogues' folder or file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DialogueError(f"{path}: cannot be read ({error})") from error


def _parse(line: str, where: str) -> _Dialogue:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DialogueError(f"{where}: not JSON ({error})") from error
    return _checked(entry, where)


def _checked(entry: Any, where: str) -> _Dialogue:
    try:
        name, turns = entry["conv_id"], entry["turns"]
        split, feeling = Split(entry["split"]), Feeling(entry["emotion"])
        messages = tuple(_message(turn, where) for turn in turns)
    except DialogueError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise DialogueError(
            f"{where}: expected conv_id, one of the 32 emotions, a split and turns; {type(error).__name__}: {error}"
        ) from error
    roles = [message["role"] for message in messages]
    if not isinstance(name, str) or not name or roles != [("user", "assistant")[i % 2] for i in range(len(roles))]:
        raise DialogueError(f"{where}: conversation {name!r:.40} has to alternate, the speaker first; found {roles}")
    return _Dialogue(name, split, feeling, messages)


def _message(turn: Any, where: str) -> Message:
    text = turn["text"]
    if turn["role"] not in ROLES or not isinstance(text, str) or not text.strip():
        raise DialogueError(f"{where}: a turn is {turn!r:.80}; expected role speaker or listener, and a text")
    return Message(role=ROLES[turn["role"]], content=text.strip())
