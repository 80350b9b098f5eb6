"""The arithmetic of EQ-Bench v2 (EQ-bench/EQ-Bench, lib/scoring.py, `calculate_score_fullscale` and what calls it).

per emotion     d = |rating - reference|;  0 -> 0;  d <= 5 -> 6.5 / (1 + e^(-1.2 (d - 4)));  d > 5 -> d
per question    10 - 0.7477 * sum over the four emotions: 10 if perfect, about 0 on average if random
per pass        100 * mean / 10 over the questions that parse, 0 if none does
final           the revised pass if it scores at least as high and at least 0.95 as many of it parse, else the first
failure         fewer than 83.33 % of all questions parse in the final pass: the run has no score
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from evaluation.bootstrap import counts_of, draw, interval
from evaluation.eq_bench.parsing import Passes, Ratings

SCALE = 0.7477
LEAST_PARSEABLE = 0.8333
LEAST_REVISED = 0.95


class Pass(StrEnum):
    """Which of a reply's two answers."""

    FIRST = "first"
    REVISED = "revised"


@dataclass(frozen=True, slots=True)
class PassScore:
    """One pass over all questions: 100 is perfect; `question_scores` has None where it is unparseable."""

    score: float
    parseable: int
    question_scores: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class EqResult:
    """A run over `questions` questions.

    Attributes:
        final: the pass that counts.
        score: its score, or None if the run failed.
        interval: 95 % of the score, questions resampled; (NaN, NaN) if the run failed.
    """

    questions: int
    passes: Mapping[Pass, PassScore]
    final: Pass
    score: float | None
    interval: tuple[float, float]

    @property
    def parseable_share(self) -> float:
        return self.passes[self.final].parseable / self.questions

    @property
    def failed(self) -> bool:
        return self.score is None


def scaled_difference(difference: float) -> float:
    """Of a rating, 0 or more points from the reference: small ones count for less, from 5 points on in full."""
    if difference == 0:
        return 0.0
    return 6.5 / (1 + math.exp(-1.2 * (difference - 4))) if difference <= 5 else difference


def question_score(ratings: Ratings, reference: Mapping[str, float]) -> float:
    """10 at most; below 0 where the ratings are further off than random ones."""
    return 10 - SCALE * sum(scaled_difference(abs(ratings[name] - value)) for name, value in reference.items())


def score_run(
    answers: Sequence[Passes | None], references: Sequence[Mapping[str, float]], resamples: int = 10_000, seed: int = 0
) -> EqResult:
    """The result over N questions; an answer is None where there was no reply, which counts as unparseable."""
    firsts = [answer.first if answer else None for answer in answers]
    reviseds = [answer.revised if answer else None for answer in answers]
    first, revised = _pass_score(firsts, references), _pass_score(reviseds, references)
    better = revised.score >= first.score and revised.parseable >= LEAST_REVISED * first.parseable
    final, name = (revised, Pass.REVISED) if better else (first, Pass.FIRST)
    passes = {Pass.FIRST: first, Pass.REVISED: revised}
    if final.parseable < LEAST_PARSEABLE * len(references):
        return EqResult(len(references), passes, name, None, (math.nan, math.nan))
    spread = _interval(final.question_scores, resamples, seed)
    return EqResult(len(references), passes, name, final.score, spread)


def _pass_score(answers: Sequence[Ratings | None], references: Sequence[Mapping[str, float]]) -> PassScore:
    pairs = zip(answers, references, strict=True)
    scores = tuple(None if ratings is None else question_score(ratings, reference) for ratings, reference in pairs)
    parsed = [score for score in scores if score is not None]
    mean = sum(parsed) / len(parsed) if parsed else 0.0
    return PassScore(100 * mean / 10, len(parsed), scores)


def _interval(scores: Sequence[float | None], resamples: int, seed: int) -> tuple[float, float]:
    """Percentile interval of the score over resampled questions, among those that parse."""
    values = np.array([score for score in scores if score is not None])
    counts = counts_of(draw(len(values), resamples, seed))  # (R, N)
    return interval(10 * (counts @ values) / len(values))
