"""Reading and writing conversations, with errors that say where and what.

Two formats, told apart by the first character of the file:

    `[`  MINT's JSON (arXiv 2604.11742), one array:
         {"conversation_id": str, "source": str, "model": str, "conversation": [{"role": ..., "content": str}, ...]}
    `{`  ours, JSON Lines, one conversation a line:
         {"id": str, "source": str (optional), "turns": [{"role": "seeker" | "supporter", "text": str}, ...]}

In both, a conversation starts with the seeker, alternates, has at least one supporter turn, no empty turn and an id of
its own; anything else is a `DataError`. One exception: chat logs hold messages that the seeker sent empty (14 of the
1,719 seeker turns in MINT's training set). Dropping such a turn would join two supporter turns into one, so in MINT's
format it becomes `SILENCE`, and a warning says how many there were.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dialogue.conversation import Conversation, Role, Turn

STARTER = Path(__file__).parent / "data" / "starter.jsonl"
SILENCE = "..."

_BOM = b"\xef\xbb\xbf"
_log = logging.getLogger(__name__)


class DataError(ValueError):
    """Conversations that cannot be used. The message names file, line, conversation and turn, and what is expected."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a file held.

    Attributes:
        conversations: in the order of the file, all valid.
        silent_turns: seeker turns that were empty and are now `SILENCE`.
    """

    conversations: tuple[Conversation, ...]
    silent_turns: int

    @property
    def supporter_turns(self) -> int:
        return sum(len(conversation.supporter_turns()) for conversation in self.conversations)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where in the data we are, for messages; `turn` is an index counted from 0."""

    file: str
    line: int | None = None
    entry: int | None = None
    conversation: str | None = None
    turn: int | None = None

    def error(self, found: str, expected: str) -> DataError:
        steps = [self.file]
        if self.line is not None:
            steps.append(f"line {self.line}")
        if self.entry is not None:
            steps.append(f"entry {self.entry}")
        if self.conversation is not None:
            steps.append(f"conversation {self.conversation!r}")
        if self.turn is not None:
            steps.append(f"turn {self.turn}")
        return DataError(f"{', '.join(steps)}: {found}; expected {expected}")

    def at(self, conversation: str, turn: int | None = None) -> _Place:
        return _Place(self.file, self.line, self.entry, conversation, turn)


@dataclass(frozen=True, slots=True)
class _Format:
    """The keys of one file format, and whether an empty seeker turn is a known thing in it."""

    id: str
    turns: str
    text: str
    allows_silence: bool


_MINT = _Format("conversation_id", "conversation", "content", allows_silence=True)
_OURS = _Format("id", "turns", "text", allows_silence=False)


def load_conversations(path: str | Path) -> list[Conversation]:
    """The conversations of `path`, or the shipped ones for the name `"starter"`.

    Raises:
        DataError: the file is missing, unreadable, empty or breaks a rule of the module's docstring.
    """
    return list(load_report(path).conversations)


def load_report(path: str | Path) -> Loaded:
    """As `load_conversations`, with the number of turns that were repaired."""
    file = STARTER if path == "starter" else Path(path)
    conversations: dict[str, Conversation] = {}
    silent = 0
    for place, raw, form in _entries(file):
        conversation, silent_here = _parse(raw, form, place)
        if conversation.id in conversations:
            raise place.at(conversation.id).error("this id was seen before in the file", "a different id for each")
        conversations[conversation.id] = conversation
        silent += silent_here
    if not conversations:
        raise _Place(str(file)).error("no conversation in the file", "at least one")
    if silent:
        _log.warning("%s: %d empty seeker turns were read as %r", file, silent, SILENCE)
    return Loaded(tuple(conversations.values()), silent)


