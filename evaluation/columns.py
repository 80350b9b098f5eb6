"""The columns of MINT's table 2 (arXiv 2604.11742) and the number of words, for any number of resamples at once.

    words                mean number of words of a reply, split at white space
    six dimensions       mean of the judge's ratings as given, so lower is better in the last three
    aggregated_empathy   mean over turns of `evaluation.ratings.aggregated`
    tac_per_turn         mean number of different tactics in a reply
    stickiness           for each tactic, the share of turns that use it among those whose *gold previous* supporter
                         turn has it; then the mean over the tactics that occur in such a previous turn

All but stickiness are means over turns. Stickiness is a mean of K = 10 shares, and each share is again a sum over turns
divided by another. So every column follows from sums over turns, a numerator and a denominator for each of M = 9 + K
cells, and a resample only weights the turns by how often it drew them. For each of the nine means the denominator of a
turn is 1, or 0 where its rating is blank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dialogue.tactics import TACTICS
from evaluation.bootstrap import mean_defined
from evaluation.ratings import Floats, aggregated
from evaluation.systems import Flags, Reply, System
from reward_servers.protocol import Dimension

RATED = (*(dimension.value for dimension in Dimension), "aggregated_empathy")
MEANS = ("words", *RATED, "tac_per_turn")
COLUMNS = (*MEANS, "stickiness")


@dataclass(frozen=True, eq=False, slots=True)
class Cells:
    """(N, M) numerators and denominators of one system, the nine means first, then stickiness tactic by tactic."""

    numerators: Floats
    denominators: Floats


def uses_of(replies: Sequence[Reply | None]) -> Flags:
    """(N, K): whether the reply has the tactic; a reply that is None has none."""
    none = (0,) * len(TACTICS)
    counts = [reply.counts if reply is not None else none for reply in replies]
    return np.array(counts).reshape(-1, len(TACTICS)) > 0


def cells_of(system: System, previous_uses: Flags) -> Cells:
    """What every column of one system is made of.

    Args:
        previous_uses: (N, K) tactics of the gold previous supporter turn, none at a conversation's first.
    """
    uses = uses_of(system.replies)  # (N, K)
    words = np.array([len(reply.text.split()) for reply in system.replies], dtype=np.float64)
    means = np.column_stack([words, system.ratings, aggregated(system.ratings), uses.sum(axis=1)])  # (N, 9)
    given = ~np.isnan(means)
    return Cells(
        numerators=np.hstack([np.where(given, means, 0.0), previous_uses & uses]),
        denominators=np.hstack([given, previous_uses]).astype(np.float64),
    )


def columns_of(cells: Cells, counts: Floats) -> Floats:
    """The columns under R weightings of the turns.

    Args:
        counts: (R, N) how often each turn counts; one row of ones gives the columns themselves.

    Returns:
        (R, 10) values in the order of `COLUMNS`; NaN where a weighting leaves nothing to average.
    """
    numerators, denominators = counts @ cells.numerators, counts @ cells.denominators  # (R, M)
    undefined = np.full_like(numerators, np.nan)
    shares = np.divide(numerators, denominators, out=undefined, where=denominators > 0)
    stickiness = mean_defined(shares[:, len(MEANS) :], axis=1)
    return np.column_stack([shares[:, : len(MEANS)], stickiness])
