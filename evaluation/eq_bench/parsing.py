"""Ratings out of a reply to EQ-Bench v2, by two readings.

EXACT is what the authors' code does (EQ-bench/EQ-Bench, lib/scoring.py, `parse_answers`), and makes the score: marks
`*` and `#` are removed; the first pass stands between "First pass scores:" and the first "Revised scores:", the revised
one after that; a rating is a word, a colon, white space and digits; a word rated twice keeps its last rating.

LENIENT also reads headings in any case, "Annoyed - 7", "Annoyed: 7.5/10", "Annoyed:7", a first pass that no heading
ends, and nothing after "[End of answer]"; of what it finds it keeps the question's four emotions alone. It is reported
beside the score, never as the score: the gap between the two is a model's trouble with the format.

Under both, exactly the question's four emotions must be rated, in any case, or the pass is unparseable.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from evaluation.eq_bench.questions import EMOTIONS, HIGHEST

Ratings = Mapping[str, float]  # lower-case emotion -> rating


class Reading(StrEnum):
    """How a reply is read; see the module's text."""

    EXACT = "exact"
    LENIENT = "lenient"


@dataclass(frozen=True, slots=True)
class Passes:
    """The two answers of a reply; None where a pass is unparseable."""

    first: Ratings | None
    revised: Ratings | None


_MARKS = str.maketrans("", "", "*#")
_FIRST = re.compile(r"First pass scores:(.*?)Revised scores:", re.DOTALL)
_REVISED = re.compile(r"Revised scores:(.*)", re.DOTALL)
_PAIR = re.compile(r"(\w+):\s+(\d+)")

_END = re.compile(r"\[\s*end of answer\s*\]", re.IGNORECASE)
_ANY_FIRST = re.compile(r"first[ -]pass(?: scores)?\s*:(.*?)(?:critique\s*:|revised(?: scores)?\s*:|$)", re.I | re.S)
_ANY_REVISED = re.compile(r"revised(?: scores)?\s*:(.*)", re.I | re.S)
_ANY_PAIR = re.compile(r"(\w+)[ \t]*[:=–-][ \t]*(\d{1,4}(?:\.\d{1,4})?)(?:[ \t]*/[ \t]*10\b)?")


def parse(reply: str, reference: Mapping[str, float], reading: Reading = Reading.EXACT) -> Passes:
    """Both passes of a reply to a question whose four emotions are the keys of `reference`. Any text is taken."""
    text = reply.translate(_MARKS)
    if reading is Reading.EXACT:
        return Passes(_exact(_FIRST, text, reference), _exact(_REVISED, text, reference))
    text = _END.split(text, maxsplit=1)[0]
    return Passes(_lenient(_ANY_FIRST, text, reference), _lenient(_ANY_REVISED, text, reference))


def _exact(section: re.Pattern[str], text: str, reference: Mapping[str, float]) -> Ratings | None:
    """Words differing in case count as two, so that a fifth entry makes the pass unparseable, as it does there."""
    found = section.search(text)
    rated = dict(_PAIR.findall(found.group(1))) if found else {}
    ratings = {word.lower(): float(digits) for word, digits in rated.items()}
    complete = len(rated) == EMOTIONS and ratings.keys() == reference.keys()
    return ratings if complete and all(map(math.isfinite, ratings.values())) else None


def _lenient(section: re.Pattern[str], text: str, reference: Mapping[str, float]) -> Ratings | None:
    """A rating above 10 is no rating on the scale that was asked for: unparseable."""
    found = section.search(text)
    pairs = _ANY_PAIR.findall(found.group(1)) if found else []
    ratings = {word.lower(): float(digits) for word, digits in pairs if word.lower() in reference}
    complete = ratings.keys() == reference.keys() and max(ratings.values()) <= HIGHEST
    return ratings if complete else None
