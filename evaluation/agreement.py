"""Do raters agree with the experts? Weighted kappa and Spearman's rho per dimension, with bootstrap intervals.

A rater's figure is the mean of its agreement with each expert alone, so that an expert can be measured in the same way:
"experts among themselves" is the mean over all pairs of experts, what one may hope for. Agreement with the experts'
*mean* rating would come out higher, since a mean is less noisy than a person.

Items are conversations. A rater of turns is represented by the mean over a conversation's turns. The bootstrap draws
conversations, the same ones for all raters, dimensions and experts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.bootstrap import Indices, counts_of, draw, interval, mean_defined
from evaluation.correlation import resampled_kappa, resampled_ranks, resampled_spearman, spearman, weighted_kappa
from evaluation.files import EvaluationDataError
from evaluation.ratings import Floats, read_conversation_ratings
from reward_servers.protocol import Dimension

EXPERT_PREFIX = "expert"
AMONG_EXPERTS = "experts among themselves"
MEAN = "mean"
SCALES = (*(dimension.value for dimension in Dimension), MEAN)


@dataclass(frozen=True, eq=False, slots=True)
class Rater:
    """(N, 6) ratings of one rater, the conversations in the same order for every rater of a comparison."""

    name: str
    ratings: Floats

    @property
    def is_expert(self) -> bool:
        return self.name.startswith(EXPERT_PREFIX)


@dataclass(frozen=True, slots=True)
class Agreement:
    """One rater on one dimension, or the mean of the six. Intervals are 95 %; NaN where a measure is undefined."""

    kappa: float
    kappa_interval: tuple[float, float]
    spearman: float
    spearman_interval: tuple[float, float]


@dataclass(frozen=True, slots=True)
class AgreementReport:
    """Rater -> dimension or `mean` -> agreement with the experts, on so many conversations."""

    raters: dict[str, dict[str, Agreement]]
    experts: tuple[str, ...]
    conversations: int
    resamples: int

    def as_dict(self) -> dict[str, Any]:
        return {
            "experts": list(self.experts),
            "conversations": self.conversations,
            "resamples": self.resamples,
            "raters": {
                rater: {
                    scale: {
                        "kappa": a.kappa,
                        "kappa_interval": a.kappa_interval,
                        "spearman": a.spearman,
                        "spearman_interval": a.spearman_interval,
                    }
                    for scale, a in scales.items()
                }
                for rater, scales in self.raters.items()
            },
        }


def load_raters(paths: Sequence[Path]) -> list[Rater]:
    """One rater per file, named by it: `crowd_ratings.csv` is `crowd`.

    Raises:
        EvaluationDataError: a fault that `read_conversation_ratings` finds, two files of one name, or files that do not
            rate the same conversations.
    """
    ratings: dict[str, dict[str, Floats]] = {}
    for path in paths:
        name = path.stem.removesuffix("_ratings")
        if name in ratings:
            raise EvaluationDataError(f"{path}: there is another file for the rater {name!r}; rename one of them")
        ratings[name] = read_conversation_ratings(path)
        first = next(iter(ratings.values()))
        if differing := sorted(first.keys() ^ ratings[name].keys()):
            missing = path if differing[0] in first else paths[0]
            raise EvaluationDataError(
                f"{path}: {len(ratings[name])} conversations where {paths[0]} has {len(first)}: "
                f"{differing[0]!r} is not in {missing}"
            )
    conversations = sorted(next(iter(ratings.values()), {}))
    return [Rater(name, np.array([own[c] for c in conversations])) for name, own in ratings.items()]


def agreement_report(
    raters: Sequence[Rater], resamples: int = 10_000, seed: int = 0, on_rater: Callable[[str], None] | None = None
) -> AgreementReport:
    """Every rater that is no expert against the experts, and these among themselves.

    Raises:
        EvaluationDataError: there is no expert, or nobody to compare.
    """
    experts = [rater for rater in raters if rater.is_expert]
    others = [rater for rater in raters if not rater.is_expert]
    if not experts:
        names = ", ".join(rater.name for rater in raters)
        raise EvaluationDataError(f"no experts among {names}; their files' names begin with {EXPERT_PREFIX!r}")
    if not others and len(experts) < 2:
        raise EvaluationDataError("one expert and no other rater: nobody to compare")
    indices = draw(len(experts[0].ratings), resamples, seed)
    yardstick = [_Resampled.of(expert, indices) for expert in experts]
    result: dict[str, dict[str, Agreement]] = {}
    for rater in others:
        if on_rater is not None:
            on_rater(rater.name)
        own = _Resampled.of(rater, indices)
        result[rater.name] = _mean_agreement([(own, expert) for expert in yardstick])
    if len(yardstick) > 1:
        result[AMONG_EXPERTS] = _mean_agreement(list(combinations(yardstick, 2)))
    return AgreementReport(result, tuple(e.name for e in experts), len(experts[0].ratings), resamples)


@dataclass(frozen=True, eq=False, slots=True)
class _Resampled:
    """A rater with what the bootstrap needs of it: (R, N) counts and (6, R, N) ranks."""

    ratings: Floats
    counts: Floats
    ranks: Floats

    @classmethod
    def of(cls, rater: Rater, indices: Indices) -> _Resampled:
        return cls(rater.ratings, counts_of(indices), resampled_ranks(rater.ratings, indices))


def _mean_agreement(pairs: Sequence[tuple[_Resampled, _Resampled]]) -> dict[str, Agreement]:
    """Mean over pairs of raters, for each dimension and for the mean of the six."""
    kappas, rhos, kappa_samples, rho_samples = [], [], [], []
    for left, right in pairs:
        columns = list(zip(left.ratings.T, right.ratings.T, strict=True))
        kappas.append([weighted_kappa(x, y) for x, y in columns])
        rhos.append([spearman(x, y) for x, y in columns])
        kappa_samples.append(resampled_kappa(left.ratings, right.ratings, left.counts))
        rho_samples.append(resampled_spearman(left.ranks, right.ranks))
    kappa, rho = _over_pairs(kappas), _over_pairs(rhos)  # (7,)
    kappa_R, rho_R = _over_pairs(kappa_samples), _over_pairs(rho_samples)  # (R, 7)
    return {
        scale: Agreement(float(kappa[k]), interval(kappa_R[:, k]), float(rho[k]), interval(rho_R[:, k]))
        for k, scale in enumerate(SCALES)
    }


def _over_pairs(values: Sequence[Any]) -> Floats:
    """(pairs, ..., 6) values to their mean over pairs, with the mean over the six appended: (..., 7)."""
    means = mean_defined(np.array(values, dtype=np.float64), axis=0)
    return np.concatenate([means, mean_defined(means, axis=-1)[..., None]], axis=-1)