def save_conversations(path: str | Path, conversations: Iterable[Conversation]) -> None:
    """Write our JSONL. The file appears whole or not at all: written beside its place, flushed to disk, then renamed.

    Raises:
        DataError: a conversation breaks a rule, so that `load_conversations` would refuse the file.
        OSError: the folder is missing or not writable.
    """
    file = Path(path)
    handle, temporary = tempfile.mkstemp(prefix=f".{file.name}.", suffix=".tmp", dir=file.parent)
    try:
        with os.fdopen(handle, "wb") as out:
            seen: set[str] = set()
            for entry, conversation in enumerate(conversations):
                out.write(_as_line(conversation, seen, _Place(str(file), line=entry + 1)))
            out.flush()
            os.fsync(out.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(file)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _as_line(conversation: Conversation, seen: set[str], place: _Place) -> bytes:
    record = {
        "id": conversation.id,
        "source": conversation.source,
        "turns": [{"role": turn.role.value, "text": turn.text} for turn in conversation.turns],
    }
    parsed, _ = _parse(record, _OURS, place)
    if parsed.id in seen:
        raise place.at(parsed.id).error("this id was written before", "a different id for each")
    seen.add(parsed.id)
    return json.dumps(record, ensure_ascii=False).encode() + b"\n"


def _entries(file: Path) -> Iterator[tuple[_Place, Any, _Format]]:
    """Every conversation of the file as parsed JSON, with its place and its format."""
    place = _Place(str(file))
    try:
        with file.open("rb") as stream:
            first = _first_character(stream.read(4096))
            stream.seek(0)
            if first == b"[":
                array = _decode(stream.read(), place)
                yield from ((_Place(str(file), entry=i), raw, _MINT) for i, raw in enumerate(array))
            elif first == b"{":
                yield from _lines(stream, place)
            else:
                found = f"the file starts with {first!r}" if first else "the file is empty"
                raise place.error(
                    found,
                    "a JSON array (MINT's format) or one JSON object a line (ours)",
                )
    except OSError as error:
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else str(error)
        raise place.error(reason, "a readable .json or .jsonl file, or the name 'starter'") from error


def _first_character(head: bytes) -> bytes:
    return head.removeprefix(_BOM).lstrip()[:1]


def _lines(stream: Iterable[bytes], place: _Place) -> Iterator[tuple[_Place, Any, _Format]]:
    for number, line in enumerate(stream, start=1):
        if line.removeprefix(_BOM).strip():
            here = _Place(place.file, line=number)
            yield here, _decode(line, here), _OURS


def _decode(data: bytes, place: _Place) -> Any:
    try:
        return json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise place.error(f"byte {error.start} is not UTF-8 ({data[error.start]:#04x})", "UTF-8 text") from error
    except json.JSONDecodeError as error:
        where = f"column {error.colno}" if place.line else f"line {error.lineno}, column {error.colno}"
        expected = "whole, valid JSON (is the file cut off?)"
        raise place.error(f"not valid JSON at {where}: {error.msg}", expected) from error
    except RecursionError as error:
        raise place.error("JSON nested too deeply to read", "a flat list of turns") from error


def _parse(raw: object, form: _Format, place: _Place) -> tuple[Conversation, int]:
    """One validated conversation, and how many silent seeker turns it had."""
    record = _record(raw, (form.id, form.turns), place)
    conversation_id = record[form.id]
    if not isinstance(conversation_id, str) or not conversation_id.strip():
        raise place.error(f"{form.id!r} is {_shown(conversation_id)}", "a non-empty string")
    _check_encodable(conversation_id, place)
    place = place.at(conversation_id)
    source = record.get("source", "")
    if not isinstance(source, str):
        raise place.error(f"'source' is {_shown(source)}", "a string")
    _check_encodable(source, place)
    if not isinstance(record[form.turns], list):
        raise place.error(f"{form.turns!r} is {_shown(record[form.turns])}", "a list of turns")
    parsed = [
        _parse_turn(raw_turn, form, place.at(conversation_id, i)) for i, raw_turn in enumerate(record[form.turns])
    ]
    turns = tuple(turn for turn, _ in parsed)
    _check_order(turns, place)
    return Conversation(conversation_id, turns, source), sum(silent for _, silent in parsed)


def _parse_turn(raw: object, form: _Format, place: _Place) -> tuple[Turn, bool]:
    """One turn, and whether it was a silent one."""
    record = _record(raw, ("role", form.text), place)
    role, text = record["role"], record[form.text]
    if not isinstance(role, str) or role not in tuple(Role):
        raise place.error(f"the role is {_shown(role)}", "'seeker' or 'supporter'")
    if not isinstance(text, str):
        raise place.error(f"{form.text!r} is {_shown(text)}", "a string")
    _check_encodable(text, place)
    silent = not text.strip()
    if silent and not (form.allows_silence and role == Role.SEEKER):
        raise place.error(f"{form.text!r} is empty", "what was said")
    return Turn(Role(role), SILENCE if silent else text.strip()), silent


def _record(raw: object, keys: tuple[str, ...], place: _Place) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise place.error(
            f"found {_shown(raw)}",
            f"an object with the keys {', '.join(map(repr, keys))}",
        )
    missing = [key for key in keys if key not in raw]
    if missing:
        found = f"missing {', '.join(map(repr, missing))}; the keys are {', '.join(map(repr, raw)) or 'none'}"
        raise place.error(found, " and ".join(map(repr, keys)))
    return raw


def _check_order(turns: Sequence[Turn], place: _Place) -> None:
    """Seeker first, then in turns, and at least one supporter turn."""
    if not turns:
        raise place.error("no turns", "at least a seeker turn and a supporter turn")
    conversation_id = place.conversation or ""
    for i, turn in enumerate(turns):
        due = Role.SEEKER if i % 2 == 0 else Role.SUPPORTER
        if turn.role is not due:
            after = f"after another {turn.role} turn" if i else "at the start"
            raise place.at(conversation_id, i).error(f"a {turn.role} turn {after}", f"a {due} turn here")
    if len(turns) < 2:
        raise place.error("no supporter turn", "at least one")


def _check_encodable(text: str, place: _Place) -> None:
    """JSON can spell half of a surrogate pair, which no tokenizer can read."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise place.error(f"character {error.start} is half of a surrogate pair", "valid Unicode") from error


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=True, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
