"""EmpatheticDialogues (Rashkin et al. 2019, arXiv 1811.00207; CC BY-NC 4.0): the LM and, by a map, the emotion head.

Two shapes:
    the original   CSV without quotes (a comma in a text is `_comma_`), or the same with tabs; one utterance a row:
                   conv_id, utterance_idx, context, prompt, speaker_idx, utterance, selfeval, tags[, candidates]
    JSON Lines     {"conv_id", "emotion", "situation", "split", "turns": [{"role": "speaker" | "listener", "text"}]}

**Who is who.** `speaker_idx` is the number of a crowd worker and says nothing about the role: 0 and 1, or 389 and 411,
in either order. The worker of utterance 1 told of the situation: that is the speaker, our seeker; the other one is the
listener, our supporter. Utterances are put in order by their number, which must run from 1 without a gap.

**The emotion** is that of the situation, which the speaker's first turn tells. Only that turn is labelled: later ones
are often thanks or answers that no longer show it. Words without a class in the map (`sft.emotions`) give no label.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from dialogue.conversation import Conversation, Role
from dialogue.loaders import DataError
from sft.emotions import Feeling, emotion_of
from sft.examples import Example, Loss, Source, Split
from sft.readers.fields import Said, as_object, as_turns, get, get_text, shown
from sft.readers.ledger import MAX_BAD_SHARE, BadRecord, Note, ReadReport, Reason, Record, read_records
from sft.readers.sources import find_file, hub_records, is_json, json_records, read_lines

COLUMNS = ("conv_id", "utterance_idx", "context", "speaker_idx", "utterance")
JSONL = "conversations.jsonl"
FILES = {
    Split.TRAIN: (JSONL, "train.csv", "train.tsv"),
    Split.VALID: (JSONL, "valid.csv", "valid.tsv"),
    Split.TEST: (JSONL, "test.csv", "test.tsv"),
}
ROLES = {"speaker": Role.SEEKER, "listener": Role.SUPPORTER}


def read_empathetic_dialogues(
    source: str | Path, split: Split = Split.TRAIN, max_bad_share: float = MAX_BAD_SHARE
) -> ReadReport:
    """Read one split.

    Args:
        source: a file, a folder, or a hub id such as `facebook/empathetic_dialogues`. A CSV file is taken to be the
            split that is asked for: its rows do not say.

    Raises:
        DataError: it cannot be opened, a column is missing, or too many conversations are bad.
    """
    file = find_file(source, FILES[split])
    if file is not None and is_json(file):
        return read_records(json_records(file), _parse_object, str(file), split, max_bad_share)
    rows = hub_records(source, split) if file is None else _table_rows(file)
    parse = partial(_parse_utterances, split=split)
    return read_records(_by_conversation(rows), parse, str(file or source), split, max_bad_share)


def _table_rows(path: Path) -> Iterator[Record]:
    """The rows of the original files. Quotes in them are plain characters, so no CSV parser may read them."""
    lines = read_lines(path)
    _, header = next(lines, (1, ""))
    delimiter = "\t" if "\t" in header else ","
    columns = header.split(delimiter)
    missing = [column for column in COLUMNS if column not in columns]
    if missing:
        raise DataError(f"{path}, line 1: missing column {', '.join(missing)}; the columns are {', '.join(columns)}")
    for number, line in lines:
        if not line:
            continue
        values = line.split(delimiter)
        fields: dict[str, Any] = dict(zip(columns, values, strict=False))
        # The test file has one more column, without a name: candidates for a retrieval task.
        if len(values) not in (len(columns), len(columns) + 1):
            found = f"{len(values)} columns; expected {len(columns)} (a comma in a text is written _comma_)"
            fields["fault"] = BadRecord(Reason.MALFORMED, found)
        yield Record(f"{path}, line {number}", fields)


def _by_conversation(rows: Iterable[Record]) -> Iterator[Record]:
    """One record per conversation, its value the records of its rows, in the order of their first rows."""
    groups: dict[object, list[Record]] = {}
    for row in rows:
        groups.setdefault(row.value.get("conv_id"), []).append(row)
    yield from (Record(group[0].place, group) for group in groups.values())


def _parse_utterances(rows: Sequence[Record], notes: Counter[Note], split: Split) -> Example | None:
    utterances: dict[int, tuple[str, str]] = {}
    feelings: set[str] = set()
    for row in rows:
        try:
            number, worker, text = _parse_utterance(row.value)
            if number in utterances:
                raise BadRecord(Reason.MISSING_UTTERANCE, f"utterance {number} is there twice; expected once")
            feelings.add(get_text(row.value, "context"))
        except BadRecord as error:
            raise BadRecord(error.reason, str(error), row.place) from error
        utterances[number] = worker, text
    if sorted(utterances) != list(range(1, len(utterances) + 1)):
        found = f"utterances {sorted(utterances)}; expected 1 to {len(utterances)}"
        raise BadRecord(Reason.MISSING_UTTERANCE, found)
    if len(feelings) > 1:
        raise BadRecord(Reason.ROWS_DISAGREE, f"several emotions: {', '.join(sorted(feelings))}; expected one")
    messages = _by_role([utterances[number] for number in sorted(utterances)])
    return _example(get_text(rows[0].value, "conv_id"), feelings.pop(), split, messages, notes)


def _parse_utterance(fields: Mapping[str, Any]) -> tuple[int, str, str]:
    """Number, worker and text of one row."""
    if isinstance(fields.get("fault"), BadRecord):
        raise fields["fault"]
    number = str(get(fields, "utterance_idx"))
    if not number.isascii() or not number.isdigit():
        raise BadRecord(Reason.MALFORMED, f"utterance_idx is {shown(number)}; expected a whole number")
    return int(number), str(get(fields, "speaker_idx")), get_text(fields, "utterance").replace("_comma_", ",")


def _by_role(utterances: Sequence[tuple[str, str]]) -> list[Said]:
    """(worker, text) in order -> messages; who speaks first is the seeker."""
    workers = list(dict.fromkeys(worker for worker, _ in utterances))
    if len(workers) > 2:
        raise BadRecord(Reason.TOO_MANY_WORKERS, f"workers {', '.join(workers)}; expected one or two")
    return [Said(Role.SEEKER if worker == workers[0] else Role.SUPPORTER, text) for worker, text in utterances]


def _parse_object(value: object, notes: Counter[Note]) -> Example | None:
    fields = as_object(value)
    written = get_text(fields, "split")
    if written not in tuple(Split):
        raise BadRecord(Reason.UNKNOWN_SPLIT, f"split {written!r}; expected one of {', '.join(Split)}")
    turns = get(fields, "turns")
    if not isinstance(turns, list) or not turns:
        raise BadRecord(Reason.EMPTY_DIALOGUE, f"'turns' is {shown(turns)}; expected a list with at least one turn")
    messages = [_parse_message(turn) for turn in turns]
    return _example(get_text(fields, "conv_id"), get_text(fields, "emotion"), Split(written), messages, notes)


def _parse_message(value: object) -> Said:
    fields = as_object(value)
    role = get_text(fields, "role")
    if role not in ROLES:
        raise BadRecord(Reason.UNKNOWN_ROLE, f"role {role!r}; expected speaker or listener")
    return Said(ROLES[role], get_text(fields, "text"))


def _example(
    conversation_id: str, written: str, split: Split, messages: Iterable[Said], notes: Counter[Note]
) -> Example | None:
    """None where the emotion has no class and nobody replied."""
    if written not in tuple(Feeling):
        raise BadRecord(Reason.UNKNOWN_LABEL, f"emotion {written!r}; expected one of the 32 of EmpatheticDialogues")
    turns = tuple(turn for turn, _ in as_turns(messages, notes))
    emotion = emotion_of(Feeling(written))
    losses = {Loss.LM} if len(turns) > 1 else set()
    notes[Note.NO_REPLY] += len(turns) == 1
    if emotion is None:
        notes[Note.FEELING_UNMAPPED] += 1
    else:
        losses.add(Loss.EMOTION)
    if not losses:
        return None
    conversation = Conversation(conversation_id, turns, Source.EMPATHETIC_DIALOGUES.value)
    emotions = {} if emotion is None else {0: (emotion,)}
    return Example(conversation, Source.EMPATHETIC_DIALOGUES, split, frozenset(losses), emotions=emotions)
