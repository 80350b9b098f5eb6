"""`rapport sft evaluate`. Heavy modules are imported when it runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sft.examples import Split


def evaluate(
    model: Annotated[Path, typer.Argument(help="The folder of a run, runs/<name>, or an exported one.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="data.* keys unlike those of the training, such as data.folder=DATA")
    ] = None,
    split: Annotated[
        str, typer.Option("--split", help="test or valid; by default test, or valid where the data have no test split.")
    ] = "",
    of_each: Annotated[
        int | None, typer.Option("--of-each", min=1, help="At most so many sequences of each source; else all.")
    ] = None,
    probe_rows: Annotated[
        int, typer.Option("--probe-rows", min=0, help="Fit a linear probe to so many training sequences; 0 for none.")
    ] = 0,
    out: Annotated[
        Path | None, typer.Option("--out", help="JSON with all labels; MODEL/evaluation-SPLIT.json by default.")
    ] = None,
) -> None:
    """Measure a fine-tuned model: LM loss, and how often its heads are right, beside the commonest label and a probe.

    Where GoEmotions is among the data the emotion head is measured on it alone, and the strategy head on ESConv.

    rapport sft evaluate runs/sft-quickstart

    rapport sft evaluate runs/sft-t4 --split test --of-each 500 --probe-rows 3000
    """
    wanted = split_of(split) if split else None
    from evaluation.asking.commands import progress
    from rl.files import write_atomically
    from sft.config import ConfigError
    from sft.measuring.evaluating import as_text, plan_evaluation
    from sft.measuring.evaluating import evaluate as run

    if out and not out.parent.is_dir():
        raise ConfigError(f"--out {out}: there is no folder {out.parent}; make it, or name a file in one that is there")
    planned = plan_evaluation(model, overrides or [], wanted, of_each, probe_rows)
    typer.echo(planned.describe())
    with progress("loading the model") as on_progress:
        found = run(planned, on_progress)
    typer.echo(as_text(found))
    target = out or model.expanduser() / f"evaluation-{planned.split.value}.json"
    write_atomically(target, json.dumps(found.as_dict(), indent=1))
    typer.echo(f"every label: {target}")


def split_of(name: str) -> Split:
    """What `--split` names; a usage error for `train` or anything else."""
    from sft.examples import Split

    if name not in (Split.VALID, Split.TEST):
        raise typer.BadParameter(f"{name!r}: expected valid or test", param_hint="--split")
    return Split(name)
