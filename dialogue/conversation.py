"""What a conversation is: turns of a seeker and a supporter, and its view as chat messages."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypedDict


class Role(StrEnum):
    """Who speaks. The chat models' `user` is our seeker, their `assistant` our supporter."""

    SEEKER = "seeker"
    SUPPORTER = "supporter"


class Message(TypedDict):
    """One chat message as every chat template takes it; `role` is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Turn:
    """One utterance: never empty, `text` stripped of outer white space."""

    role: Role
    text: str

    def as_message(self) -> Message:
        return {
            "role": "user" if self.role is Role.SEEKER else "assistant",
            "content": self.text,
        }


@dataclass(frozen=True, slots=True)
class Conversation:
    """A dialogue that starts with the seeker and alternates; validated by the loaders in `dialogue.loaders`."""

    id: str
    turns: tuple[Turn, ...]
    source: str = ""

    def supporter_turns(self) -> tuple[int, ...]:
        """Indices into `turns` of the supporter's turns, each of which is one RL step in MINT."""
        return tuple(i for i, turn in enumerate(self.turns) if turn.role is Role.SUPPORTER)

    def history(self, turn_index: int) -> tuple[Turn, ...]:
        """The turns before `turn_index`: what a reply at that place is conditioned on."""
        return self.turns[:turn_index]

    def previous_supporter_turn(self, turn_index: int) -> Turn | None:
        """The supporter's last turn before `turn_index`, or None where there is none yet."""
        return next(
            (turn for turn in reversed(self.history(turn_index)) if turn.role is Role.SUPPORTER),
            None,
        )
