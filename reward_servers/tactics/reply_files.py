"""Files with replies in them, whatever their layout: where each reply stands, and where its tags are to go.

[{"conversation": [...]}, ...]      MINT's conversations: every supporter turn is a reply
[{"model_response": ...}, ...]      MINT's outputs of a system: one reply each
{"turns": [...]} a line             our conversations: every supporter turn is a reply
{"response": ...} a line            replies alone
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from dialogue.conversation import Role
from dialogue.loaders import load_report
from dialogue.sentences import split_sentences
from dialogue.tactics import TACTICS, Tactic, count_tactics


class TagFileError(ValueError):
    """A line or a path cannot be used. The message names the file, the line and what would be right."""


class Layout(StrEnum):
    """How the replies of a file are arranged."""

    MINT = "MINT conversations"
    OUTPUTS = "outputs of a system"
    CONVERSATIONS = "conversations"
    REPLIES = "replies"

    @property
    def is_array(self) -> bool:
        return self in (Layout.MINT, Layout.OUTPUTS)


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply of a file.

    Attributes:
        record: the object that holds the reply, which takes its tags.
        where: file and place in it, for errors.
        text: the reply.
        sentences: the reply cut, by the file or by us.
        given: the tactics that the file says each sentence has, if it does.
    """

    record: dict[str, Any]
    where: str
    text: str
    sentences: tuple[str, ...]
    given: tuple[frozenset[Tactic], ...] | None


@dataclass(frozen=True, slots=True)
class ReplyFile:
    """A whole file: `entries` is what is written again, `replies` point into it."""

    layout: Layout
    entries: list[dict[str, Any]]
    replies: tuple[Reply, ...]

    def add_tags(self, reply: Reply, tactics: tuple[tuple[Tactic, ...], ...], probabilities: list[list[float]]) -> None:
        """Write a reply's tags into its place; other keys stay as they are."""
        reply.record["sentences"] = list(reply.sentences)
        reply.record["sentence_tactics"] = [[tactic.value for tactic in names] for names in tactics]
        if self.layout is not Layout.REPLIES:
            counted = zip(TACTICS, count_tactics(tactics), strict=True)
            reply.record["tactic_counts"] = {tactic.value: n for tactic, n in counted if n}
        reply.record["sentence_tactic_probabilities"] = probabilities

    def as_text(self) -> str:
        if self.layout.is_array:
            return json.dumps(self.entries, ensure_ascii=False, indent=1) + "\n"
        return "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in self.entries)


def read_replies(source: Path) -> ReplyFile:
    """All of a file, checked.

    Raises:
        TagFileError: there is no such file, or a part of it is not as above.
        DataError: conversations that break a rule of `dialogue.loaders`.
    """
    if not source.is_file():
        raise TagFileError(f"{source}: no such file")
    data = source.read_bytes().removeprefix(b"\xef\xbb\xbf")
    if data.lstrip()[:1] == b"[":
        entries = _parsed(data, str(source))
        named = [(f"{source}, entry {i}", entry) for i, entry in enumerate(entries)]
    else:
        lines = enumerate(data.splitlines(), start=1)
        numbered = [(f"{source}, line {i}", line) for i, line in lines if line.strip()]
        named = [(where, _parsed(line, where)) for where, line in numbered]
    for where, entry in named:
        if not isinstance(entry, dict):
            raise TagFileError(f"{where}: expected an object, found {type(entry).__name__}")
    layout = _layout(data, named)
    if layout in (Layout.MINT, Layout.CONVERSATIONS):
        load_report(source)  # says what is wrong with a conversation
    replies = tuple(reply for where, entry in named for reply in _replies(entry, layout, where))
    return ReplyFile(layout, [entry for _, entry in named], replies)


def _layout(data: bytes, named: list[tuple[str, Any]]) -> Layout:
    """That of the first entry; one of another layout is then told as an error."""
    keys = named[0][1].keys() if named else {"response"}
    if data.lstrip()[:1] == b"[":
        if "conversation" in keys or "model_response" in keys:
            return Layout.MINT if "conversation" in keys else Layout.OUTPUTS
        raise TagFileError(f'{named[0][0]}: expected "conversation" or "model_response", found {", ".join(keys)}')
    return Layout.CONVERSATIONS if "turns" in keys else Layout.REPLIES


def _replies(entry: dict[str, Any], layout: Layout, where: str) -> Iterator[Reply]:
    if layout is Layout.MINT or layout is Layout.CONVERSATIONS:
        turns, key = ("conversation", "content") if layout is Layout.MINT else ("turns", "text")
        for number, turn in enumerate(entry[turns]):
            if turn["role"] == Role.SUPPORTER:
                yield _reply(turn, key, f"{where}, turn {number}")
    else:
        yield _reply(entry, "model_response" if layout is Layout.OUTPUTS else "response", where)


def _reply(record: dict[str, Any], key: str, where: str) -> Reply:
    text = record.get(key)
    if not isinstance(text, str):
        raise TagFileError(f'{where}: "{key}" must be there and be a text')
    given = record.get("sentences", [])
    if not isinstance(given, list) or not all(isinstance(s, str) for s in given):
        raise TagFileError(f'{where}: "sentences" must be a list of texts')
    sentences = tuple(given) if "sentences" in record else tuple(split_sentences(text))
    return Reply(record, where, text, sentences, _given_tactics(record, where))


def _given_tactics(record: dict[str, Any], where: str) -> tuple[frozenset[Tactic], ...] | None:
    if "sentence_tactics" not in record:
        return None
    try:
        return tuple(frozenset(Tactic(name) for name in names) for names in record["sentence_tactics"])
    except (TypeError, ValueError) as error:
        raise TagFileError(f'{where}: "sentence_tactics" must be a list of lists of tactics ({error})') from error


def _parsed(data: bytes, where: str) -> Any:
    try:
        return json.loads(data.decode("utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise TagFileError(f"{where}: not JSON ({error})") from error
