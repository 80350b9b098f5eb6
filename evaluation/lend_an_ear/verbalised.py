"""Verbalised sampling: a model writes k candidates with their probabilities, and one is drawn by these weights.

Asked for is, k times and nothing else,

    <response> <text>...</text> <probability>0.2</probability> </response>

What is read: every such block with one text that is not empty and one probability above 0 and at most 1, or the same
in per cent. Probabilities need not add up to 1: they are weights. Anything else in the answer is passed over. An answer
without a single whole block is unreadable, and nothing is drawn from it.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

MOST_CANDIDATES = 10

_BLOCK = re.compile(r"<response\b[^>]*>((?:(?!</?response\b).)*)</response\s*>", re.IGNORECASE | re.DOTALL)
_TEXT = re.compile(r"<text\b[^>]*>((?:(?!</?text\b).)*)</text\s*>", re.IGNORECASE | re.DOTALL)
_PROBABILITY = re.compile(
    r"<probability\b[^>]*>\s*(\d{0,3}(?:\.\d{1,10})?)\s*(%?)\s*</probability\s*>", re.IGNORECASE | re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One reply that the model might give, and the probability that it named."""

    text: str
    probability: float


def instruction(count: int) -> str:
    """What is added to the system prompt."""
    return (
        f"This time do not write one reply but {count} different ones that you might give, drawn from all that would "
        "come to your mind, the unlikely ones too, each with the probability that you would give it. Write them like "
        f"this, {count} times, and nothing else:\n"
        "<response><text>the reply</text><probability>a number between 0 and 1</probability></response>"
    )


def parse_candidates(answer: str) -> tuple[Candidate, ...] | None:
    """The whole candidates in the order of the answer, or None where there is none. Any text is taken."""
    found = [_candidate(block) for block in _BLOCK.findall(answer)]
    return tuple(candidate for candidate in found if candidate is not None) or None


def _candidate(block: str) -> Candidate | None:
    texts, probabilities = _TEXT.findall(block), _PROBABILITY.findall(block)
    if len(texts) != 1 or len(probabilities) != 1 or not texts[0].strip():
        return None
    digits, per_cent = probabilities[0]
    try:
        probability = float(digits) / (100 if per_cent else 1)
    except ValueError:  # nothing, or a point alone
        return None
    return Candidate(texts[0].strip(), probability) if 0 < probability <= 1 else None


def pick(candidates: Sequence[Candidate], seed: int, name: str) -> int:
    """The place of the candidate that is drawn: the same for the same candidates, seed and name of the question."""
    told = "\0".join([str(seed), name, *(f"{c.probability!r} {c.text}" for c in candidates)])
    generator = random.Random(hashlib.sha256(told.encode("utf-8", errors="replace")).digest())
    return generator.choices(range(len(candidates)), [candidate.probability for candidate in candidates])[0]
