"""Does a run learn beyond run-to-run noise? Train one preset with several seeds and look at the spread between them.

    python benchmarks/seeds.py quickstart [key=value ...] --seeds 0,1,2

Runs one after the other (a finished one is not repeated), then prints for every measure of the closing tables

- the mean change over the seeds, its standard deviation between seeds, and the t statistic of the mean against zero:
  would another seed rise too? With three seeds |t| above 4.3 is the 5 % level of a two-sided test;
- the change with the replies of all seeds taken together, and its 95 % interval by bootstrap over the held-out turns:
  how far do the turns at hand carry? All replies to a turn are scaled in one group, so the reward differs from the
  mean above.

Left out on purpose: anything that the closing table of a run does not hold.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from rl.closing import Closing, compare
from rl.config_loading import load_config
from rl.evaluation import EvalRun

LIMIT_S = 2 * 3600


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset")
    parser.add_argument("overrides", nargs="*", help="key=value, as for rapport train")
    parser.add_argument("--seeds", type=numbers, default=[0, 1, 2], help="with commas; 0,1,2 if not given")
    parser.add_argument("--output-dir", type=Path, default=Path("runs"))
    arguments = parser.parse_args()
    folders = []
    for seed in arguments.seeds:
        name = f"{Path(arguments.preset).stem}-seed{seed}"
        keys = [f"seed={seed}", f"name={name}", f"output_dir={arguments.output_dir}", *arguments.overrides]
        command = [sys.executable, "-m", "rapport", "train", arguments.preset, *keys]
        subprocess.run(command, check=True, timeout=LIMIT_S)
        folders.append(arguments.output_dir / name)
    console = Console(width=120)
    console.print(spread_table([closing_of(folder) for folder in folders], arguments.seeds))
    changes, _ = together(folders).tables()
    console.print("all replies of these seeds together", changes)


def numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def closing_of(folder: Path) -> dict[str, Any]:
    closing: dict[str, Any] = json.loads((folder / "closing.json").read_text())
    return closing


def spread_table(closings: list[dict[str, Any]], seeds: list[int]) -> Table:
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


def together(folders: list[Path]) -> Closing:
    """The closing table of all runs' replies, before and after, as if one policy had given them; without probes."""
    sides: list[EvalRun] = []
    for side in ("before_step", "after_step"):
        runs = [EvalRun.load(EvalRun.path(folder, closing_of(folder)[side])) for folder in folders]
        replies = tuple(reply for run in runs for reply in run.replies)
        sides.append(EvalRun(runs[0].step, replies, sum(run.unscored for run in runs)))
    changes = compare(sides[0], sides[1], load_config(str(folders[0] / "config.yaml")).reward)
    return Closing(sides[0].step, sides[1].step, len({reply.prompt_id for reply in sides[0].replies}), changes, ())


if __name__ == "__main__":
    main()
