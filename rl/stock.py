"""How much of a reply is said to everybody: stock phrases, which an empathy scorer likes and a seeker sees through.

A scorer rates one reply to one person, so it cannot know that the policy tells all of them the same. A policy finds
that out within some ten steps ("I'm here for you. I'd be happy to help."). A step's other prompts give it away.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

PHRASE = 4  # words
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")

Phrase = tuple[str, ...]


def stock_shares(texts: Sequence[Sequence[str]]) -> list[list[float]]:
    """For every reply the share of its words that would do as well for other people, from 0 to 1.

    A phrase is four words in a row; case and punctuation do not count. For a reply to one prompt, a phrase weighs as
    much as the share of the *other* prompts to which it was said too. A word weighs as much as the weightiest phrase
    that it stands in, and the reply is the mean of its words.

    Args:
        texts: P prompts' replies; how many there are per prompt does not matter.

    Returns:
        As `texts`. 0 for a reply of fewer than four words, and where there is only one prompt.
    """
    words = [[tuple(_words(text)) for text in group] for group in texts]
    said = [{phrase for reply in group for phrase in _phrases(reply)} for group in words]
    prompts_with = Counter(phrase for phrases in said for phrase in phrases)
    others = max(1, len(texts) - 1)
    return [[_share(reply, prompts_with, others) for reply in group] for group in words]


def _share(reply: Phrase, prompts_with: Counter[Phrase], others: int) -> float:
    weights = [0.0] * len(reply)
    for start, phrase in enumerate(_phrases(reply)):
        weight = (prompts_with[phrase] - 1) / others  # its own prompt has it
        for place in range(start, start + PHRASE):
            weights[place] = max(weights[place], weight)
    return sum(weights) / len(weights) if weights else 0.0


def _words(text: str) -> list[str]:
    return [word.replace("’", "'") for word in _WORD.findall(text.lower())]


def _phrases(words: Phrase) -> list[Phrase]:
    return [words[i : i + PHRASE] for i in range(len(words) - PHRASE + 1)]
