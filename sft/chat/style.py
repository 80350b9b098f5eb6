"""Style tokens as the report has them, `<tone:warm><persona:best friend>`, before the seeker's turn.

A model that was not trained with them takes them as a hint at best. They are never shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

Word = TypeVar("Word", bound=StrEnum)


class StyleError(ValueError):
    """A tone or persona that is not in the vocabulary."""


class Tone(StrEnum):
    """How the reply sounds."""

    WARM = "warm"
    CALM = "calm"
    GENTLE = "gentle"
    HOPEFUL = "hopeful"
    PLAYFUL = "playful"


class Persona(StrEnum):
    """Who seems to speak. None is a professional: the model is not one."""

    BEST_FRIEND = "best friend"
    GOOD_LISTENER = "good listener"
    OLDER_SIBLING = "older sibling"
    PEER = "peer"


@dataclass(frozen=True, slots=True)
class Style:
    """What is asked for; None leaves the token out."""

    tone: Tone | None = Tone.WARM
    persona: Persona | None = Persona.BEST_FRIEND

    def prefix(self) -> str:
        """The tokens and a blank, or "" where there are none."""
        tone = f"<tone:{self.tone.value}>" if self.tone else ""
        persona = f"<persona:{self.persona.value}>" if self.persona else ""
        return f"{tone}{persona} " if tone or persona else ""


def parse_style(tone: str | None, persona: str | None) -> Style:
    """From words as they are typed; `none` and None leave a token out.

    Raises:
        StyleError: a word that is not in the vocabulary.
    """
    return Style(_member(Tone, tone), _member(Persona, persona))


def _member(kind: type[Word], name: str | None) -> Word | None:
    plain = " ".join((name or "none").replace("_", " ").replace("-", " ").split()).casefold()
    if plain == "none":
        return None
    try:
        return kind(plain)
    except ValueError as error:
        raise StyleError(f"{kind.__name__.lower()} {name!r}: expected none, or one of {', '.join(kind)}") from error
