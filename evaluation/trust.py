"""Which reward deserves trust? Every scorer's agreement with the human experts, in one table.

People and released LLM judges are read from their ratings; a scorer rates the supporter's turns of the same
conversations, and its mean over a conversation stands for it. Agreement is that of `evaluation.agreement`: the mean
over experts of Spearman's rho and of quadratically weighted kappa, 95 % intervals by one bootstrap over conversations.

    each dimension, their mean   raters that give all six
    aggregate                    everything, against each expert's aggregated empathy; kappa on whole numbers, and only
                                 where a scorer speaks in points from 1 to 5

"All" conversations and the "kept out" ones are told apart: a scorer may have been trained on replies to the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np

from evaluation.agreement import AMONG_EXPERTS, Agreement, Rater, agreement_report
from evaluation.bootstrap import Indices, counts_of, draw, interval, mean_defined
from evaluation.correlation import resampled_kappa, resampled_ranks, resampled_spearman, spearman, weighted_kappa
from evaluation.files import EvaluationDataError
from evaluation.ratings import Floats, aggregated

AGGREGATE = "aggregate"
FEWEST = 5  # conversations; below it no interval means anything


@dataclass(frozen=True, eq=False, slots=True)
class Rated:
    """What one rater or scorer says of N conversations.

    Attributes:
        overall: (N,) one number each, higher is more empathic.
        dimensions: (N, 6), or None for a scorer of one number.
        in_points: whether `overall` is on the scale of 1 to 5.
        note: what a reader has to know, such as that it was trained on replies to these conversations.
    """

    name: str
    overall: Floats
    dimensions: Floats | None = None
    in_points: bool = True
    note: str = ""

    @classmethod
    def of_rater(cls, rater: Rater, note: str = "") -> Rated:
        return cls(rater.name, aggregated(rater.ratings), rater.ratings, note=note)

    def on(self, rows: Sequence[int]) -> Rated:
        """The same for some of the conversations."""
        dimensions = None if self.dimensions is None else self.dimensions[rows]
        return Rated(self.name, self.overall[rows], dimensions, self.in_points, self.note)


@dataclass(frozen=True, slots=True)
class TrustRow:
    """Agreement on the dimensions that a rater gives, on their mean, and on the aggregate."""

    name: str
    scales: dict[str, Agreement]
    note: str


@dataclass(frozen=True, slots=True)
class TrustTable:
    """One table over so many conversations, the raters in order of the aggregate's rho, the experts first."""

    rows: tuple[TrustRow, ...]
    conversations: int
    resamples: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def trust_table(
    experts: Sequence[Rater], rated: Sequence[Rated], resamples: int, seed: int, rows: Sequence[int] | None = None
) -> TrustTable:
    """Everything in `rated` against the experts, and these among themselves, on the conversations `rows`.

    Raises:
        EvaluationDataError: fewer than two experts, or too few conversations.
    """
    chosen = list(range(len(experts[0].ratings))) if experts and rows is None else list(rows or [])
    if len(experts) < 2 or len(chosen) < FEWEST:
        raise EvaluationDataError(
            f"{len(experts)} experts and {len(chosen)} conversations; 2 and {FEWEST} are needed for any interval"
        )
    judges = [Rater(expert.name, expert.ratings[chosen]) for expert in experts]
    others = [one.on(chosen) for one in rated]
    six = [Rater(one.name, one.dimensions) for one in others if one.dimensions is not None]
    report = agreement_report([*six, *judges], resamples, seed)
    indices = draw(len(chosen), resamples, seed)
    wanted = [_Overall.of(aggregated(judge.ratings), indices) for judge in judges]
    overall = {one.name: _against(_Overall.of(one.overall, indices), wanted, one.in_points) for one in others}
    overall[AMONG_EXPERTS] = _mean_of([_pair(a, b, True) for a, b in combinations(wanted, 2)])
    notes = {one.name: one.note for one in others}
    table = [TrustRow(n, {**report.raters.get(n, {}), AGGREGATE: a}, notes.get(n, "")) for n, a in overall.items()]
    table.sort(key=lambda row: (row.name != AMONG_EXPERTS, -np.nan_to_num(row.scales[AGGREGATE].spearman, nan=-2.0)))
    return TrustTable(tuple(table), len(chosen), resamples)


def by_conversation(names: Sequence[str], owners: Sequence[str], values: Floats) -> Floats:
    """(T, ...) values of T turns to their means over conversations, in the order of `names`: (N, ...).

    Args:
        owners: (T,) the conversation of each turn.

    Raises:
        EvaluationDataError: a conversation without a turn.
    """
    rows: dict[str, list[int]] = {name: [] for name in names}
    for turn, owner in enumerate(owners):
        if owner in rows:
            rows[owner].append(turn)
    if without := [name for name, own in rows.items() if not own]:
        raise EvaluationDataError(f"conversation {without[0]!r} was rated, but has no supporter turn to score")
    return np.array([values[own].mean(axis=0) for own in rows.values()])


@dataclass(frozen=True, eq=False, slots=True)
class _Overall:
    """(N,) values with what the bootstrap needs: (R, N) counts and (1, R, N) ranks."""

    values: Floats
    counts: Floats
    ranks: Floats

    @classmethod
    def of(cls, values: Floats, indices: Indices) -> _Overall:
        return cls(values, counts_of(indices), resampled_ranks(values[:, None], indices))


_Sampled = tuple[float, Floats, float, Floats]  # kappa, (R,) kappas, rho, (R,) rhos


def _pair(left: _Overall, right: _Overall, in_points: bool) -> _Sampled:
    kappa, kappas = float("nan"), np.full(len(left.counts), np.nan)
    if in_points:
        kappa = weighted_kappa(left.values, right.values)
        kappas = resampled_kappa(left.values[:, None], right.values[:, None], left.counts)[:, 0]
    rhos = resampled_spearman(left.ranks, right.ranks)[:, 0]
    return kappa, kappas, spearman(left.values, right.values), rhos


def _against(own: _Overall, experts: Sequence[_Overall], in_points: bool) -> Agreement:
    return _mean_of([_pair(own, expert, in_points) for expert in experts])


def _mean_of(pairs: Sequence[_Sampled]) -> Agreement:
    kappa, kappas, rho, rhos = (mean_defined(np.array(column), axis=0) for column in zip(*pairs, strict=True))
    return Agreement(float(kappa), interval(kappas), float(rho), interval(rhos))


def tables_of(
    experts: Sequence[Rater],
    rated: Sequence[Rated],
    names: Sequence[str],
    kept_out: frozenset[str],
    resamples: int,
    seed: int,
) -> Mapping[str, TrustTable]:
    """The table over all conversations, and over those that were kept out of all training, where there are enough."""
    tables = {"all": trust_table(experts, rated, resamples, seed)}
    rows = [i for i, name in enumerate(names) if name in kept_out]
    if FEWEST <= len(rows) < len(names):
        tables["kept out"] = trust_table(experts, rated, resamples, seed, rows)
    return tables
