"""What a calibration reads: conversations as text, and experts' ratings as CSV or JSON Lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from dialogue.conversation import Conversation
from dialogue.loaders import load_conversations
from evaluation.agreement import EXPERT_PREFIX, Rater
from evaluation.files import EvaluationDataError, read_csv, shown
from evaluation.json_files import read_jsonl
from evaluation.ratings import CONVERSATION, HIGHEST, LOWEST, Floats, read_conversation_ratings
from reward_servers.protocol import Dimension

TEXT = "full_conversation"


def read_texts(path: Path) -> dict[str, str]:
    """Conversation id -> text with a line `Seeker: ...` or `Supporter: ...` per turn.

    A `.csv` has the columns conversation_id and full_conversation, as Lend-an-Ear's; any other file is read by
    `dialogue.loaders`.

    Raises:
        EvaluationDataError: as `read_csv`, or an id or a text is empty, or an id is there twice.
        DataError: the loaders' complaint.
    """
    if path.suffix != ".csv":
        return {conversation.id: as_text(conversation) for conversation in load_conversations(path)}
    texts: dict[str, str] = {}
    for row in read_csv(path, [CONVERSATION, TEXT]):
        name, text = row.cells[CONVERSATION].strip(), row.cells[TEXT].strip()
        if not name or not text:
            raise EvaluationDataError(f"{path}, line {row.line}: {CONVERSATION} or {TEXT} is empty")
        if name in texts:
            raise EvaluationDataError(f"{path}, line {row.line}: conversation {name!r} is there twice")
        texts[name] = text
    return texts


def as_text(conversation: Conversation) -> str:
    """The turns as lines with their speakers."""
    return "\n".join(f"{turn.role.value.capitalize()}: {turn.text}" for turn in conversation.turns)


def read_experts(paths: Sequence[Path], conversations: Mapping[str, str]) -> tuple[list[Rater], list[str]]:
    """The experts, one a file, and the conversations they rated, in the order of the raters' rows.

    Raises:
        EvaluationDataError: a faulty file, files that do not rate the same conversations, or a rated conversation
            without its text.
    """
    ratings = [_ratings(path) for path in paths]
    for path, own in zip(paths, ratings, strict=True):
        if differing := sorted(own.keys() ^ ratings[0].keys()):
            lacking = path if differing[0] in ratings[0] else paths[0]
            raise EvaluationDataError(f"{lacking}: no rating of conversation {differing[0]!r}, which another file has")
        if without := sorted(own.keys() - conversations.keys()):
            raise EvaluationDataError(
                f"{path}: conversation {without[0]!r} is not among the {len(conversations)} of --conversations"
            )
    names = sorted(ratings[0])
    raters = [
        Rater(f"{EXPERT_PREFIX} {i} ({path.name})", np.array([own[name] for name in names]))
        for i, (path, own) in enumerate(zip(paths, ratings, strict=True), start=1)
    ]
    return raters, names


def _ratings(path: Path) -> dict[str, Floats]:
    return read_conversation_ratings(path) if path.suffix != ".jsonl" else _from_lines(path)


def _from_lines(path: Path) -> dict[str, Floats]:
    """Lines {"conversation_id": str, dimension: 1 to 5, ...}; other keys are left alone."""
    ratings: dict[str, Floats] = {}
    for line, entry in read_jsonl(path):
        where = f"{path}, line {line}"
        name = entry.get(CONVERSATION)
        if not isinstance(name, str) or not name.strip():
            raise EvaluationDataError(f"{where}: {CONVERSATION} is {shown(name)}; expected a text")
        if name in ratings:
            raise EvaluationDataError(f"{where}: conversation {name!r} is there twice")
        ratings[name] = np.array([_rating(entry.get(d.value), d, where) for d in Dimension])
    if not ratings:
        raise EvaluationDataError(f"{path}: no ratings; expected one line per conversation")
    return ratings


def _rating(value: object, dimension: Dimension, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not LOWEST <= value <= HIGHEST:
        raise EvaluationDataError(f"{where}: {dimension.value} is {shown(value)}; expected {LOWEST} to {HIGHEST}")
    return float(value)
