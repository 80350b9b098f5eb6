"""The hybrid label (Yun 2025), and the file that holds labelled replies.

    y = clip(0.2 (1 + 4 rule / 5) + 0.3 (1 + 4 llm / 5) + 0.5 seed, 1, 5)

rule and llm are sums of five 0/1 items, once by a formula (`items`), once by a language model (`llm_items`); seed is
the worth that the augmentation gives (`augment`). A foreign reply has rule = llm = 0, so its label is always 1.25.

Half of the label is the augmentation's, so it is close to a three-level code of it. `explained_by_kind` says how close,
and `rapport scorer eval` reports the agreement within the listener's own replies beside that over all of them.

Without a language model the two other parts keep their proportion: y = (0.2 rule' + 0.5 seed) / 0.7. That is another
label; a file holds one or the other, never both.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dialogue.conversation import Message
from dialogue.emotions import Feeling
from reward_servers.protocol import ScoreRequest
from reward_servers.turn_scorers.augment import Candidate, Kind
from reward_servers.turn_scorers.dialogues import Split
from reward_servers.turn_scorers.items import Item, Items, formula_items

LOWEST, HIGHEST = 1.0, 5.0
RULE_WEIGHT, LLM_WEIGHT, SEED_WEIGHT = 0.2, 0.3, 0.5
NO_ITEMS: Items = (0,) * len(Item)


class LabelError(ValueError):
    """A file of labels that cannot be used. The message names file, line and what is expected."""


@dataclass(frozen=True, slots=True)
class LabelledReply:
    """One reply with its label.

    Attributes:
        llm: None throughout a file that was made without a language model.
        label: from 1 to 5.
    """

    id: str
    conversation: str
    split: Split
    feeling: Feeling
    kind: Kind
    history: tuple[Message, ...]
    reply: str
    rule: Items
    llm: Items | None
    label: float

    @property
    def request(self) -> ScoreRequest:
        return ScoreRequest(self.id, self.history, self.reply)


def hybrid_label(kind: Kind, rule: Items, llm: Items | None) -> float:
    """The label of the module's formula, from 1 to 5."""
    parts = [(RULE_WEIGHT, 1 + 4 * sum(rule) / len(Item)), (SEED_WEIGHT, kind.seed_score)]
    if llm is not None:
        parts.append((LLM_WEIGHT, 1 + 4 * sum(llm) / len(Item)))
    value = sum(weight * part for weight, part in parts) / sum(weight for weight, _ in parts)
    return min(max(value, LOWEST), HIGHEST)


def labelled(candidate: Candidate, llm: Items | None) -> LabelledReply:
    """A candidate with its label; `llm` is not looked at for a foreign reply but for whether there is one."""
    foreign = candidate.kind is Kind.RANDOM
    rule = NO_ITEMS if foreign else formula_items(candidate.history, candidate.reply)
    llm = NO_ITEMS if foreign and llm is not None else llm
    fields = {name: getattr(candidate, name) for name in Candidate.__slots__}  # type: ignore[attr-defined]
    return LabelledReply(**fields, rule=rule, llm=llm, label=hybrid_label(candidate.kind, rule, llm))


def explained_by_kind(replies: Sequence[LabelledReply]) -> float:
    """Share of the labels' variance that the kind of candidate alone explains (eta squared), 0 to 1."""
    labels = np.array([reply.label for reply in replies])
    kinds = np.array([reply.kind for reply in replies])
    total = float(((labels - labels.mean()) ** 2).sum())
    within = sum(float(((labels[kinds == k] - labels[kinds == k].mean()) ** 2).sum()) for k in set(kinds.tolist()))
    return 1 - within / total if total else float("nan")


def write_labels(path: Path, replies: Iterable[LabelledReply]) -> None:
    """Write one reply a line. The file appears whole or not at all."""
    part = path.with_name(f".{path.name}.part{os.getpid()}")
    try:
        with part.open("w", encoding="utf-8") as out:
            out.writelines(json.dumps(asdict(reply), ensure_ascii=False) + "\n" for reply in replies)
        part.replace(path)
    except OSError as error:
        raise LabelError(f"cannot write {path}: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)


def read_labels(path: Path) -> list[LabelledReply]:
    """The replies of a file that `rapport scorer label` wrote.

    Raises:
        LabelError: no such file, a faulty line, a label that its parts do not give, or labels of both formulae.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # a text may hold other line separators
    except (OSError, UnicodeDecodeError) as error:
        raise LabelError(f"{path}: cannot be read ({error}); `rapport scorer label` makes it") from error
    replies = [_parse(line, f"{path}, line {n}") for n, line in enumerate(lines, start=1) if line.strip()]
    if not replies:
        raise LabelError(f"{path}: no labelled reply")
    if len({reply.llm is None for reply in replies}) > 1:
        raise LabelError(f"{path}: some labels have a language model's part and some have not; make the file again")
    return replies


def digest(replies: Sequence[LabelledReply]) -> str:
    """Names the content: 12 hexadecimal digits."""
    rows = json.dumps([asdict(reply) for reply in replies], sort_keys=True)
    return hashlib.sha256(rows.encode()).hexdigest()[:12]


def _parse(line: str, where: str) -> LabelledReply:
    try:
        entry: Any = json.loads(line)
        llm = None if entry["llm"] is None else _items(entry["llm"])
        reply = LabelledReply(
            id=str(entry["id"]),
            conversation=str(entry["conversation"]),
            split=Split(entry["split"]),
            feeling=Feeling(entry["feeling"]),
            kind=Kind(entry["kind"]),
            history=tuple(Message(role=str(m["role"]), content=str(m["content"])) for m in entry["history"]),
            reply=str(entry["reply"]),
            rule=_items(entry["rule"]),
            llm=llm,
            label=float(entry["label"]),
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise LabelError(f"{where}: not a labelled reply ({type(error).__name__}: {error})") from error
    wanted = hybrid_label(reply.kind, reply.rule, reply.llm)
    if not abs(reply.label - wanted) < 1e-6:
        raise LabelError(f"{where}: label {reply.label:g}, but its parts give {wanted:g}; make the file again")
    return reply


def _items(value: object) -> Items:
    if (
        not isinstance(value, list)
        or len(value) != len(Item)
        or any(type(v) is not int or v not in (0, 1) for v in value)
    ):
        raise ValueError(f"items are {value!r:.40}; expected five numbers 0 or 1")
    return tuple(value)
