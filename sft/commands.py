"""`rapport sft`: train, quickstart, export. Heavy modules are imported when a command runs, so `--help` is quick."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sft.chat.commands import safety_check

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Fine-tune with emotion and strategy heads.")
app.command("safety-check")(safety_check)

Overrides = Annotated[
    list[str] | None, typer.Argument(help="key=value, for example data.folder=data optimizer.lr=1e-4")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print configuration and plan; load no weights.")]


@app.command()
def train(
    preset: Annotated[str, typer.Argument(help="A preset of configs/sft/ (quickstart, t4) or a YAML file.")],
    overrides: Overrides = None,
    dry_run: DryRun = False,
) -> None:
    """Fine-tune a model: language modelling, emotion and strategy heads, safety KL.

    A run that was interrupted goes on from its last checkpoint when it is started again with the same name and
    configuration.

    rapport sft train t4 data.folder=data --dry-run
    """
    from rl.typed_yaml import to_yaml
    from sft.config_loading import load_config

    config = load_config(preset, overrides or [])
    if dry_run:
        typer.echo(to_yaml(config))
    from sft.preparing import prepare  # brings in torch: a mistyped key is told before that

    prepared = prepare(config)
    typer.echo(prepared.describe())
    if dry_run:
        return
    from sft.training import train as run

    result = run(prepared)
    typer.echo(f"{result.steps} steps, best dev loss {result.best:.4f} after step {result.best_step}")
    typer.echo(f"model {result.folder / 'best'}, curves {result.folder / 'curves.png'}")


@app.command()
def quickstart(overrides: Overrides = None, dry_run: DryRun = False) -> None:
    """Fine-tune SmolLM2-135M with all heads on the shipped examples: minutes on 2 cores."""
    train("quickstart", overrides, dry_run)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="The folder of a run, runs/<name>, or of one of its checkpoints.")],
    out: Annotated[Path, typer.Option("--out", help="Where to write the Hugging Face folder; must not exist.")],
) -> None:
    """Merge the adapter of a run's best model and write a plain Hugging Face folder."""
    from sft.export import export_model

    typer.echo(f"{export_model(run, out)} -> {out}")
