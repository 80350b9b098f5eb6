"""A calibration as it is printed: agreement as of any rater, then the judge with itself, then the verdict."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from evaluation.judge.calibration import Calibration, Figure
from evaluation.printing import print_agreement


def print_calibration(result: Calibration, console: Console) -> None:
    """Tables with 95 % intervals; what is missing and which floors were missed, in words."""
    print_agreement(result.agreement, console)
    table = Table(title="The judge with itself", title_justify="left")
    for heading in ("dimension", "test-retest kappa", "mean distance", "shift when the order is reversed"):
        table.add_column(heading, justify="left" if heading == "dimension" else "right")
    for name, figures in result.stability.items():
        cells = (figures.retest_kappa, figures.retest_distance, figures.position_shift)
        table.add_row(name, *map(_shown, cells))
    console.print(table)
    for name, why in result.missing.items():
        console.print(f"no ratings of {name}: {why}", highlight=False, markup=False)
    verdict = "every floor is reached" if not result.problems else "below the floor: " + "; ".join(result.problems)
    console.print(verdict, highlight=False, markup=False)


def _shown(figure: Figure) -> str:
    return f"{figure.value:.2f} ({figure.low:.2f} to {figure.high:.2f})"
