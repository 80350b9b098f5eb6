"""The taggers on the command line: `rapport tag`, and `rapport tagger` for what makes and measures them.

`train` and `evaluate` are about the encoder; `train-lora`, `adopt` and `evaluate-lora` about adapters on an LLM.

Models are imported inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from dialogue.tactics import TACTICS
from reward_servers.lora_tagger.commands import adopt, evaluate_lora, train_lora

if TYPE_CHECKING:
    from reward_servers.tactics.building import Builder, State
    from reward_servers.tactics.tag_file import Agreement

app = typer.Typer(
    no_args_is_help=True,
    help="""Train and evaluate tactic taggers.

    Two kinds: one small encoder for all ten tactics (train, evaluate), which is shipped and fast; and ten LoRA adapters
    on one language model, the paper's (train-lora, adopt, evaluate-lora), which vLLM serves. Either is used by
    `rapport tag --tagger FOLDER`, by `rapport serve` and in training.""",
)
app.command("train-lora")(train_lora)
app.command("adopt")(adopt)
app.command("evaluate-lora")(evaluate_lora)
_console = Console(stderr=True)

DataOption = Annotated[Path, typer.Option("--data", help="Folder that holds mint/.")]
MachineOption = Annotated[
    Path | None, typer.Option("--machine-state", help="File of the first stage: read if it exists, else written.")
]
ThreadsOption = Annotated[int, typer.Option(min=1, help="Torch threads.")]


class OutFolderError(ValueError):
    """A folder that cannot be written. The message names it."""


def tag(
    in_path: Annotated[Path, typer.Argument(metavar="FILE", help="Replies or conversations: .json or .jsonl.")],
    out_path: Annotated[Path, typer.Option("--out", metavar="OUT", help="Written when all replies are tagged.")],
    tagger: Annotated[
        Path | None, typer.Option("--tagger", help="Folder of a tagger of either kind; the shipped one if absent.")
    ] = None,
    threads: ThreadsOption = 1,
) -> None:
    """Add the tactics of every sentence to a file of replies or conversations.

    \b
    FILE is one of
      [{"conversation_id", "conversation": [{"role", "content"}]}]  MINT's
      [{"model_response", ...}]                                     its systems'
      {"id", "turns": [{"role", "text"}]}  on each line             ours
      {"response": "..."}                  on each line             replies alone

    OUT has the same layout, with sentences, sentence_tactics, their probabilities and (but for replies alone)
    tactic_counts beside each reply of the supporter. Where FILE has sentence_tactics already, the agreement with them
    is printed. A run that was stopped goes on where it was when it is started again; what it has done is in a hidden
    file beside OUT until OUT is there.

    \b
    rapport tag conversations_322.json --out conversations_322_tagged.json
    rapport tag replies.jsonl --tagger runs/lora-tagger --out tagged.jsonl
    """
    from reward_servers.tactics.tag_file import check_file, tag_file

    replies = check_file(in_path, out_path)
    _check_tagger(tagger)
    import torch

    from reward_servers.progress import shown_progress
    from reward_servers.tactics.kinds import load_any_tagger

    torch.set_num_threads(threads)
    with _console.status("loading the tagger"):
        model = load_any_tagger(tagger)
    with shown_progress("tagging", _console) as told:
        done = tag_file(replies, out_path, model, lambda n, total: told(n, total))
    _console.print(f"{done.replies} replies, {done.sentences} sentences tagged by {model.version} -> {out_path}")
    if done.agreement is not None:
        _print_agreement(done.agreement)


def _check_tagger(folder: Path | None) -> None:
    """What can be said of a tagger's folder before anything heavy is imported."""
    from reward_servers.service_config import tagger_deployment

    tagger_deployment(str(folder or ""))


def _print_agreement(agreement: Agreement) -> None:
    if agreement.replies_cut_otherwise:
        _console.print(f"{agreement.replies_cut_otherwise} replies have tags of another number of sentences: left out")
    if not agreement.sentences:
        return
    table = Table(title=f"agreement with the tags in the file, {agreement.sentences} sentences")
    table.add_column("tactic")
    table.add_column("macro F1", justify="right")
    for tactic, value in zip(TACTICS, agreement.macro_f1, strict=True):
        table.add_row(tactic.value, f"{value:.3f}")
    table.add_row("mean", f"{sum(agreement.macro_f1) / len(TACTICS):.3f}", style="bold")
    _console.print(table)
    _console.print(f"{agreement.equal:.1%} of all yes and no are the same")


@app.command()
def train(
    data: DataOption,
    out: Annotated[Path, typer.Option(help="Folder for weights, configuration and figures.")],
    machine_state: MachineOption = None,
    folds: Annotated[int, typer.Option(min=2, help="Folds over the human-labelled replies.")] = 5,
    threads: ThreadsOption = 1,
) -> None:
    """The encoder: cross-validate, train on all labels, save. The saved thresholds are the out-of-fold ones.

    The first stage, on machine tags, takes by far the longest and is kept in OUT/machine.safetensors: a run that was
    stopped after it goes on from there. It is used again only for the same labels and recipe.

    For LoRA adapters on a language model see `rapport tagger train-lora`.
    """
    _make_folder(out)
    if machine_state is not None:
        _make_folder(machine_state.parent)
    with _builder(data, folds, threads) as builder:
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
    typer.echo(json.dumps(figures, indent=1))


@app.command()
def evaluate(
    data: DataOption,
    machine_state: MachineOption = None,
    folds: Annotated[int, typer.Option(min=2, help="Folds over the human-labelled replies.")] = 5,
    threads: ThreadsOption = 1,
) -> None:
    """The encoder: macro F1 per tactic on human labels, each reply judged by a model that never saw it."""
    if machine_state is not None:
        _make_folder(machine_state.parent)
    with _builder(data, folds, threads) as builder:
        state = _machine_state(builder, machine_state)
        figures = builder.cross_validate(state, folds).evaluation().as_dict()
    typer.echo(json.dumps(figures, indent=1))


def _machine_state(builder: Builder, path: Path | None) -> State:
    """The first stage: from the file where it is there, else trained and kept there."""
    from reward_servers.tactics.machine_state import load_state, save_state

    if path is not None and path.is_file():
        return load_state(path, builder.machine_identity)
    state = builder.machine_stage().trained_state()
    if path is not None:
        save_state(path, state, builder.machine_identity)
    return state


def _make_folder(folder: Path) -> None:
    """Before hours of training, not after them."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutFolderError(f"{folder}: cannot be made ({error.strerror}); give another folder") from error


@contextmanager
def _builder(data: Path, folds: int, threads: int) -> Iterator[Builder]:
    """A builder on the labels in `data` that shows the steps of each stage while the context lasts."""
    import torch

    from reward_servers.progress import shown_progress
    from reward_servers.tactics.building import Builder, load_tag_data

    torch.set_num_threads(threads)
    labels = load_tag_data(data)
    with shown_progress("training", _console) as told:

        def on_step(stage: str, step: int, steps: int, loss: float) -> None:
            told(step, steps, f"{stage}: loss {loss:.2f}")

        builder = Builder(labels, on_step=on_step)
        builder.check_folds(folds)
        yield builder
