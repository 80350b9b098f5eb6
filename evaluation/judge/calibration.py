"""May a judge be trusted? Agreement with experts, test-retest, position bias, and floors that each must reach.

    pass 1    the dimensions in order                  -> agreement with the experts
    pass 2    the same question, another seed          -> test-retest: kappa of passes 1 and 2, mean distance
    pass 3    the dimensions in reversed order         -> position bias: mean of pass 3 - pass 1 per dimension

Agreement is that of `evaluation.agreement`: the mean over experts of quadratically weighted kappa and Spearman's rho.
A conversation that a pass has no ratings of, asked twice if need be, is left out of all three, and counted. Intervals
are 95 %, from one bootstrap over conversations. An undefined figure (a judge that says 1 throughout) is no agreement,
not a gap to skip.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from evaluation.agreement import MEAN, AgreementReport, Rater, agreement_report
from evaluation.bootstrap import counts_of, draw, interval
from evaluation.correlation import resampled_kappa, weighted_kappa
from evaluation.files import EvaluationDataError
from evaluation.judge.judging import Judgement
from evaluation.ratings import Floats
from reward_servers.protocol import Dimension

JUDGE = "judge"
FEWEST = 10  # conversations; below it no interval means anything


class JudgeBelowFloorError(ValueError):
    """A judge that must not train a policy. The message names each floor that was missed."""


@dataclass(frozen=True, slots=True)
class Floors:
    """What a judge must reach.

    Attributes:
        kappa, spearman: agreement with the experts, mean of the six dimensions. 0.4 is where Landis and Koch (1977)
            let "moderate" agreement begin. It parts the released Lend-an-Ear raters: three LLM judges have a kappa of
            0.45 to 0.54 and a rho of 0.58 to 0.63, experts among themselves 0.55 and 0.59, the crowd 0.28 and 0.39.
        retest: kappa of the judge with itself, mean of the six; 0.6, "substantial".
        shift: largest mean change of a dimension's rating, in points of the scale, when the order is reversed.
        missing: largest share of conversations without ratings.
    """

    kappa: float = 0.4
    spearman: float = 0.4
    retest: float = 0.6
    shift: float = 0.5
    missing: float = 0.05


@dataclass(frozen=True, slots=True)
class Figure:
    """A value with its 95 % interval; NaN where it is undefined."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Stability:
    """One dimension: kappa and mean distance of two equal passes, and the mean shift by the reversed order."""

    retest_kappa: Figure
    retest_distance: Figure
    position_shift: Figure


@dataclass(frozen=True, slots=True)
class Calibration:
    """What is known of a judge.

    Attributes:
        agreement: the judge, and the experts among themselves.
        stability: dimension -> figures.
        missing: conversation -> why a pass has no ratings of it.
        problems: floors that were missed, in words; none for a judge that may train a policy.
    """

    agreement: AgreementReport
    stability: dict[str, Stability]
    conversations: int
    missing: dict[str, str]
    problems: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        return {
            "passed": not self.problems,
            "problems": list(self.problems),
            "conversations": self.conversations,
            "missing": self.missing,
            "agreement": self.agreement.as_dict(),
            "stability": {name: asdict(stability) for name, stability in self.stability.items()},
        }


def calibrate(
    experts: Sequence[Rater],
    names: Sequence[str],
    passes: tuple[Judgement, Judgement, Judgement],
    floors: Floors,
    resamples: int,
    seed: int,
) -> Calibration:
    """Compare the three passes with the experts, whose rows are of the conversations `names`.

    Raises:
        EvaluationDataError: fewer than `FEWEST` conversations have ratings in all passes.
    """
    check_number(names)
    missing = {name: why for judged in reversed(passes) for name, why in judged.missing.items()}
    kept = [i for i, name in enumerate(names) if name not in missing]
    if len(kept) < FEWEST:
        reason = f"; {next(iter(missing.items()))}" if missing else ""
        raise EvaluationDataError(f"{len(kept)} of {len(names)} conversations were judged; {FEWEST} are needed{reason}")
    first, again, turned = (np.array([judged.ratings[names[i]] for i in kept], dtype=np.float64) for judged in passes)
    raters = [Rater(JUDGE, first), *(Rater(expert.name, expert.ratings[kept]) for expert in experts)]
    agreement = agreement_report(raters, resamples, seed)
    counts = counts_of(draw(len(kept), resamples, seed))
    stability = _stability(first, again, turned, counts)
    problems = tuple(_problems(agreement, stability, len(missing) / len(names), floors))
    return Calibration(agreement, stability, len(kept), missing, problems)


def check_number(names: Sequence[str]) -> None:
    """To be asked before the judge is.

    Raises:
        EvaluationDataError: fewer than `FEWEST` conversations were rated.
    """
    if len(names) < FEWEST:
        raise EvaluationDataError(f"{len(names)} conversations were rated; {FEWEST} are needed for any interval")


def _stability(first: Floats, again: Floats, turned: Floats, counts: Floats) -> dict[str, Stability]:
    kappas = resampled_kappa(first, again, counts)  # (R, 6)
    result = {}
    for k, dimension in enumerate(Dimension):
        kappa = Figure(_self_agreement(first[:, k], again[:, k]), *interval(kappas[:, k]))
        distance = _mean(np.abs(again[:, k] - first[:, k]), counts)
        result[dimension.value] = Stability(kappa, distance, _mean(turned[:, k] - first[:, k], counts))
    return result


def _self_agreement(first: Floats, again: Floats) -> float:
    """Kappa; 1 where both passes gave one and the same rating throughout, where kappa itself is undefined."""
    return 1.0 if np.array_equal(first, again) else weighted_kappa(first, again)


def _mean(values: Floats, counts: Floats) -> Figure:
    """Mean of (N,) values, with the interval of its (R,) resampled means."""
    return Figure(float(values.mean()), *interval(counts @ values / len(values)))


def _problems(
    agreement: AgreementReport, stability: dict[str, Stability], missing: float, floors: Floors
) -> Iterator[str]:
    scales = agreement.raters[JUDGE]
    for dimension in Dimension:
        if math.isnan(scales[dimension.value].spearman) or math.isnan(scales[dimension.value].kappa):
            yield f"{dimension.value}: no agreement can be shown, judge or experts gave one rating throughout"
    for name, value, floor in (
        ("mean weighted kappa with the experts", scales[MEAN].kappa, floors.kappa),
        ("mean Spearman's rho with the experts", scales[MEAN].spearman, floors.spearman),
        ("mean test-retest kappa", float(np.mean([s.retest_kappa.value for s in stability.values()])), floors.retest),
    ):
        if not value >= floor:
            yield f"{name} is {value:.2f}, below {floor:g}"
    for scale, figures in stability.items():
        if abs(figures.position_shift.value) > floors.shift:
            shift = figures.position_shift.value
            yield f"{scale}: ratings move by {shift:+.2f} when the order is reversed, more than {floors.shift:g}"
    if missing > floors.missing:
        yield f"{missing:.0%} of the conversations have no ratings, more than {floors.missing:.0%}"
