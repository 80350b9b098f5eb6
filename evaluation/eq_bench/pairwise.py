"""EQ-Bench 3, second half: a judge's comparisons of two models on a task, made into matches.

A judge is asked twice, each model standing first once, as the place alone sways it. An answer names for each of eight
criteria the code of the winner and one to five pluses. Both answers' pluses are added up (EQ-bench/eqbench3,
core/pairwise_judging.py, core/trueskill_solver.py and core/elo_config.py):

    margin = min(1, |pluses of A - pluses of B| / 30)
    no margin -> one draw;  else the winner wins ceil(margin * bins) times, from 1 to `bins`

Of an analysis task each answer counts as one plus for the model that it prefers. With 20 bins ratings are made; with 3,
which repeat a comparison less, their intervals.

A comparison of which either answer cannot be read is counted and makes no match.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evaluation.eq_bench.rubric import parse_object

FIRST_CODE, SECOND_CODE = "A0493", "A0488"
CRITERIA = 8
MOST_PLUSES = 5
LARGEST_DIFFERENCE = 30
BINS = 20
BINS_FOR_INTERVALS = 3
_REASONING = "chain_of_thought_reasoning"
_RATING = re.compile(rf"({FIRST_CODE}|{SECOND_CODE})\s*(\+{{1,{MOST_PLUSES}}})(?!\+)")


@dataclass(frozen=True, slots=True)
class Pluses:
    """Of one answer: for the model that stood first, and for the second."""

    first: int
    second: int

    @property
    def lead(self) -> int:
        return self.first - self.second


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two models on one task; `forward` has `model` first, `backward` has `other` first; None: unreadable."""

    model: str
    other: str
    task: str
    forward: Pluses | None
    backward: Pluses | None
    analysis: bool = False


@dataclass(frozen=True, slots=True)
class Match:
    """`times` wins of `winner` over `loser`, or one draw."""

    winner: str
    loser: str
    times: int
    drawn: bool = False


def parse_pluses(answer: str) -> Pluses | None:
    """The pluses of a judge's answer, or None unless all eight criteria have a winner. Any text is taken."""
    found: Mapping[str, Any] = parse_object(answer) or {}
    ratings = [_RATING.fullmatch(v.strip()) for k, v in found.items() if k != _REASONING and isinstance(v, str)]
    read = [(rating.group(1), len(rating.group(2))) for rating in ratings if rating is not None]
    if len(read) != CRITERIA:
        return None
    pluses = {code: sum(count for winner, count in read if winner == code) for code in (FIRST_CODE, SECOND_CODE)}
    return Pluses(pluses[FIRST_CODE], pluses[SECOND_CODE])


def match_of(comparison: Comparison, bins: int = BINS) -> Match | None:
    """The match that both answers make together, or None where one of them is unreadable."""
    forward, backward = comparison.forward, comparison.backward
    if forward is None or backward is None:
        return None
    leads = (forward.lead, -backward.lead)
    difference = sum((lead > 0) - (lead < 0) for lead in leads) if comparison.analysis else sum(leads)
    if difference == 0:
        return Match(comparison.model, comparison.other, 1, drawn=True)
    margin = min(1.0, abs(difference) / LARGEST_DIFFERENCE)
    names = (comparison.model, comparison.other) if difference > 0 else (comparison.other, comparison.model)
    return Match(*names, times=max(1, math.ceil(margin * bins - 1e-9)))


def matches_of(comparisons: Sequence[Comparison], bins: int = BINS) -> tuple[list[Match], int]:
    """All matches, and how many comparisons made none."""
    matches = [match_of(comparison, bins) for comparison in comparisons]
    made = [match for match in matches if match is not None]
    return made, len(matches) - len(made)
