"""How well tactics are found: macro F1 per tactic, thresholds, bootstrap over replies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dialogue.tactics import TACTICS

Floats = NDArray[np.floating]

DEFAULT_THRESHOLD = 0.5
_GRID = np.round(np.arange(0.06, 0.95, 0.02), 2)
_FEWEST_POSITIVES = 20
_TRUST = 0.5


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Macro F1 per tactic in the order of `TACTICS`, its mean, and the 95 % interval of the mean."""

    per_tactic: tuple[float, ...]
    positives: tuple[int, ...]
    sentences: int
    interval: tuple[float, float]

    @property
    def mean(self) -> float:
        return float(np.mean(self.per_tactic))

    def as_dict(self) -> dict[str, object]:
        """For JSON: the mean, its interval, and per tactic the macro F1 and how often it holds."""
        tactics = zip(TACTICS, self.per_tactic, self.positives, strict=True)
        return {
            "mean_macro_f1": round(self.mean, 4),
            "interval_95": [round(x, 4) for x in self.interval],
            "sentences": self.sentences,
            "per_tactic": {t.value: {"macro_f1": round(f1, 4), "positives": n} for t, f1, n in tactics},
        }


def macro_f1(truth: Floats, predicted: Floats) -> Floats:
    """Mean of the F1 of the positive and of the negative class, per column.

    F1 = 2 TP / (2 TP + FP + FN); a class that neither occurs nor is predicted has F1 0, as in scikit-learn.

    Args:
        truth: (N, K) zeros and ones.
        predicted: (N, K) zeros and ones.

    Returns:
        (K,) values in [0, 1].
    """
    hit, positive, said = (x.sum(0, dtype=np.float64) for x in (truth * predicted, truth, predicted))
    rejected = len(truth) - positive - said + hit
    f1_positive = 2 * hit / np.maximum(positive + said, 1)
    f1_negative = 2 * rejected / np.maximum(2 * len(truth) - positive - said, 1)
    return (f1_positive + f1_negative) / 2


def evaluate(
    truth: Floats, predicted: Floats, replies: Sequence[int], resamples: int = 2000, seed: int = 0
) -> Evaluation:
    """Macro F1 with a bootstrap interval of the mean; whole replies are drawn, as their sentences are not independent.

    Args:
        truth: (N, K) zeros and ones.
        predicted: (N, K) zeros and ones.
        replies: N numbers, equal for sentences of one reply.
        resamples: bootstrap samples.
        seed: of the bootstrap.
    """
    rows_of = [np.flatnonzero(np.asarray(replies) == reply) for reply in sorted(set(replies))]
    rng = np.random.default_rng(seed)
    means = []
    for _ in range(resamples):
        rows = np.concatenate([rows_of[i] for i in rng.integers(len(rows_of), size=len(rows_of))])
        means.append(macro_f1(truth[rows], predicted[rows]).mean())
    low, high = np.percentile(means, [2.5, 97.5])
    return Evaluation(
        tuple(float(x) for x in macro_f1(truth, predicted)),
        tuple(int(x) for x in truth.sum(0)),
        len(truth),
        (float(low), float(high)),
    )


def best_thresholds(truth: Floats, probabilities: Floats) -> Floats:
    """(K,) thresholds near those of the highest macro F1 on these sentences.

    Of a plateau of equally good thresholds its middle is taken, and only half of its distance from 0.5: the best cut
    on a few hundred sentences is partly luck. A tactic with fewer than twenty positives keeps 0.5.
    """
    scores = np.stack([macro_f1(truth, (probabilities >= t).astype(float)) for t in _GRID])  # (grid, K)
    # A moving average prefers broad maxima to lucky spikes.
    smooth = np.apply_along_axis(
        lambda column: np.convolve(np.pad(column, 2, "edge"), np.ones(5) / 5, "valid"), 0, scores
    )
    thresholds = np.array([np.median(_GRID[column >= column.max() - 1e-9]) for column in smooth.T])
    cautious = DEFAULT_THRESHOLD + _TRUST * (thresholds - DEFAULT_THRESHOLD)
    return np.where(truth.sum(0) >= _FEWEST_POSITIVES, cautious, DEFAULT_THRESHOLD)
