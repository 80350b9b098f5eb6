"""Three candidates for every listener turn, of known worth (Yun 2025): the reply, a stripped one, somebody else's.

original   5.0   what the listener said
stripped   3.0   the same without its empathic clauses. Only where something was taken out and something is left:
                 else one text would be labelled 5 and 3 at once
random     1.5   a reply from another conversation of the same split about another feeling, so that no test text is
                 seen in training and no foreign reply fits by chance of theme
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from dialogue.conversation import Message
from dialogue.emotions import Feeling
from dialogue.sentences import split_sentences
from reward_servers.turn_scorers.dialogues import ListenerTurn, Split
from reward_servers.turn_scorers.items import is_empathic

_CLAUSE = re.compile(r"(?<=[,;:])\s+|\s+(?=(?:but|and|because)\s)|\s+[-–—]+\s+", re.IGNORECASE)
_DRAWS = 50
_LEAST_WORDS = 2  # of what is left of a stripped reply


class Kind(StrEnum):
    """Where a candidate comes from."""

    ORIGINAL = "original"
    STRIPPED = "stripped"
    RANDOM = "random"

    @property
    def seed_score(self) -> float:
        """The worth, from 1 to 5, that the pipeline takes for granted."""
        return {Kind.ORIGINAL: 5.0, Kind.STRIPPED: 3.0, Kind.RANDOM: 1.5}[self]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A reply to be labelled."""

    id: str
    conversation: str
    split: Split
    feeling: Feeling
    kind: Kind
    history: tuple[Message, ...]
    reply: str


def stripped(reply: str) -> str | None:
    """The reply without its empathic clauses; None where there is none, or hardly anything else."""
    clauses = [clause for sentence in split_sentences(reply) for clause in _CLAUSE.split(sentence) if clause.strip()]
    kept = [clause.strip() for clause in clauses if not is_empathic(clause)]
    if len(kept) == len(clauses):
        return None
    text = " ".join(kept).strip(" ,;:-–—")
    text = re.sub(r"^(?:but|and|because)\s+", "", text, flags=re.IGNORECASE)
    return text[:1].upper() + text[1:] if len(text.split()) >= _LEAST_WORDS else None


def candidates(
    turns: Sequence[ListenerTurn], seed: int, on_turn: Callable[[int, int], None] | None = None
) -> list[Candidate]:
    """All candidates of all turns, in order; equal turns and seed give equal ones. `on_turn` is told turns done."""
    pools = {split: [turn for turn in turns if turn.split is split] for split in Split}
    found: list[Candidate] = []
    for done, turn in enumerate(turns, start=1):
        found += _of_turn(turn, pools[turn.split], seed)
        if on_turn is not None:
            on_turn(done, len(turns))
    return found


def _of_turn(turn: ListenerTurn, pool: Sequence[ListenerTurn], seed: int) -> Iterator[Candidate]:
    yield _candidate(turn, Kind.ORIGINAL, turn.reply)
    plain = stripped(turn.reply)
    if plain is not None:
        yield _candidate(turn, Kind.STRIPPED, plain)
    foreign = _foreign(turn, pool, seed)
    if foreign is not None:
        yield _candidate(turn, Kind.RANDOM, foreign)


def _foreign(turn: ListenerTurn, pool: Sequence[ListenerTurn], seed: int) -> str | None:
    """Another conversation's reply; None where a small pool has none about another feeling."""
    draw = random.Random(f"{seed} {turn.id}")
    for _ in range(_DRAWS):
        other = draw.choice(pool)
        if other.conversation != turn.conversation and other.feeling is not turn.feeling and other.reply != turn.reply:
            return other.reply
    return None


def _candidate(turn: ListenerTurn, kind: Kind, reply: str) -> Candidate:
    return Candidate(f"{turn.id}/{kind}", turn.conversation, turn.split, turn.feeling, kind, turn.history, reply)
