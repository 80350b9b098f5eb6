"""Pairs made from two systems' replies to the same histories: the one with the higher score is chosen.

A file of replies has one object a line, {"history": [...], "reply": str} or {"prompt": str, "reply": str}; two replies
belong together where their histories are the same words. The score is Q of the reward servers (`Score.quality`: the
aggregated empathy from 1 to 5, unless they are configured otherwise). The other parts of the MINT reward are scaled
within a group, and of a group of two they would only say which is larger.

Left out, and counted: histories in one file only, equal replies, scores nearer than `min_margin`, replies that could
not be scored. A failed score is never a number; above a share of failures nothing is written.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b
from typing import Any, NamedTuple

from dialogue.conversation import Conversation, Turn
from dialogue.loaders import DataError
from reward_servers.protocol import ScoreFailure, ScoreRequest
from rl.scoring import Scorer
from sft.dpo.pairs import parse_history
from sft.examples import Split
from sft.readers.fields import as_object, get_text
from sft.readers.ledger import MAX_BAD_SHARE, Note, read_records
from sft.readers.sources import json_records, require_file

MAX_FAILED_SHARE = 0.05


class PairMakingError(RuntimeError):
    """Too many replies could not be scored. The message has the first cause."""


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
    """`lines`: pairs as `sft.dpo.pairs` reads them, with the scores beside. `won`: pairs by whose reply was chosen."""

    lines: tuple[str, ...]
    left_out: Counter[LeftOut]
    won: Counter[str]


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


def make_pairs(rivals: Sequence[Rivals], scorer: Scorer, min_margin: float) -> Made:
    """Score both replies of each, and choose.

    Args:
        min_margin: scores that differ by less, or not at all, make no pair.

    Raises:
        PairMakingError: more than 5 % of the replies could not be scored.
    """
    requests = [
        ScoreRequest(f"{one.name}/{side}", tuple(turn.as_message() for turn in one.turns), reply)
        for one in rivals
        for side, reply in (("first", one.first), ("second", one.second))
    ]
    results = scorer.score(requests)
    failures = [result for result in results if isinstance(result, ScoreFailure)]
    if len(failures) > MAX_FAILED_SHARE * len(requests):
        raise PairMakingError(
            f"{len(failures)} of {len(requests)} replies could not be scored, more than {MAX_FAILED_SHARE:.0%}. First: "
            f"{failures[0].server}: {failures[0].message}"
        )
    lines, left_out, won = [], Counter[LeftOut](), Counter[str]()
    for one, first, second in zip(rivals, results[::2], results[1::2], strict=True):
        if isinstance(first, ScoreFailure) or isinstance(second, ScoreFailure):
            left_out[LeftOut.NOT_SCORED] += 1
            continue
        margin = first.quality - second.quality
        if margin == 0 or abs(margin) < min_margin:
            left_out[LeftOut.TOO_NEAR] += 1
            continue
        won["first" if margin > 0 else "second"] += 1
        lines.append(json.dumps(_pair(one, first.quality, second.quality), ensure_ascii=False))
    return Made(tuple(lines), left_out, won)


def _pair(rivals: Rivals, first: float, second: float) -> dict[str, Any]:
    ordered = [("first", first, rivals.first), ("second", second, rivals.second)]
    (better, high, chosen), (_, low, rejected) = sorted(ordered, key=lambda entry: -entry[1])
    history = [turn.as_message() for turn in rivals.turns]
    words = {"id": rivals.name, "history": history, "chosen": chosen, "rejected": rejected}
    return words | {"quality": [high, low], "from": better}


def _parse(value: object, notes: Counter[Note]) -> Answered:
    fields = as_object(value)
    turns = parse_history(fields, notes)
    words = repr([(turn.role.value, turn.text) for turn in turns])
    name = blake2b(words.encode(), digest_size=8).hexdigest()
    return Answered(Conversation(name, turns), get_text(fields, "reply"))
