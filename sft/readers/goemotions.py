"""GoEmotions (Demszky et al. 2020, arXiv 2005.00547; CC BY 4.0): the emotion head, and nothing else.

Two shapes:
    TSV      text <tab> label numbers joined by commas <tab> id; no header, no quotes
    the hub  {"text": str, "labels": [int], "id": str}, configuration `simplified`

Each row is one comment from Reddit and becomes one seeker turn without a reply: nobody answered it, so it cannot feed
the language model. What is done with several labels and with neutral is said in `sft.emotions`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from dialogue.conversation import Conversation, Role, Turn
from dialogue.loaders import DataError
from sft.emotions import LABELS, Emotion, without_neutral
from sft.examples import Example, Loss, Source, Split
from sft.readers.fields import as_object, get, get_text, shown
from sft.readers.ledger import MAX_BAD_SHARE, BadRecord, Note, ReadReport, Reason, Record, read_records
from sft.readers.sources import find_file, hub_records, read_lines

FILES = {Split.TRAIN: ("train.tsv",), Split.VALID: ("dev.tsv", "valid.tsv"), Split.TEST: ("test.tsv",)}
NAMES_FILE = "labels.txt"
HUB_CONFIG = "simplified"
COLUMNS = ("text", "labels", "id")


def read_goemotions(source: str | Path, split: Split = Split.TRAIN, max_bad_share: float = MAX_BAD_SHARE) -> ReadReport:
    """Read one split.

    Args:
        source: a TSV file (taken to be the split that is asked for), a folder, or a hub id such as
            `google-research-datasets/go_emotions`.

    Raises:
        DataError: it cannot be opened, the `labels.txt` beside it lists other names, or too many rows are bad.
    """
    file = find_file(source, FILES[split])
    if file is not None:
        _check_names(file.with_name(NAMES_FILE))
    records = hub_records(source, split, HUB_CONFIG) if file is None else _rows(file)
    return read_records(records, partial(_parse, split=split), str(file or source), split, max_bad_share)


def _check_names(path: Path) -> None:
    """The numbers in the rows mean what we take them for."""
    if not path.is_file():
        return
    names = [line.strip() for _, line in read_lines(path) if line.strip()]
    if names != list(LABELS):
        wrong = next((n for n, pair in enumerate(zip(names, LABELS, strict=False)) if pair[0] != pair[1]), len(names))
        raise DataError(f"{path}: label {wrong} is not GoEmotions' own; expected its 28 names in its order")


def _rows(path: Path) -> Iterator[Record]:
    for number, line in read_lines(path):
        if line:
            values = line.split("\t")
            found = f"{len(values)} columns; expected text, labels and id with tabs between them"
            whole = len(values) == len(COLUMNS)
            fields = dict(zip(COLUMNS, values, strict=True)) if whole else BadRecord(Reason.MALFORMED, found)
            yield Record(f"{path}, line {number}", fields)


def _parse(value: object, notes: Counter[Note], split: Split) -> Example | None:
    fields = as_object(value)
    text = get_text(fields, "text")
    labels = _labels(get(fields, "labels"))
    emotions = without_neutral(labels)
    if not emotions:
        notes[Note.NOTHING_TO_LEARN] += 1
        return None
    notes[Note.NEUTRAL_IGNORED] += Emotion.NEUTRAL in labels
    conversation = Conversation(
        f"goemotions:{get_text(fields, 'id')}", (Turn(Role.SEEKER, text),), Source.GOEMOTIONS.value
    )
    return Example(conversation, Source.GOEMOTIONS, split, frozenset({Loss.EMOTION}), emotions={0: emotions})


def _labels(written: Any) -> Sequence[Emotion]:
    """From "2,27" or [2, 27] to emotions; at least one."""
    numbers = written.split(",") if isinstance(written, str) else written
    if not isinstance(numbers, list) or not numbers:
        raise BadRecord(Reason.MISSING_FIELD, f"the labels are {shown(written)}; expected numbers from 0 to 27")
    return [_label(str(number).strip()) for number in numbers]


def _label(number: str) -> Emotion:
    if not number.isascii() or not number.isdigit() or int(number) >= len(LABELS):
        raise BadRecord(Reason.UNKNOWN_LABEL, f"label {shown(number)}; expected a number from 0 to {len(LABELS) - 1}")
    return LABELS[int(number)]
