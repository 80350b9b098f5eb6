"""`rapport evaluate table`: every column of every system, with intervals and tests against a baseline.

Intervals are percentile intervals of a bootstrap over turns, as in the paper. Turns of one conversation hang together,
so these are on the narrow side: `Unit.CONVERSATION` draws whole conversations instead, and is wider.

Tests are two-sided and paired: both systems are weighted by the same resamples. A table holds many of them, one per
column and system, so some fall below 0.05 by chance alone; `p_holm` is adjusted for the number of all tests in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from evaluation.bootstrap import counts_of, draw, holm, interval, p_value
from evaluation.columns import COLUMNS, cells_of, columns_of, uses_of
from evaluation.files import EvaluationDataError
from evaluation.ratings import Floats
from evaluation.systems import System, align, previous_replies

Interval = tuple[float, float]


class Unit(StrEnum):
    """What the bootstrap draws: single turns, as the paper does, or whole conversations."""

    TURN = "turn"
    CONVERSATION = "conversation"


@dataclass(frozen=True, slots=True)
class Comparison:
    """A system less the baseline on one column; the p-value as it is, and adjusted for all tests of the table."""

    difference: float
    interval: Interval
    p: float
    p_holm: float


@dataclass(frozen=True, slots=True)
class TableRow:
    """One system. All dictionaries are column -> value; `tests` is empty for the baseline itself."""

    system: str
    values: dict[str, float]
    intervals: dict[str, Interval]
    tests: dict[str, Comparison]
    turns: int
    blank_ratings: int


@dataclass(frozen=True, slots=True)
class EvaluationTable:
    """All systems, gold first, and how they were compared; `tests` is how many p-values the table holds."""

    rows: tuple[TableRow, ...]
    baseline: str
    resamples: int
    unit: Unit
    tests: int

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """{system: {column: value, "intervals": ..., "comparison": ..., "turns": ..., "blank_ratings": ...}}."""
        return {row.system: self._row_as_dict(row) for row in self.rows}

    def _row_as_dict(self, row: TableRow) -> dict[str, Any]:
        tests = {
            column: {"difference": t.difference, "interval": t.interval, "p": t.p, "p_holm": t.p_holm}
            for column, t in row.tests.items()
        }
        how = {"resamples": self.resamples, "resampled": self.unit.value, "tests_in_table": self.tests}
        return {
            **row.values,
            "intervals": row.intervals,
            "comparison": {"baseline": self.baseline, **how, "columns": tests},
            "turns": row.turns,
            "blank_ratings": row.blank_ratings,
        }


@dataclass(frozen=True, eq=False, slots=True)
class _Measured:
    """(10,) values and (R, 10) resampled ones of a system, in the order of `COLUMNS`."""

    system: System
    values: Floats
    samples: Floats


def make_table(
    systems: Sequence[System],
    gold: System,
    baseline: str | None = None,
    resamples: int = 10_000,
    unit: Unit = Unit.TURN,
    seed: int = 0,
    shared_only: bool = False,
    on_system: Callable[[str], None] | None = None,
) -> EvaluationTable:
    """The table of `systems`, which may hold gold itself.

    Args:
        baseline: name of the system that the others are tested against; the first of them if None.
        shared_only: see `evaluation.systems.align`.

    Raises:
        EvaluationDataError: no system of that name, or the systems' turns differ.
    """
    names = [system.name for system in systems]
    baseline = names[0] if baseline is None else baseline
    if baseline not in names:
        raise EvaluationDataError(f"no system {baseline!r} to compare with; the systems are {', '.join(names)}")
    aligned = align(systems, gold, shared_only)
    previous_uses = uses_of(previous_replies(aligned[0].replies, gold))
    counts = turn_counts(aligned[0], resamples, unit, seed)
    measured = []
    for system in aligned:
        if on_system is not None:
            on_system(system.name)
        cells = cells_of(system, previous_uses)
        values = columns_of(cells, np.ones((1, len(system.replies))))[0]
        measured.append(_Measured(system, values, columns_of(cells, counts)))
    differences = _differences(measured, names.index(baseline))
    tests = sum(not np.isnan(test.p) for row in differences for test in row.values())
    rows = tuple(_row(one, row) for one, row in zip(measured, differences, strict=True))
    return EvaluationTable(rows, baseline, resamples, unit, tests)


def turn_counts(system: System, resamples: int, unit: Unit, seed: int) -> Floats:
    """(R, N) how often each of the system's turns counts in each resample."""
    if unit is Unit.TURN:
        return counts_of(draw(len(system.replies), resamples, seed))
    conversations = list(dict.fromkeys(reply.conversation for reply in system.replies))
    drawn = counts_of(draw(len(conversations), resamples, seed))  # (R, conversations)
    return drawn[:, [conversations.index(reply.conversation) for reply in system.replies]]


def _differences(measured: Sequence[_Measured], baseline: int) -> list[dict[str, Comparison]]:
    """Per system the tests against the baseline, Holm's adjustment taken over all of them."""
    base = measured[baseline]
    places = [(i, k) for i in range(len(measured)) if i != baseline for k in range(len(COLUMNS))]
    spread = {(i, k): measured[i].samples[:, k] - base.samples[:, k] for i, k in places}
    p_values = [p_value(spread[place]) for place in places]
    tests: list[dict[str, Comparison]] = [{} for _ in measured]
    for (i, k), p, adjusted in zip(places, p_values, holm(p_values), strict=True):
        difference = float(measured[i].values[k] - base.values[k])
        tests[i][COLUMNS[k]] = Comparison(difference, interval(spread[i, k]), p, adjusted)
    return tests


def _row(one: _Measured, tests: dict[str, Comparison]) -> TableRow:
    return TableRow(
        system=one.system.name,
        values={column: float(value) for column, value in zip(COLUMNS, one.values, strict=True)},
        intervals={column: interval(one.samples[:, k]) for k, column in enumerate(COLUMNS)},
        tests=tests,
        turns=len(one.system.replies),
        blank_ratings=one.system.blank_ratings(),
    )
