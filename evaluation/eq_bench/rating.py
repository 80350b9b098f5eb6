"""EQ-Bench 3: TrueSkill ratings of models from their matches, and the normalised Elo.

TrueSkill for two (Herbrich, Minka and Graepel, 2007) with mu 1200, sigma 350/3, beta 350/6 and tau 0. With
c^2 = 2 beta^2 + sigma_w^2 + sigma_l^2 and t = (mu_w - mu_l) / c, a win moves

    mu_w += sigma_w^2 / c * v,  mu_l -= sigma_l^2 / c * v,  sigma^2 *= 1 - sigma^2 / c^2 * w
    win: v = pdf(t) / cdf(t), w = v (v + t)          draw: v = -t, w = 1, the limit of a draw margin that goes to 0

The result depends on the order of matches, so, as the authors do, it is the mean over ten shuffles. Normalised: the
straight line that puts two anchor models at their set values. With fewer anchors ratings stay as they are, so the first
model alone has a rating: 1200.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evaluation.eq_bench.pairwise import Match
from evaluation.files import EvaluationDataError

MU, SIGMA, BETA = 1200.0, 350 / 3, 350 / 6
SHUFFLES = 10
_WITHIN = 1.96  # standard deviations that hold 95 %


@dataclass(frozen=True, slots=True)
class Rating:
    """A model's skill, normal with mean `mu` and standard deviation `sigma`."""

    mu: float = MU
    sigma: float = SIGMA

    @property
    def interval(self) -> tuple[float, float]:
        """95 % of TrueSkill's own belief; rate matches of `BINS_FOR_INTERVALS`, as it takes each win for a new task."""
        return self.mu - _WITHIN * self.sigma, self.mu + _WITHIN * self.sigma


def update(winner: Rating, loser: Rating, drawn: bool = False) -> tuple[Rating, Rating]:
    """Both ratings after one match."""
    c = math.sqrt(2 * BETA**2 + winner.sigma**2 + loser.sigma**2)
    t = (winner.mu - loser.mu) / c
    v = -t if drawn else _hazard(t)
    w = 1.0 if drawn else v * (v + t)
    return _moved(winner, v, w, c), _moved(loser, -v, w, c)


def _moved(rating: Rating, v: float, w: float, c: float) -> Rating:
    variance = rating.sigma**2
    return Rating(rating.mu + variance / c * v, rating.sigma * math.sqrt(1 - variance / c**2 * w))


def _hazard(t: float) -> float:
    """pdf(t) / cdf(t) of the standard normal; far out on the left, where both vanish, its asymptote."""
    if t < -30:
        return -t - 1 / t
    density = math.exp(-t * t / 2) / math.sqrt(2 * math.pi)
    return density / (math.erfc(-t / math.sqrt(2)) / 2)


def rate(models: Sequence[str], matches: Sequence[Match], shuffles: int = SHUFFLES) -> dict[str, Rating]:
    """Ratings of all `models`; one without a match keeps the first rating.

    Raises:
        EvaluationDataError: a match of a model with itself or with one that is not among `models`.
    """
    for match in matches:
        if match.winner == match.loser or not {match.winner, match.loser} <= set(models):
            raise EvaluationDataError(f"{match.winner!r} against {match.loser!r}: expected two of {', '.join(models)}")
    runs = [_rate_in_order(models, _shuffled(matches, seed)) for seed in range(shuffles)]
    means = {name: [run[name] for run in runs] for name in models}
    return {name: Rating(_mean([r.mu for r in rs]), _mean([r.sigma for r in rs])) for name, rs in means.items()}


def _shuffled(matches: Sequence[Match], seed: int) -> list[Match]:
    order = list(matches)
    random.Random(seed).shuffle(order)
    return order


def _rate_in_order(models: Sequence[str], matches: Sequence[Match]) -> dict[str, Rating]:
    ratings = {name: Rating() for name in models}
    for match in matches:
        for _ in range(match.times):
            after = update(ratings[match.winner], ratings[match.loser], match.drawn)
            ratings[match.winner], ratings[match.loser] = after
    return ratings


def normalise(ratings: Mapping[str, Rating], anchors: Mapping[str, float]) -> dict[str, Rating]:
    """Ratings on the line through two anchors (model -> value); as they are where fewer of them are rated.

    Raises:
        EvaluationDataError: more than two anchors, or an order of the anchors that is not that of their ratings.
    """
    if len(anchors) > 2:
        raise EvaluationDataError(f"{len(anchors)} anchors; expected two")
    if len(anchors) < 2 or not anchors.keys() <= ratings.keys():
        return dict(ratings)
    (low, low_value), (high, high_value) = sorted(anchors.items(), key=lambda anchor: anchor[1])
    rise = ratings[high].mu - ratings[low].mu
    if rise <= 0 or high_value <= low_value:
        raise EvaluationDataError(f"the anchor {high!r} must be rated above {low!r}; it is {rise:.1f} from it")
    scale = (high_value - low_value) / rise
    return {name: Rating(low_value + scale * (r.mu - ratings[low].mu), scale * r.sigma) for name, r in ratings.items()}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
