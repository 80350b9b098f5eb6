"""The paired bootstrap without a loop over resamples, and what is read off it.

A resample of N turns with replacement is a row of counts: how often each turn was drawn. A mean over the resample is
then a product of matrices, so R resamples of all systems and columns cost one product per system. Every system is
weighted by the same rows, which is what makes a difference of two systems a paired one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from evaluation.ratings import Floats

Indices = NDArray[np.int64]

INTERVAL = (0.025, 0.975)
_TIE = 1e-12  # two equal means, added up in another order, differ by less


def draw(units: int, resamples: int, seed: int) -> Indices:
    """(R, U) indices of the units drawn in each of R resamples of U units with replacement."""
    return np.random.default_rng(seed).integers(units, size=(resamples, units))


def counts_of(indices: Indices) -> Floats:
    """(R, U) how often each of U units was drawn in each of R resamples; each row adds up to U."""
    resamples, units = indices.shape
    flat = (indices + np.arange(resamples)[:, None] * units).ravel()
    return np.bincount(flat, minlength=resamples * units).reshape(resamples, units).astype(np.float64)


def mean_defined(values: Floats, axis: int) -> Floats:
    """The mean along `axis` of what is not NaN; NaN where nothing is left."""
    defined = ~np.isnan(values)
    total, count = np.where(defined, values, 0.0).sum(axis=axis), defined.sum(axis=axis)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def interval(samples: Floats) -> tuple[float, float]:
    """Percentile interval, 95 %, of (R,) resampled values; (NaN, NaN) where none is defined."""
    defined = samples[~np.isnan(samples)]
    if not len(defined):
        return np.nan, np.nan
    low, high = np.quantile(defined, INTERVAL)
    return float(low), float(high)


def p_value(differences: Floats) -> float:
    """Two-sided p-value that a mean difference is 0, from its R resampled values.

    Twice the smaller share of resamples at or beyond 0, each share as (count + 1) / (R + 1), at most 1 (Davison and
    Hinkley, 1997, section 4.2). So it is never 0: its smallest value is 2 / (R + 1). NaN where no resample is defined.
    """
    defined = differences[~np.isnan(differences)]
    if not len(defined):
        return np.nan
    beyond = min(int((defined <= _TIE).sum()), int((defined >= -_TIE).sum()))
    return min(1.0, 2 * (beyond + 1) / (len(defined) + 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for their number by Holm's step-down rule (1979), in the order given; a NaN stays one.

    Below 0.05 they hold together: the chance of even one false alarm among all of them is at most 5 %.
    """
    adjusted = [np.nan] * len(p_values)
    order = sorted((i for i, p in enumerate(p_values) if not np.isnan(p)), key=lambda i: p_values[i])
    largest = 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted
