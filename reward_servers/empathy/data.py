"""The judge's ratings of MINT's twelve systems on Lend-an-Ear, read and split by conversation."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dialogue.conversation import Message
from reward_servers.protocol import Dimension, EmpathyScore, ScoreRequest

HELD_OUT_FILE = Path(__file__).resolve().parent.parent / "held_out_conversations.txt"


class RatingsError(ValueError):
    """The ratings folder is not what it should be. The message names the file and the entry."""


@dataclass(frozen=True, slots=True)
class RatedReply:
    """One reply with the judge's rating.

    Attributes:
        system: name of the folder in outputs/, `gold` for the humans.
        conversation: Lend-an-Ear id.
        turn: index of the reply in its conversation, 1 for the first supporter turn.
    """

    system: str
    conversation: str
    turn: int
    history: tuple[Message, ...]
    reply: str
    rating: EmpathyScore

    @property
    def request(self) -> ScoreRequest:
        return ScoreRequest(f"{self.system}/{self.conversation}/{self.turn}", self.history, self.reply)

    @property
    def place(self) -> tuple[str, int]:
        """What all systems' replies to the same turn share."""
        return self.conversation, self.turn


def held_out_conversations(path: Path = HELD_OUT_FILE) -> frozenset[str]:
    """Ids of the conversations no reward model may be trained on; lines starting with # are comments."""
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return frozenset(line for line in lines if line and not line.startswith("#"))


def load_ratings(mint: Path) -> list[RatedReply]:
    """Every rated reply below `mint`/outputs, ordered by system, conversation file order and turn.

    A reply whose rating has a blank (one in the released files) is left out.

    Raises:
        RatingsError: no system there, or a reply without a rating, or a rating that is not a number from 1 to 5.
    """
    folders = sorted(path.parent for path in (mint / "outputs").glob("*/conversations_tagged.json"))
    if not folders:
        raise RatingsError(f"no outputs/*/conversations_tagged.json below {mint}; give the folder that holds `outputs`")
    return [reply for folder in folders for reply in _load_system(folder)]


def _load_system(folder: Path) -> list[RatedReply]:
    path = folder / "conversations_tagged.json"
    ratings = _read_ratings(folder / "gpt-oss-120b_ratings.csv")
    replies = []
    for number, entry in enumerate(_entries(path)):
        try:
            history = tuple(Message(role=m["role"], content=m["content"]) for m in entry["conversation_history"])
            key, reply = (str(entry["conversation_id"]), len(history)), str(entry["model_response"])
        except (KeyError, TypeError) as error:
            raise RatingsError(f"{path}: entry {number} is not a reply of a system ({error!r})") from error
        if key not in ratings:
            raise RatingsError(f"{path}: entry {number} (conversation {key[0]}, turn {key[1]}) has no rating")
        rating = ratings[key]
        if rating is not None:
            replies.append(RatedReply(folder.name, *key, history, reply, rating))
    return replies


def _entries(path: Path) -> list[Any]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RatingsError(f"{path}: not JSON ({error}); is the file cut off?") from error
    if not isinstance(entries, list):
        raise RatingsError(f"{path}: a JSON array expected, {type(entries).__name__} found")
    return entries


def _read_ratings(path: Path) -> dict[tuple[str, int], EmpathyScore | None]:
    """(conversation, turn) -> rating; None where a dimension was left blank, as it is once in the released files."""
    ratings = {}
    with path.open(encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.DictReader(file), start=2):
            where = f"{path}, line {number}"
            try:
                key = (row["conversation_id"], int(row["turn_index"]))
            except (KeyError, TypeError, ValueError) as error:
                raise RatingsError(f"{where}: expected conversation_id and a whole turn_index ({error!r})") from error
            is_blank = any(row.get(dimension.value) == "" for dimension in Dimension)
            ratings[key] = None if is_blank else _score(row, where)
    return ratings


def _score(row: dict[str, Any], where: str) -> EmpathyScore:
    try:
        values = tuple(float(row[dimension.value]) for dimension in Dimension)
    except (KeyError, TypeError, ValueError) as error:
        raise RatingsError(f"{where}: a rating is missing or is no number ({error})") from error
    if not all(1 <= value <= 5 for value in values):
        raise RatingsError(f"{where}: ratings lie between 1 and 5, got {values}")
    return EmpathyScore(values)


def split_by_conversation(
    replies: Iterable[RatedReply], held_out: frozenset[str]
) -> tuple[list[RatedReply], list[RatedReply]]:
    """(replies of the other conversations, replies of the `held_out` ones)."""
    kept: list[RatedReply] = []
    unseen: list[RatedReply] = []
    for reply in replies:
        (unseen if reply.conversation in held_out else kept).append(reply)
    return kept, unseen


def by_place(replies: Iterable[RatedReply]) -> dict[tuple[str, int], list[RatedReply]]:
    """Replies grouped by the turn they answer."""
    groups: dict[tuple[str, int], list[RatedReply]] = {}
    for reply in replies:
        groups.setdefault(reply.place, []).append(reply)
    return groups
