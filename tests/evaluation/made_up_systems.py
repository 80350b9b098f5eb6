"""Systems in the released layout, made up by hand: two conversations, five supporter turns."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from evaluation.systems import RATINGS_FILE, REPLIES_FILE
from reward_servers.protocol import Dimension

HEADER = ["conversation_id", "turn_index", *(dimension.value for dimension in Dimension), "aggregated_empathy"]

# (conversation, turn index, reply, tactics of each sentence)
GOLD_TURNS = [
    ("a", 1, "Oh no. What happened?", [["emotional_expression"], ["questioning"]]),
    ("a", 3, "What did he say?", [["questioning"]]),
    ("a", 5, "That was not your fault.", [["reappraisal", "validation"]]),
    ("b", 1, "Call a friend.", [["advice"]]),
    ("b", 3, "Anyone would be tired.", [["validation"]]),
]
SYSTEM_TURNS = [
    ("a", 1, "That sounds hard.", [["validation"]]),
    ("a", 3, "What did he say to you?", [["questioning"], []]),
    ("a", 5, "Why did he say that? Tell me.", [["questioning"], ["questioning"]]),
    ("b", 1, "I hear you.", [["validation"]]),
    ("b", 3, "You could call a friend. You can do it.", [["advice"], ["empowerment"]]),
]
GOLD_RATINGS = [[2, 4, 1, 1, 1, 2], [1, 4, 1, 1, 1, 3], [3, 1, 2, 1, 1, 1], [1, 1, 1, 5, 1, 4], [4, 1, 2, 1, 1, 1]]
SYSTEM_RATINGS = [[4, 1, 3, 1, 1, 1], [2, 5, 3, 1, 1, 1], [2, 5, 2, 1, 1, 1], [3, 1, 1, 1, 1, 2], [1, 1, 2, 5, 1, 3]]


def entry(conversation: str, turn: int, reply: str, tactics: list[list[str]], **changes: Any) -> dict[str, Any]:
    """One entry of `conversations_tagged.json`, its history `turn` messages long."""
    history = [{"role": "user" if i % 2 == 0 else "assistant", "content": f"message {i}"} for i in range(turn)]
    texts = {"conversation_id": conversation, "conversation_history": history, "model_response": reply}
    return {**texts, "sentence_tactics": tactics, "source": "made up", **changes}


def entries(turns: list[tuple[str, int, str, list[list[str]]]]) -> list[dict[str, Any]]:
    return [entry(*turn) for turn in turns]


def rating_rows(turns: list[tuple[str, int, str, list[list[str]]]], ratings: list[list[Any]]) -> list[list[Any]]:
    """Rows of a ratings file; the aggregate is nonsense on purpose, since nothing may read it."""
    return [[turn[0], turn[1], *values, 99] for turn, values in zip(turns, ratings, strict=True)]


def write_replies(folder: Path, array: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / REPLIES_FILE
    path.write_text(json.dumps(array, indent=1), encoding="utf-8")
    return path


def write_ratings(folder: Path, rows: list[list[Any]], header: list[str] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / RATINGS_FILE
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header or HEADER, *rows])
    return path


def write_outputs(folder: Path) -> Path:
    """`folder`/gold and `folder`/ours, both whole."""
    for name, turns, ratings in (("gold", GOLD_TURNS, GOLD_RATINGS), ("ours", SYSTEM_TURNS, SYSTEM_RATINGS)):
        write_replies(folder / name, entries(turns))
        write_ratings(folder / name, rating_rows(turns, ratings))
    return folder
