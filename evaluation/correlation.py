"""Agreement of two raters: quadratically weighted kappa and Spearman's rho, once by the usual libraries and R times.

The R resampled values need no loop. For kappa that is because its quadratic weights are squared distances: with sums
over the N rated items of a resample,

    kappa = 1 - N S[(x - y)^2] / (N S[x^2] + N S[y^2] - 2 S[x] S[y])

which is Cohen's 1 - observed / expected disagreement (1968), the expected one being the mean squared distance of
ratings drawn independently from the two raters. It needs whole ratings; a mean of several people is rounded, halves
upward. For rho the ranks are taken anew in every resample, all resamples at once.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evaluation.bootstrap import Indices
from evaluation.ratings import HIGHEST, LOWEST, Floats


def whole(ratings: Floats) -> NDArray[np.int64]:
    """Ratings rounded to whole ones, halves upward: 2.5 becomes 3."""
    return np.floor(ratings + 0.5).astype(np.int64)


def weighted_kappa(x: Floats, y: Floats) -> float:
    """Quadratically weighted kappa of (N,) ratings; NaN where both raters gave one and the same rating throughout."""
    from sklearn.metrics import cohen_kappa_score

    first, second = whole(x), whole(y)
    if len(np.union1d(first, second)) < 2:
        return float("nan")
    scale = list(range(LOWEST, HIGHEST + 1))
    return float(cohen_kappa_score(first, second, labels=scale, weights="quadratic"))


def resampled_kappa(x: Floats, y: Floats, counts: Floats) -> Floats:
    """Kappa in every resample.

    Args:
        x, y: (N, D) ratings of N items on D dimensions.
        counts: (R, N) how often each item was drawn, see `evaluation.bootstrap.counts_of`.

    Returns:
        (R, D), NaN as in `weighted_kappa`.
    """
    n, first, second = len(x), whole(x).astype(np.float64), whole(y).astype(np.float64)
    distance = n * (counts @ (first - second) ** 2)
    expected = n * (counts @ (first**2 + second**2)) - 2 * (counts @ first) * (counts @ second)
    # All sums are of whole numbers, so an expected disagreement of nothing is exactly 0.
    ratio = np.divide(distance, expected, out=np.full_like(distance, np.nan), where=expected > 0)
    return 1 - ratio


def spearman(x: Floats, y: Floats) -> float:
    """Spearman's rho of (N,) values, ties sharing their mean rank; NaN for fewer than two, or where one is constant."""
    from scipy.stats import spearmanr

    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(spearmanr(x, y).statistic)


def resampled_ranks(values: Floats, indices: Indices) -> Floats:
    """The ranks of every resample, centred and scaled so that rho is a sum of products.

    Args:
        values: (N, D).
        indices: (R, N) items drawn.

    Returns:
        (D, R, N) with mean 0 and sum of squares 1 along N; NaN where a resample is constant.
    """
    from scipy.stats import rankdata

    ranks = rankdata(values.T[:, indices], axis=2)
    ranks -= ranks.mean(axis=2, keepdims=True)
    length = np.sqrt((ranks**2).sum(axis=2, keepdims=True))
    return np.divide(ranks, length, out=np.full_like(ranks, np.nan), where=length > 0)


def resampled_spearman(left: Floats, right: Floats) -> Floats:
    """(R, D) rho of two raters from their (D, R, N) `resampled_ranks` of the same resamples."""
    return np.einsum("drn,drn->rd", left, right)
