"""The tagger on the command line: `rapport tag`, `rapport tagger train`, `rapport tagger evaluate`.

Models are imported inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from reward_servers.tactics.building import Builder

app = typer.Typer(no_args_is_help=True, help="Train and evaluate the tactic tagger.")
_console = Console(stderr=True)

DataOption = Annotated[Path, typer.Option("--data", help="Folder that holds mint/.")]
MachineOption = Annotated[
    Path | None, typer.Option("--machine-state", help="File of the first stage: read if it exists, else written.")
]
ThreadsOption = Annotated[int, typer.Option(min=1, help="Torch threads.")]


def tag(
    in_path: Annotated[Path, typer.Argument(metavar="IN.jsonl", help='Lines {"response": ...}.')],
    out_path: Annotated[Path, typer.Option("--out", metavar="OUT.jsonl", help="Written when all lines are tagged.")],
    weights: Annotated[
        Path | None, typer.Option(help="Folder of a trained tagger; the shipped one if not given.")
    ] = None,
    threads: ThreadsOption = 1,
) -> None:
    """Add the tactics of every sentence to a file of replies."""
    from reward_servers.tactics.tag_file import check_file, tag_file

    check_file(in_path, out_path)
    import torch

    from reward_servers.tactics.encoder_tagger import EncoderTagger

    torch.set_num_threads(threads)
    tagger = EncoderTagger.load(weights)
    with _progress("tagging") as bar:
        size = in_path.stat().st_size if in_path.is_file() else None
        task = bar.add_task("tagging", total=size, note="")
        replies, sentences = tag_file(in_path, out_path, tagger, lambda read: bar.update(task, completed=read))
    _console.print(f"{replies} replies, {sentences} sentences tagged by {tagger.version} -> {out_path}")


@app.command()
def train(
    data: DataOption,
    out: Annotated[Path, typer.Option(help="Folder for weights, configuration and figures.")],
    machine_state: MachineOption = None,
    folds: Annotated[int, typer.Option(min=2, help="Folds over the human-labelled replies.")] = 5,
    threads: ThreadsOption = 1,
) -> None:
    """Cross-validate, then train on all labels and save. Thresholds of the saved tagger are the out-of-fold ones."""
    with _builder(data, threads) as builder:
        from reward_servers.tactics.evaluation import best_thresholds
        from reward_servers.tactics.shipping import save_tagger

        state = _machine_state(builder, machine_state or out / "machine.safetensors")
        validation = builder.cross_validate(state, folds)
        thresholds = best_thresholds(validation.truth, validation.probabilities)
        network = builder.human_stage(state, builder.data.human)
        save_tagger(out, network, builder.config(thresholds))
        agreement = builder.agreement_on_held_out(network, thresholds)
        figures = {
            "cross_validation": validation.evaluation().as_dict(),
            "cross_validation_at_one_half": validation.evaluation_at_one_half().as_dict(),
            "held_out_conversations_agreement": [round(float(x), 4) for x in agreement],
        }
        (out / "figures.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    _console.print_json(data=figures)


@app.command()
def evaluate(
    data: DataOption,
    machine_state: MachineOption = None,
    folds: Annotated[int, typer.Option(min=2, help="Folds over the human-labelled replies.")] = 5,
    threads: ThreadsOption = 1,
) -> None:
    """Macro F1 per tactic on human labels, each reply judged by a model that never saw it."""
    with _builder(data, threads) as builder:
        state = _machine_state(builder, machine_state)
        figures = builder.cross_validate(state, folds).evaluation().as_dict()
    _console.print_json(data=figures)


def _machine_state(builder: Builder, path: Path | None) -> dict:  # type: ignore[type-arg]
    from safetensors.torch import load_file, save_file

    if path is not None and path.is_file():
        return load_file(path)
    state = builder.machine_stage().trained_state()
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    return state


@contextmanager
def _builder(data: Path, threads: int) -> Iterator[Builder]:
    """A builder on the labels in `data` that shows the steps of each stage while the context lasts."""
    import torch

    from reward_servers.tactics.building import Builder, load_tag_data

    torch.set_num_threads(threads)
    labels = load_tag_data(data)
    with _progress("training") as bar:
        task = bar.add_task("training", total=None, note="")
        yield Builder(
            labels,
            progress=lambda step, steps, loss: bar.update(task, completed=step, total=steps, note=f"loss {loss:.2f}"),
        )


def _progress(what: str) -> Progress:
    columns = (TextColumn(what), BarColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}"))
    return Progress(*columns, console=_console, transient=True, disable=not sys.stderr.isatty())
