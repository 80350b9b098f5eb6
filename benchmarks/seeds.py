"""Does a run learn beyond run-to-run noise? Train one preset with several seeds and look at the spread between them.

    python benchmarks/seeds.py quickstart [key=value ...] --seeds 0,1,2

Runs one after the other (a finished one is not repeated), then prints for every measure of the closing tables the mean
change over the seeds, its standard deviation between seeds, and the t statistic of the mean against zero. With three
seeds |t| above 4.3 is the 5 % level of a two-sided test. Left out on purpose: anything that the closing table of a run
does not hold.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

LIMIT_S = 2 * 3600


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset")
    parser.add_argument("overrides", nargs="*", help="key=value, as for rapport train")
    parser.add_argument("--seeds", type=numbers, default=[0, 1, 2], help="with commas; 0,1,2 if not given")
    parser.add_argument("--output-dir", type=Path, default=Path("runs"))
    arguments = parser.parse_args()
    closings = []
    for seed in arguments.seeds:
        name = f"{Path(arguments.preset).stem}-seed{seed}"
        keys = [f"seed={seed}", f"name={name}", f"output_dir={arguments.output_dir}", *arguments.overrides]
        command = [sys.executable, "-m", "rapport", "train", arguments.preset, *keys]
        subprocess.run(command, check=True, timeout=LIMIT_S)
        closings.append(json.loads((arguments.output_dir / name / "closing.json").read_text()))
    Console(width=120).print(spread_table(closings, arguments.seeds))


def numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def spread_table(closings: list[dict], seeds: list[int]) -> Table:
    """Mean change, spread between seeds and t, for every row that all closing tables have."""
    table = Table(title=f"after - before, {len(seeds)} seeds: {seeds}")
    for heading in ("measure", "before", "after", "mean change", "sd between seeds", "t"):
        table.add_column(heading, justify="left" if heading == "measure" else "right")
    for rows in zip(*(closing["changes"] for closing in closings), strict=True):
        before, after = (np.array([row[side] for row in rows], float) for side in ("before", "after"))
        change = after - before
        sd = change.std(ddof=1) if len(rows) > 1 else float("nan")
        t = change.mean() / (sd / np.sqrt(len(rows))) if sd > 0 else float("nan")
        shown = [f"{before.mean():.3f}", f"{after.mean():.3f}", f"{change.mean():+.3f}", f"{sd:.3f}", f"{t:+.1f}"]
        table.add_row(rows[0]["name"].replace("_", " "), *shown)
    return table


if __name__ == "__main__":
    main()
