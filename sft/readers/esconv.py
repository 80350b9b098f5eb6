"""ESConv (Liu et al. 2021, arXiv 2106.01144; CC BY-NC 4.0): the LM and the strategy head.

Three shapes of one dialogue:
    the original  JSON array, {"dialog": [{"speaker": "seeker" | "supporter", "content",
                  "annotation": {"strategy"}}]}
    JSON Lines    {"conv_id": int, "turns": [{"role": "seeker" | "supporter", "text", "strategies": [...] | null}]}
    the hub's     {"dialog": [{"speaker": "usr" | "sys", "text", "strategy"}]}, or that as JSON in a column "text"

**Labels.** Every message of a supporter has at least one strategy. Consecutive messages of one person are one turn; its
label is the strategy of its first message (see `sft.strategies`). An opening of the supporter, before the seeker has
said anything, is dropped: it is no reply.

**Splits.** The original has none. Dialogues are split by a hash of their number in the original file, 80 : 10 : 10,
so the original and the rebuilt file agree on who is in which. The hub's own splits are kept.
`FailedESConv.json` (dialogues that did not help) names its roles otherwise, and is refused.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from dialogue.conversation import Conversation, Role
from dialogue.loaders import DataError
from dialogue.split import split_conversations
from sft.examples import Example, Loss, Source, Split
from sft.readers.fields import Said, as_object, as_turns, get, get_text, shown
from sft.readers.ledger import MAX_BAD_SHARE, BadRecord, Note, ReadReport, Reason, Record, read_records
from sft.readers.sources import find_file, hub_records, json_records, parse_json
from sft.strategies import Strategy, parse_strategy

FILES = ("ESConv.json", "esconv_rebuilt.jsonl")
ROLES = {"seeker": Role.SEEKER, "usr": Role.SEEKER, "supporter": Role.SUPPORTER, "sys": Role.SUPPORTER}
HELD_OUT = 0.1  # of the dialogues, for each of valid and test
SPLIT_SEED = 0


def read_esconv(source: str | Path, split: Split = Split.TRAIN, max_bad_share: float = MAX_BAD_SHARE) -> ReadReport:
    """Read one split.

    Args:
        source: a JSON or JSONL file, a folder, or a hub id such as `thu-coai/esconv`.

    Raises:
        DataError: it cannot be opened, or too many dialogues are bad.
    """
    file = find_file(source, FILES)
    records = _numbered(hub_records(source, split) if file is None else json_records(file))
    report = read_records(records, partial(_parse, split=split), str(file or source), split, max_bad_share)
    return report if file is None else _only(report, split, file)


def _only(report: ReadReport, split: Split, file: Path) -> ReadReport:
    """The examples of one split of a file that has none."""
    try:
        rest, test = split_conversations((e.conversation for e in report.examples), HELD_OUT, SPLIT_SEED)
        train, valid = split_conversations(rest, HELD_OUT / (1 - HELD_OUT), SPLIT_SEED + 1)
    except ValueError as error:
        raise DataError(f"{file}: {error}; three splits need at least 3 dialogues") from error
    chosen = {c.id for c in {Split.TRAIN: train, Split.VALID: valid, Split.TEST: test}[split]}
    return replace(report, examples=tuple(example for example in report.examples if example.id in chosen))


def _numbered(records: Iterable[Record]) -> Iterator[Record]:
    """(number, value) of each record: the original's dialogues have no id but their place."""
    for number, record in enumerate(records):
        value = record.value if isinstance(record.value, BadRecord) else (number, record.value)
        yield Record(record.place, value)


def _parse(numbered: tuple[int, object], notes: Counter[Note], split: Split) -> Example | None:
    number, value = numbered
    fields = as_object(value)
    if set(fields) == {"text"}:
        parsed = parse_json(get_text(fields, "text"))
        if isinstance(parsed, BadRecord):
            raise parsed
        fields = as_object(parsed)
    messages = get(fields, "turns", "dialog")
    if not isinstance(messages, list) or not messages:
        raise BadRecord(Reason.EMPTY_DIALOGUE, f"the turns are {shown(messages)}; expected a list that is not empty")
    turns = as_turns(itertools.chain.from_iterable(map(_messages, messages)), notes)
    if len(turns) < 2:
        notes[Note.NO_REPLY] += 1
        return None
    strategies = {index: label for index, (_, names) in enumerate(turns) if (label := _label(names, notes))}
    conversation = Conversation(
        f"esconv:{fields.get('conv_id', number)}", tuple(turn for turn, _ in turns), Source.ESCONV.value
    )
    losses = {Loss.LM, Loss.STRATEGY} if strategies else {Loss.LM}
    return Example(conversation, Source.ESCONV, split, frozenset(losses), strategies=strategies)


def _messages(value: object) -> Iterator[Said]:
    fields = as_object(value)
    written = get_text(fields, "role", "speaker")
    if written not in ROLES:
        raise BadRecord(Reason.UNKNOWN_ROLE, f"role {written!r}; expected {', '.join(ROLES)}")
    role = ROLES[written]
    yield Said(role, get_text(fields, "text", "content"), _strategies(fields) if role is Role.SUPPORTER else ())


def _strategies(fields: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the strategies of a supporter's message, at least one, each known."""
    annotation = fields.get("annotation") or {}
    names = get({**as_object(annotation), **fields}, "strategies", "strategy")
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise BadRecord(Reason.MISSING_FIELD, f"the strategy is {shown(names)}; expected a name or a list of names")
    for name in names:
        try:
            parse_strategy(name)
        except ValueError as error:
            raise BadRecord(Reason.UNKNOWN_LABEL, str(error)) from error
    return tuple(names)


def _label(names: tuple[str, ...], notes: Counter[Note]) -> Strategy | None:
    """The strategy of a turn: its first. None for a seeker's turn, and for a name that stands for two of the eight."""
    if not names:
        return None
    notes[Note.SEVERAL_STRATEGIES] += len(set(names)) > 1
    label = parse_strategy(names[0])
    notes[Note.STRATEGY_UNLABELLED] += label is None
    return label
