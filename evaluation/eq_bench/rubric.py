"""EQ-Bench 3, first half: a judge's marks of 0 to 20 for each task, made into one score.

    task    mean of its criteria's marks          run    mean over tasks, times 5: 0 to 100

Only criteria where more is better count; the others of a role-play (moralising, warmth, ...) describe style.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

HIGHEST_MARK = 20.0
ROLE_PLAY_CRITERIA = (
    "demonstrated_empathy",
    "pragmatic_ei",
    "depth_of_insight",
    "social_dexterity",
    "emotional_reasoning",
    "message_tailoring",
)
ANALYSIS_CRITERIA = (
    "depth_of_insight",
    "emotional_reasoning",
    "theory_of_mind",
    "subtext_identification",
    "intellectual_grounding",
    "correctness",
)

Marks = Mapping[str, float]
_OBJECT = re.compile(r"\{.*\}", re.DOTALL)
_LAST_COMMA = re.compile(r",\s*\}\s*$")  # the example in the authors' pairwise prompt has one, so judges write it


@dataclass(frozen=True, slots=True)
class RubricScore:
    """A run over `tasks` tasks, of which the judge's answer to `unparseable` could not be read; NaN if to all."""

    score: float
    tasks: int
    unparseable: int


def parse_object(answer: str) -> dict[str, Any] | None:
    """The JSON object in a judge's answer, whatever stands around it; None if there is none. Any text is taken."""
    found = _OBJECT.search(answer)
    try:
        value = json.loads(_LAST_COMMA.sub("}", found.group())) if found else None
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def parse_marks(answer: str, criteria: Sequence[str]) -> Marks | None:
    """The marks of all `criteria`, or None where one is missing, no number or not from 0 to 20: never guessed."""
    found = parse_object(answer) or {}
    marks = {name: _mark(found.get(name)) for name in criteria}
    return {name: mark for name, mark in marks.items() if mark is not None} if None not in marks.values() else None


def _mark(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value <= HIGHEST_MARK else None


def rubric_score(tasks: Sequence[Marks | None]) -> RubricScore:
    """The score over the tasks whose marks could be read."""
    means = [sum(marks.values()) / len(marks) for marks in tasks if marks]
    score = 5 * sum(means) / len(means) if means else math.nan
    return RubricScore(score, len(tasks), len(tasks) - len(means))
