"""The tables as they are printed: one row per system or rater, values with their 95 % intervals below them.

A table that is wider than the terminal is cut into several with the same rows, so that no number is ever cropped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dialogue.tactics import TACTICS
from evaluation.agreement import SCALES, AgreementReport
from evaluation.columns import COLUMNS, RATED
from evaluation.diversity import Diversity
from evaluation.table import EvaluationTable, TableRow
from evaluation.trust import AGGREGATE, TrustRow, TrustTable

SIGNIFICANT = 0.05
WIDTH_OF_FILES = 180  # characters, where the output is no terminal

Row = tuple[str, Sequence[Text | str]]

_NAME_WIDTH = 30  # longer names are folded on a narrow terminal
_CELL_WIDTH = 14  # the widest usual cell with its border

HEADINGS = {
    "words": "words",
    "validating_emotions": "validating ↑",
    "encouraging_elaboration": "elaboration ↑",
    "demonstrating_understanding": "understand. ↑",
    "advice_giving": "advice ↓",
    "self_oriented": "self-oriented ↓",
    "dismissing_emotions": "dismissing ↓",
    "aggregated_empathy": "empathy ↑",
    "tac_per_turn": "tactics",
    "stickiness": "stickiness ↓",
    "mean": "mean",
}
_OVERVIEW = {
    "stickiness": "stickiness",
    "surface_similarity": "bigram similarity",
    "tactic_repetition": "tactic repetition",
    "rank_correlation": "rho of the two",
}


def result_console() -> Console:
    """For results, on standard output; wide enough for whole tables where no terminal sets the width."""
    console = Console()
    return console if console.is_terminal else Console(width=max(console.width, WIDTH_OF_FILES))


def print_systems(result: EvaluationTable, console: Console, rated_by: str | None = None) -> None:
    """All systems by all columns; a star marks a difference from the baseline that holds after Holm's adjustment.

    Args:
        rated_by: who gave the ratings, for the headings of their columns; None is the judge of the paper.
    """
    title = f"{result.rows[0].turns} turns; 95 % intervals from {result.resamples:,} resamples over {result.unit}s"
    rows = [
        (row.system, [_cell(row.values[c], row.intervals[c], is_significant(row, c)) for c in COLUMNS])
        for row in result.rows
    ]
    _print(console, title, "system", [heading(column, rated_by) for column in COLUMNS], rows)
    for note in notes_on(result):
        console.print(note, highlight=False, markup=False)


def heading(column: str, rated_by: str | None = None, line_break: str = "\n") -> str:
    """A column's heading; under that of a rating, who gave it."""
    name = HEADINGS[column]
    return f"{name}{line_break}({rated_by})" if rated_by and column in RATED else name


def is_significant(row: TableRow, column: str) -> bool:
    return column in row.tests and row.tests[column].p_holm < SIGNIFICANT


def resamples_needed(tests: int) -> int:
    """The fewest with which the smallest p-value there is, 2 / (R + 1), is below 0.05 after Holm's adjustment."""
    return round(2 * tests / SIGNIFICANT)


def notes_on(result: EvaluationTable) -> list[str]:
    notes = []
    if result.tests:
        tests = [test for row in result.rows for test in row.tests.values()]
        unadjusted = sum(test.p < SIGNIFICANT for test in tests)
        adjusted = sum(test.p_holm < SIGNIFICANT for test in tests)
        notes.append(
            f"* differs from {result.baseline}: two-sided paired bootstrap, p < {SIGNIFICANT} after Holm's adjustment "
            f"for the {result.tests} tests of this table: {adjusted} of them, {unadjusted} without the adjustment."
        )
        if result.resamples < (needed := resamples_needed(result.tests)):
            notes.append(
                f"No difference can get a star here: the smallest p of {result.resamples:,} resamples times "
                f"{result.tests} tests is not below {SIGNIFICANT}. --resamples {needed} is enough."
            )
    blank = [row for row in result.rows if row.blank_ratings]
    return notes + [f"{row.system}: {row.blank_ratings} blank rating(s), left out of the means." for row in blank]


def print_agreement(report: AgreementReport, console: Console) -> None:
    """Kappa and rho, raters by dimensions."""
    against = f"with {', '.join(report.experts)}, mean over them, on {report.conversations} conversations"
    headings = [HEADINGS[scale].rstrip(" ↑↓") for scale in SCALES]
    raters = report.raters.items()
    kappas = [(rater, [_cell(by[s].kappa, by[s].kappa_interval) for s in SCALES]) for rater, by in raters]
    rhos = [(rater, [_cell(by[s].spearman, by[s].spearman_interval) for s in SCALES]) for rater, by in raters]
    _print(console, f"Quadratically weighted kappa {against}", "rater", headings, kappas)
    _print(console, f"Spearman's rho {against}", "rater", headings, rhos)


