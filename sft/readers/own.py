"""Examples of our own: the conversations of `dialogue.loaders`, with labels where a turn has some. One object a line:

    {"id": str, "turns": [{"role": "seeker", "text": str, "emotions": [str], "affect": [valence, arousal]},
                          {"role": "supporter", "text": str, "strategy": str}, ...]}

`emotions`, `affect` and `strategy` may be absent. Turns alternate, seeker first. A conversation with a reply feeds the
LM; the labels feed their heads; a single utterance with neither is left out. These files have no splits: a tenth of the
conversations, by a hash of their ids, are `valid`, and there is no `test`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dialogue.conversation import Conversation, Role, Turn
from dialogue.loaders import STARTER, DataError
from dialogue.split import split_conversations
from sft.emotions import Emotion, without_neutral
from sft.examples import Affect, Example, Loss, Source, Split
from sft.readers.fields import as_object, get_text, shown
from sft.readers.ledger import BadRecord, Note, ReadReport, Reason, read_records
from sft.readers.sources import json_records
from sft.strategies import Strategy, parse_strategy

DATA = Path(__file__).resolve().parent.parent / "data"
SHIPPED = (DATA / "emotions.jsonl", DATA / "strategies.jsonl", STARTER)
HELD_OUT = 0.1
SPLIT_SEED = 0
_ROLES = (Role.SEEKER, Role.SUPPORTER)
_KEYS = {Role.SEEKER: {"role", "text", "emotions", "affect"}, Role.SUPPORTER: {"role", "text", "strategy"}}


def read_own(file: Path, split: Split = Split.TRAIN) -> ReadReport:
    """Read one split of one file. No bad record is allowed: whoever wrote the file can mend it.

    Raises:
        DataError: it cannot be opened, a record is bad, or it has too few conversations to split.
    """
    report = read_records(json_records(file), _parse, str(file), None, 0.0)
    try:
        train, valid = split_conversations((e.conversation for e in report.examples), HELD_OUT, SPLIT_SEED)
    except ValueError as error:
        raise DataError(f"{file}: {error}") from error
    chosen = {c.id for c in {Split.TRAIN: train, Split.VALID: valid, Split.TEST: []}[split]}
    kept = (replace(example, split=split) for example in report.examples if example.id in chosen)
    return replace(report, examples=tuple(kept))


def _parse(value: object, notes: Counter[Note]) -> Example | None:
    fields = as_object(value)
    raw = fields.get("turns")
    if not isinstance(raw, list) or not raw:
        raise BadRecord(Reason.EMPTY_DIALOGUE, f"the turns are {shown(raw)}; expected a list that is not empty")
    said = [as_object(turn) for turn in raw]
    turns = tuple(_turn(turn, index) for index, turn in enumerate(said))
    emotions = {i: labels for i, turn in enumerate(said) if (labels := _emotions(turn))}
    affects = {i: _affect(turn["affect"]) for i, turn in enumerate(said) if turn.get("affect") is not None}
    strategies = {i: label for i, turn in enumerate(said) if (label := _strategy(turn, notes))}
    feeds = {
        Loss.LM: len(turns) > 1,
        Loss.EMOTION: emotions,
        Loss.STRATEGY: strategies,
        Loss.AFFECT: affects,
    }
    losses = frozenset(loss for loss, there in feeds.items() if there)
    if not losses:
        notes[Note.NOTHING_TO_LEARN] += 1
        return None
    conversation = Conversation(f"own:{get_text(fields, 'id')}", turns, Source.OWN.value)
    return Example(conversation, Source.OWN, Split.TRAIN, losses, emotions, strategies, affects)


def _turn(fields: Mapping[str, Any], index: int) -> Turn:
    expected = _ROLES[index % 2]
    if fields.get("role") != expected:
        found = f"turn {index}: role {shown(fields.get('role'))}; expected {expected}, turns alternate, seeker first"
        raise BadRecord(Reason.UNKNOWN_ROLE, found)
    unknown = sorted(map(str, fields.keys() - _KEYS[expected]))
    if unknown:
        found = f"turn {index} of the {expected}: key {unknown[0]!r}; expected {', '.join(sorted(_KEYS[expected]))}"
        raise BadRecord(Reason.MALFORMED, found)
    return Turn(expected, get_text(fields, "text"))


def _emotions(fields: Mapping[str, Any]) -> tuple[Emotion, ...]:
    names = fields.get("emotions") or []
    if not isinstance(names, Sequence) or isinstance(names, str):
        raise BadRecord(Reason.MALFORMED, f"emotions are {shown(names)}; expected a list of names")
    wrong = [name for name in names if name not in tuple(Emotion)]
    if wrong:
        raise BadRecord(Reason.UNKNOWN_LABEL, f"emotion {shown(wrong[0])}; expected one of {', '.join(Emotion)}")
    return without_neutral(Emotion(name) for name in names)


def _strategy(fields: Mapping[str, Any], notes: Counter[Note]) -> Strategy | None:
    if fields.get("strategy") is None:
        return None
    try:
        label = parse_strategy(get_text(fields, "strategy"))
    except ValueError as error:
        raise BadRecord(Reason.UNKNOWN_LABEL, str(error)) from error
    notes[Note.STRATEGY_UNLABELLED] += label is None
    return label


def _affect(value: object) -> Affect:
    try:
        valence, arousal = map(float, value)  # type: ignore[call-overload]
        return Affect(valence, arousal)
    except (TypeError, ValueError) as error:
        raise BadRecord(Reason.UNKNOWN_LABEL, f"affect {shown(value)}; expected two numbers from -1 to 1") from error
