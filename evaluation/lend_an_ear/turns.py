"""Which supporter turns are asked for, and the conversations that they stand in.

Conversations come from a file that `dialogue.loaders` reads, or from a folder of human replies in the released layout
(`conversations_tagged.json`, one entry per supporter turn with its history), which are put together again.

Turns are taken conversation by conversation and in order, so that the turn before a chosen one is always chosen too:
stickiness needs what the person said there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dialogue.conversation import Conversation, Message, Role, Turn
from dialogue.loaders import SILENCE, load_conversations
from dialogue.split import split_conversations
from evaluation.files import EvaluationDataError, read_json_entries
from evaluation.systems import REPLIES_FILE, Place, load_system

STARTER = "starter"
STARTER_HELD_OUT = 0.2  # as `rapport train` holds out by default, so a policy has not seen these
SPLIT_SEED = 0


@dataclass(frozen=True, slots=True)
class GoldTurn:
    """One supporter turn of a person: the conversation that holds it, and its index there."""

    conversation: Conversation
    index: int

    @property
    def place(self) -> Place:
        return self.conversation.id.strip(), self.index  # as files in the released layout are read

    @property
    def id(self) -> str:
        return f"{self.conversation.id}/{self.index}"

    @property
    def text(self) -> str:
        return self.conversation.turns[self.index].text

    @property
    def history(self) -> tuple[Message, ...]:
        return tuple(turn.as_message() for turn in self.conversation.history(self.index))

    @property
    def previous_place(self) -> Place | None:
        return (self.place[0], self.index - 2) if self.index > 1 else None


def read_turns(data: str, limit: int | None = None) -> list[GoldTurn]:
    """The turns of `data`: a file, a folder in the released layout, or `starter`, of which the held-out side is taken.

    Args:
        limit: the first so many; all if None.

    Raises:
        DataError: a fault in a file of conversations.
        EvaluationDataError: a fault in a folder in the released layout.
    """
    if data == STARTER:
        _, conversations = split_conversations(load_conversations(STARTER), STARTER_HELD_OUT, SPLIT_SEED)
    elif Path(data).is_dir():
        conversations = released_conversations(Path(data))
    else:
        conversations = load_conversations(Path(data))
    turns = [GoldTurn(conversation, i) for conversation in conversations for i in conversation.supporter_turns()]
    return turns if limit is None else turns[:limit]


def released_conversations(folder: Path) -> list[Conversation]:
    """The conversations of a folder in the released layout, in the order in which they first appear.

    Raises:
        EvaluationDataError: as `load_system`, or the entries of a conversation do not fit together: a supporter turn
            is missing, or two entries tell the same turn differently.
    """
    load_system(folder, ratings_file=None)  # its checks: form, roles, no turn twice
    path = folder / REPLIES_FILE
    longest: dict[str, tuple[str, list[str]]] = {}
    entries = [(where, entry, _texts(entry)) for where, entry in read_json_entries(path)]
    for where, entry, texts in entries:
        name = entry["conversation_id"].strip()
        if name not in longest or len(texts) > len(longest[name][1]):
            longest[name] = (where, texts)
    for where, entry, texts in entries:
        name = entry["conversation_id"].strip()
        whole, all_texts = longest[name]
        if texts != all_texts[: len(texts)]:
            message = next(i for i, (own, other) in enumerate(zip(texts, all_texts, strict=False)) if own != other)
            raise EvaluationDataError(
                f"{where}, conversation {name!r}: message {message} differs from that of "
                f"{whole.removeprefix(f'{path}, ')}"
            )
    _check_counts(entries, longest, path)
    return [_conversation(name, texts, path) for name, (_, texts) in longest.items()]


def _texts(entry: Mapping[str, Any]) -> list[str]:
    """All messages of an entry, its reply the last."""
    history = [str(message.get("content") or "") for message in entry["conversation_history"]]
    return [text.strip() for text in (*history, entry["model_response"])]


def _check_counts(
    entries: Sequence[tuple[str, dict[str, Any], list[str]]], longest: Mapping[str, tuple[str, list[str]]], path: Path
) -> None:
    found = {(entry["conversation_id"].strip(), len(texts) - 1) for _, entry, texts in entries}
    for name, (_, texts) in longest.items():
        missing = [index for index in range(1, len(texts), 2) if (name, index) not in found]
        if missing:
            have = len(texts) // 2 - len(missing)
            raise EvaluationDataError(
                f"{path}: conversation {name!r} has {len(texts) // 2} supporter turns in its longest history but "
                f"{have} entries: none for turn {missing[0]}"
            )


def _conversation(name: str, texts: Sequence[str], path: Path) -> Conversation:
    turns = []
    for index, text in enumerate(texts):
        role = Role.SEEKER if index % 2 == 0 else Role.SUPPORTER
        if not text and role is Role.SUPPORTER:
            raise EvaluationDataError(f"{path}: conversation {name!r}, turn {index}: an empty reply of the supporter")
        turns.append(Turn(role, text or SILENCE))
    return Conversation(name, tuple(turns))