def print_trust(tables: Mapping[str, TrustTable], console: Console) -> None:
    """Per set of conversations: aggregate and dimensions by rho, and the aggregate by kappa; notes below."""
    for which, table in tables.items():
        shown = [AGGREGATE, *SCALES]
        headings = ["rho, aggregate", "kappa, aggregate", *(f"rho, {HEADINGS[s].rstrip(' ↑↓')}" for s in SCALES)]
        rows = []
        for row in table.rows:
            rhos = [_rho_cell(row, scale) for scale in shown]
            total = row.scales[AGGREGATE]
            rows.append((row.name, [rhos[0], _cell(total.kappa, total.kappa_interval), *rhos[1:]]))
        title = f"Agreement with the experts, mean over them: {which}, {table.conversations} conversations"
        _print(console, title, "who", headings, rows)
    for row in next(iter(tables.values())).rows:
        if row.note:
            console.print(f"{row.name}: {row.note}", highlight=False, markup=False)


def _rho_cell(row: TrustRow, scale: str) -> Text | str:
    found = row.scales.get(scale)
    return "" if found is None else _cell(found.spearman, found.spearman_interval)


def print_diversity(results: Sequence[Diversity], console: Console) -> None:
    """Overview, reuse of each tactic, stickiness and prevalence by turn; the matrices are in the file only."""
    tactics = [tactic.value.replace("_", " ") for tactic in TACTICS]
    _print(
        console, "From one turn to the next", "system", [*_OVERVIEW.values(), "turns"], list(map(_overview, results))
    )
    title = "Reuse: share of turns with the tactic where the previous turn has it; in brackets, where it has not"
    _print(console, title, "system", tactics, list(map(_reuse, results)))
    numbers = sorted({int(number) for result in results for number in result.turn_numbers})[1:]
    rows = [(result.system, _stickiness_at(result, numbers)) for result in results]
    _print(console, "Stickiness by number of the supporter turn", "system", list(map(str, numbers)), rows)
    for result in results:
        by_turn = zip(result.turn_numbers, result.replies_by_turn, result.prevalence, strict=True)
        rows = [(f"{number} ({replies})", list(map(rounded, shares))) for number, replies, shares in by_turn]
        _print(console, f"{result.system}: share of replies with a tactic", "turn (replies)", tactics, rows)


def _overview(result: Diversity) -> Row:
    measures = result.as_dict()
    return result.system, [*(rounded(measures[name], digits=3) for name in _OVERVIEW), str(len(result.similarity))]


def _reuse(result: Diversity) -> Row:
    pairs = zip(result.reuse, result.reuse_baseline, strict=True)
    return result.system, [f"{rounded(after)} ({rounded(without)})" for after, without in pairs]


def _stickiness_at(result: Diversity, numbers: Sequence[int]) -> list[str]:
    known = dict(zip(result.turn_numbers.tolist(), result.stickiness_by_turn.tolist(), strict=True))
    return [rounded(known.get(number, math.nan)) for number in numbers]


def _print(console: Console, title: str, first: str, headings: Sequence[str], rows: Sequence[Row]) -> None:
    """One table, or several with some of the columns each where the console is narrow."""
    fitting = max(1, (console.width - _NAME_WIDTH) // _CELL_WIDTH)
    for start in range(0, len(headings), fitting):
        table = Table(title=title if start == 0 else None, title_justify="left", row_styles=["", "on grey7"])
        table.add_column(first, overflow="fold")
        for heading in headings[start : start + fitting]:
            table.add_column(heading, justify="right", overflow="fold")
        for name, cells in rows:
            table.add_row(Text(name), *cells[start : start + fitting])
        console.print(table)


def _cell(value: float, interval: tuple[float, float], star: bool = False) -> Text:
    low, high = map(rounded, interval)
    return Text(f"{rounded(value)}{'*' if star else ' '}\n").append(f"{low} {high}", style="dim")


def rounded(value: float, digits: int = 2) -> str:
    """A measure as it is shown: a dash where it is undefined."""
    if math.isnan(value):
        return "-"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.{digits}f}"
