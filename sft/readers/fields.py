"""Reading fields of a record, and making turns of messages: the checks that the three readers share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from dialogue.conversation import Role, Turn
from sft.readers.ledger import BadRecord, Note, Reason

SHOWN = 60


def as_object(value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise BadRecord(Reason.MALFORMED, f"found {shown(value)}; expected an object with named fields")
    return value


def get(fields: Mapping[str, Any], *names: str) -> Any:
    """The first of `names` that is there and not null."""
    for name in names:
        if fields.get(name) is not None:
            return fields[name]
    raise BadRecord(Reason.MISSING_FIELD, f"no {' or '.join(map(repr, names))}; the fields are {', '.join(fields)}")


def get_text(fields: Mapping[str, Any], *names: str) -> str:
    """A text without outer white space, not empty, in valid Unicode."""
    value = get(fields, *names)
    if not isinstance(value, str):
        raise BadRecord(Reason.MALFORMED, f"{names[0]!r} is {shown(value)}; expected a text")
    if not value.strip():
        raise BadRecord(Reason.EMPTY_TEXT, f"{names[0]!r} is empty; expected what was said")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise BadRecord(Reason.MALFORMED, f"character {error.start} of {names[0]!r} is half of a pair") from error
    return value.strip()


def shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


@dataclass(frozen=True, slots=True)
class Said:
    """One message as the data holds it; `strategies` are names as written."""

    role: Role
    text: str
    strategies: tuple[str, ...] = ()


def as_turns(messages: Iterable[Said], notes: Counter[Note]) -> list[tuple[Turn, tuple[str, ...]]]:
    """Alternating turns that start with the seeker, each with the strategy names of its messages in order.

    Messages of one person in a row are joined by a space. What a supporter says before the seeker's first word is
    dropped: it answers nothing, and many chat templates refuse it. Both are counted.

    Raises:
        BadRecord: nothing is left.
    """
    turns: list[tuple[Turn, tuple[str, ...]]] = []
    for said in messages:
        if not turns and said.role is Role.SUPPORTER:
            notes[Note.OPENING_DROPPED] += 1
        elif turns and turns[-1][0].role is said.role:
            turn, strategies = turns[-1]
            turns[-1] = (Turn(turn.role, f"{turn.text} {said.text}"), strategies + said.strategies)
            notes[Note.TURNS_JOINED] += 1
        else:
            turns.append((Turn(said.role, said.text), said.strategies))
    if not turns:
        raise BadRecord(Reason.EMPTY_DIALOGUE, "no turn of the seeker; expected at least one")
    return turns
