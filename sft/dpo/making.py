"""Pairs made from two systems' replies to the same histories: the one with the higher score is chosen.

A file of replies has one object a line, {"history": [...], "reply": str} or {"prompt": str, "reply": str}; `response`
may stand for `reply`, as in the files of `rapport score`. Two replies belong together where their histories are the
same words. The score is Q of the reward servers (`Score.quality`: the
aggregated empathy from 1 to 5, unless they are configured otherwise). The other parts of the MINT reward are scaled
within a group, and of a group of two they would only say which is larger.

Left out, and counted: histories in one file only, equal replies, scores nearer than `min_margin`, replies that could
not be scored. Scores are kept as they are made, see `sft.dpo.scores`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, NamedTuple

from dialogue.conversation import Conversation, Turn
from dialogue.loaders import DataError
from reward_servers.protocol import ScoreRequest
from sft.dpo.pairs import name_of, parse_history
from sft.dpo.scores import OnScored, Ranker, ScoreJournal, rank
from sft.examples import Split
from sft.readers.fields import as_object, get_text
from sft.readers.ledger import MAX_BAD_SHARE, BadRecord, Note, Reason, read_records
from sft.readers.sources import json_records, require_file


class LeftOut(StrEnum):
    """Why two replies make no pair."""

    ONE_FILE_ONLY = "one_file_only"
    EQUAL = "equal"
    TOO_NEAR = "too_near"
    NOT_SCORED = "not_scored"


@dataclass(frozen=True, slots=True)
class Answered:
    """A reply to a conversation, which ends with the seeker's turn and is named by a hash of its words."""

    conversation: Conversation
    reply: str
    split: Split = Split.TRAIN

    @property
    def id(self) -> str:
        return self.conversation.id


class Rivals(NamedTuple):
    """Two replies to one history, of the first and of the second file."""

    turns: tuple[Turn, ...]
    name: str
    first: str
    second: str


@dataclass(frozen=True, slots=True)
class Made:
    """What came of two files.

    Attributes:
        lines: pairs as `sft.dpo.pairs` reads them, with the scores beside.
        won: pairs by whose reply was chosen.
        kept: replies whose scores were there from an earlier start.
    """

    lines: tuple[str, ...]
    left_out: Counter[LeftOut]
    won: Counter[str]
    kept: int = 0


def read_replies(file: str) -> dict[str, Answered]:
    """By name. A record whose history was there before is bad.

    Raises:
        DataError: the file cannot be opened, or more than 1 % of its records are bad.
    """
    report = read_records(json_records(require_file(file)), _parse, file, None, MAX_BAD_SHARE)
    return {answered.id: answered for answered in report.examples}


def match(first: Mapping[str, Answered], second: Mapping[str, Answered]) -> tuple[list[Rivals], Counter[LeftOut]]:
    """The histories of both, in the order of the first, and what they leave out.

    Raises:
        DataError: they have none in common with different replies.
    """
    rivals = [
        Rivals(one.conversation.turns, name, one.reply, second[name].reply)
        for name, one in first.items()
        if name in second and one.reply != second[name].reply
    ]
    both = first.keys() & second.keys()
    left_out = Counter({LeftOut.ONE_FILE_ONLY: len(first) + len(second) - 2 * len(both)})
    left_out[LeftOut.EQUAL] = len(both) - len(rivals)
    if not rivals:
        raise DataError(
            f"{len(first)} and {len(second)} replies, {len(both)} to the same history, none of them different: the two "
            "files must answer the same histories, word by word"
        )
    return rivals, left_out


def make_pairs(
    rivals: Sequence[Rivals],
    ranker: Ranker,
    min_margin: float,
    journal: ScoreJournal,
    on_scored: OnScored | None = None,
) -> Made:
    """Score both replies of each, and choose.

    Args:
        min_margin: scores that differ by less, or not at all, make no pair.

    Raises:
        PairMakingError, RewardServerError: as `sft.dpo.scores.rank`.
    """
    requests = [
        ScoreRequest(f"{one.name}/{side}", tuple(turn.as_message() for turn in one.turns), reply)
        for one in rivals
        for side, reply in (("first", one.first), ("second", one.second))
    ]
    ranked = rank(requests, ranker, journal, on_scored)
    qualities = zip(ranked.qualities[::2], ranked.qualities[1::2], strict=True)
    return replace(_choose(zip(rivals, qualities, strict=True), min_margin), kept=ranked.kept)


def _choose(scored: Iterable[tuple[Rivals, tuple[float | None, float | None]]], min_margin: float) -> Made:
    lines, left_out, won = [], Counter[LeftOut](), Counter[str]()
    for one, (first, second) in scored:
        if first is None or second is None:
            left_out[LeftOut.NOT_SCORED] += 1
            continue
        if first == second or abs(first - second) < min_margin:
            left_out[LeftOut.TOO_NEAR] += 1
            continue
        won["first" if first > second else "second"] += 1
        lines.append(json.dumps(_pair(one, first, second), ensure_ascii=False))
    return Made(tuple(lines), left_out, won)


def _pair(rivals: Rivals, first: float, second: float) -> dict[str, Any]:
    ordered = [("first", first, rivals.first), ("second", second, rivals.second)]
    (better, high, chosen), (_, low, rejected) = sorted(ordered, key=lambda entry: -entry[1])
    history = [turn.as_message() for turn in rivals.turns]
    # Not the name of the history: pairs of three systems to the same histories may be put into one file.
    words = {"id": name_of(rivals.turns, chosen, rejected), "history": history, "chosen": chosen, "rejected": rejected}
    return words | {"quality": [high, low], "from": better}


def _parse(value: object, notes: Counter[Note]) -> Answered:
    fields = as_object(value)
    turns = parse_history(fields, notes)
    if fields.get("reply") is not None and fields.get("response") is not None:
        raise BadRecord(Reason.MALFORMED, "both 'reply' and 'response'; expected one of them")
    return Answered(Conversation(name_of(turns), turns), get_text(fields, "reply", "response"))
