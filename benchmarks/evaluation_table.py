"""The vectorised bootstrap of `rapport evaluate table` against a plain loop over resamples, as a ratio within one run.

    python -m benchmarks.evaluation_table DIR --gold DIR/gold

Both get the same drawn turns, so the p-values against gold have to agree: the largest difference is printed. The loop
is what one would write first, and how the paper's procedure reads: for each resample, each system and each column, the
mean over the drawn turns; stickiness by walking over the drawn turns and the tactics before them. Numbers are read off
the replies before the clock starts, for both. Times are processor seconds of all threads, so that other programs on the
machine weigh little; the vectorised one is the median of five.

With `--loop-resamples` below `--resamples` the loop runs on the first of the same resamples only, its time is scaled up
in proportion, and the printed line says so; p-values are then compared on those resamples.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dialogue.tactics import Tactic, tactics_of_counts
from evaluation.bootstrap import Indices, counts_of, draw, p_value
from evaluation.columns import COLUMNS, MEANS, Cells, cells_of, columns_of, uses_of
from evaluation.ratings import Floats, aggregated
from evaluation.systems import Reply, System, align, load_systems, previous_replies

VECTORISED_REPEATS = 5


@dataclass(frozen=True)
class Plain:
    """What the loop reads: N values for each of nine means, and the tactics of N turns and of those before them."""

    means: list[Floats]
    tactics: list[set[Tactic]]
    previous: list[set[Tactic]]


def plain_of(system: System, previous: list[Reply | None]) -> Plain:
    words = np.array([len(reply.text.split()) for reply in system.replies], dtype=np.float64)
    tactics = [set(tactics_of_counts(reply.counts)) for reply in system.replies]
    distinct = np.array([len(names) for names in tactics], dtype=np.float64)
    means = [words, *system.ratings.T, aggregated(system.ratings), distinct]
    before = [set(tactics_of_counts(reply.counts)) if reply else set() for reply in previous]
    return Plain(means, tactics, before)


def plain_columns(plain: Plain, drawn: Indices) -> list[float]:
    """The ten columns of one system in one resample."""
    values = [float(mean_of(column[drawn])) for column in plain.means]
    repeated: dict[Tactic, list[bool]] = {}
    for i in drawn.tolist():
        for tactic in plain.previous[i]:
            repeated.setdefault(tactic, []).append(tactic in plain.tactics[i])
    shares = [sum(flags) / len(flags) for flags in repeated.values()]
    return [*values, sum(shares) / len(shares) if shares else float("nan")]


def mean_of(values: Floats) -> Any:
    """The mean of what is not blank; a plain mean, which is quicker, where nothing is."""
    mean = values.mean()
    return np.nanmean(values) if np.isnan(mean) else mean


def loop(plains: list[Plain], indices: Indices) -> Floats:
    """(systems, R, 10)"""
    samples = [[plain_columns(plain, drawn) for plain in plains] for drawn in indices]
    return np.array(samples).transpose(1, 0, 2)


def vectorised(cells: list[Cells], indices: Indices) -> Floats:
    """(systems, R, 10)"""
    counts = counts_of(indices)
    return np.array([columns_of(one, counts) for one in cells])


def p_values(samples: Floats) -> Floats:
    """(systems - 1, 10) against the first system."""
    differences = samples[1:] - samples[0]
    return np.array([[p_value(row[:, k]) for k in range(len(COLUMNS))] for row in differences])


def timed(work: Callable[[], Floats], repeats: int) -> tuple[Floats, float]:
    """The result and the median processor time."""
    seconds = []
    for _ in range(repeats):
        started = time.process_time()
        result = work()
        seconds.append(time.process_time() - started)
    return result, statistics.median(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("systems", type=Path, metavar="DIR")
    parser.add_argument("--gold", type=Path, required=True)
    parser.add_argument("--resamples", type=int, default=10_000)
    parser.add_argument("--loop-resamples", type=int, help="the same number, unless given")
    options = parser.parse_args()
    looped = min(options.loop_resamples or options.resamples, options.resamples)

    systems = load_systems(options.systems, options.gold)
    aligned = align(systems, systems[0])
    previous = previous_replies(aligned[0].replies, systems[0])
    cells = [cells_of(system, uses_of(previous)) for system in aligned]
    plains = [plain_of(system, previous) for system in aligned]
    indices = draw(len(previous), options.resamples, seed=0)

    fast, fast_seconds = timed(lambda: vectorised(cells, indices), VECTORISED_REPEATS)
    slow, slow_seconds = timed(lambda: loop(plains, indices[:looped]), 1)
    scale = options.resamples / looped
    how = "measured" if looped == options.resamples else f"{slow_seconds:.1f} s for {looped:,}, scaled up"
    print(
        f"{len(aligned)} systems, {len(previous)} turns, {len(COLUMNS)} columns ({len(MEANS)} means and stickiness), "
        f"{options.resamples:,} resamples: vectorised {fast_seconds:.2f} s, loop {slow_seconds * scale:.1f} s ({how}); "
        f"loop/vectorised {slow_seconds * scale / fast_seconds:.0f}"
    )
    gap = np.nanmax(np.abs(slow - fast[:, :looped]))
    p_gap = np.nanmax(np.abs(p_values(slow) - p_values(fast[:, :looped])))
    print(f"largest difference between the two, on {looped:,} resamples: values {gap:.1e}, p-values {p_gap:.1e}")


if __name__ == "__main__":
    main()
