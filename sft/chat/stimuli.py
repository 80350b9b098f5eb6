"""What the crisis detector is measured on: crisis prompts, and the everyday turns of two corpora, in two fixed halves.

    DIR/safety/mental_health_llm_eval/prompts.json                    a crisis by `crisis`, or by its category
    DIR/safety/llms_as_therapists/data/transcript_metadata.jsonl      clients' words filed as suicidal ideation
    DIR/empathetic_dialogues/conversations.jsonl, DIR/esconv/*.jsonl  every turn of the speaker or seeker

Which half something is in depends on nothing but its name, so a change of the rules cannot move it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from dialogue.loaders import DataError
from sft.readers.ledger import BadRecord
from sft.readers.sources import json_records

PROMPTS = Path("safety/mental_health_llm_eval/prompts.json")
TRANSCRIPTS = Path("safety/llms_as_therapists/data/transcript_metadata.jsonl")
EMPATHETIC = Path("empathetic_dialogues/conversations.jsonl")
ESCONV = Path("esconv/esconv_rebuilt.jsonl")
_QUOTES, _IDEATION = "condition_to_quote_gpt-4o-2024-08-06", "suicidal ideation"
_SPEAKER = {EMPATHETIC: "speaker", ESCONV: "seeker"}


class Half(StrEnum):
    """Which half of the data."""

    TUNING = "tuning"  # in view while the rules were written
    UNSEEN = "unseen"


@dataclass(frozen=True, slots=True)
class Stimulus:
    """One prompt. `crisis`: what its file says."""

    name: str
    category: str
    text: str
    crisis: bool

    @property
    def half(self) -> Half:
        return half_of(self.name)


@dataclass(frozen=True, slots=True)
class EverydayTurn:
    """One turn of a seeker: corpus ("ed" or "es"), conversation, index of the turn."""

    corpus: str
    conversation: str
    index: int
    text: str

    @property
    def half(self) -> Half:
        return half_of(self.corpus + self.conversation)

    @property
    def name(self) -> str:
        return f"{self.corpus} {self.conversation} {self.index}"


def half_of(name: str) -> Half:
    """By the lowest bit of the first byte of a SHA-256."""
    odd = hashlib.sha256(f"crisis-split/{name}".encode()).digest()[0] & 1
    return Half.UNSEEN if odd else Half.TUNING


def read_stimuli(data: Path) -> list[Stimulus]:
    """The crisis prompts and the other prompts of the same files.

    Raises:
        DataError: a file is missing or not what is expected.
    """
    found = []
    for where, entry in _objects(data / PROMPTS):
        category = _text(entry, "category", where)
        crisis = category == "crisis" or entry.get("crisis") is True
        found.append(Stimulus(_text(entry, "id", where), category, _text(entry, "text", where), crisis))
    for _, entry in _objects(data / TRANSCRIPTS):
        quotes = entry.get(_QUOTES)
        quote = quotes.get(_IDEATION) if isinstance(quotes, dict) else None
        if quote:
            found.append(Stimulus(f"transcript-{entry.get('index')}", _IDEATION, str(quote), True))
    if not any(one.crisis for one in found):
        raise DataError(f"{data / PROMPTS}, {data / TRANSCRIPTS}: no crisis prompt in either")
    return found


def read_everyday(data: Path) -> Iterator[EverydayTurn]:
    """Every turn of the two corpora whose speaker seeks company.

    Raises:
        DataError: a file is missing or not what is expected.
    """
    for corpus, file in (("ed", EMPATHETIC), ("es", ESCONV)):
        for where, entry in _objects(data / file):
            turns = entry.get("turns")
            if not isinstance(turns, list):
                raise DataError(f"{where}: key 'turns' must be a list")
            for index, turn in enumerate(turns):
                if not isinstance(turn, dict) or "role" not in turn or not isinstance(turn.get("text"), str):
                    raise DataError(f"{where}, turn {index}: expected an object with the keys 'role' and 'text'")
                if turn["role"] == _SPEAKER[file]:
                    yield EverydayTurn(corpus, str(entry.get("conv_id")), index, turn["text"])


def _objects(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if not file.is_file():
        raise DataError(f"{file}: there is no such file; give --data the folder that holds safety/, esconv/, ...")
    for record in json_records(file):
        if isinstance(record.value, BadRecord) or not isinstance(record.value, dict):
            raise DataError(f"{record.place}: expected a JSON object")
        yield record.place, record.value


def _text(entry: Mapping[str, Any], key: str, where: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: key {key!r} must be a text")
    return value
