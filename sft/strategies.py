"""The eight support strategies of ESConv (Liu et al. 2021, arXiv 2106.01144), spelled as its files spell them.

Note the small f of "Reflection of feelings": a list that spells it otherwise loses a tenth of the labels. Names are
compared without regard to case, and the brackets of the data's `strategy.json` are taken off. A name that is none of
the eight is an error and never "Others".

A supporter who sends several messages in a row may use a strategy for each. The messages are one reply, and its label
is the strategy of the first: that is what the state before the reply can foretell.
"""

from __future__ import annotations

from enum import StrEnum


class Strategy(StrEnum):
    """One way to support. The order of the members is that of the data's list and of the head's outputs."""

    QUESTION = "Question"
    RESTATEMENT = "Restatement or Paraphrasing"
    REFLECTION = "Reflection of feelings"
    SELF_DISCLOSURE = "Self-disclosure"
    AFFIRMATION = "Affirmation and Reassurance"
    SUGGESTIONS = "Providing Suggestions"
    INFORMATION = "Information"
    OTHERS = "Others"


STRATEGIES: tuple[Strategy, ...] = tuple(Strategy)

# One rebuilt copy of ESConv merges two of the eight. Such a turn keeps its text and gets no label.
MERGED = "providing suggestions or information"

_BY_NAME = {strategy.value.casefold(): strategy for strategy in Strategy}


def parse_strategy(name: str) -> Strategy | None:
    """The strategy of this name, None for the merged one above.

    Raises:
        ValueError: the name is none of the eight.
    """
    plain = name.strip().removeprefix("[").removesuffix("]").strip().casefold()
    if plain == MERGED:
        return None
    if plain not in _BY_NAME:
        raise ValueError(f"strategy {name!r} is none of ESConv's eight: {', '.join(Strategy)}")
    return _BY_NAME[plain]
