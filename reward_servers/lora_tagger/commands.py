"""`rapport tagger train-lora`, `adopt` and `evaluate-lora`. Models are imported inside, so that `--help` is quick."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from dialogue.tactics import TACTICS, Tactic

if TYPE_CHECKING:
    from reward_servers.progress import Told

_console = Console(stderr=True)
StepReport = Callable[[Tactic, int, int, float], None]

AnnotationsArgument = Annotated[
    Path,
    typer.Argument(metavar="ANNOTATIONS", help="Folder of <tactic>.jsonl, or one .jsonl with a key `tactic` a line."),
]
BaseOption = Annotated[str, typer.Option("--base", help="The language model: a Hugging Face folder or a hub id.")]
ThreadsOption = Annotated[int, typer.Option(min=1, help="Torch threads on a processor.")]


def train_lora(
    annotations: AnnotationsArgument,
    base: BaseOption,
    out: Annotated[Path, typer.Option("--out", help="The tagger's folder; one that was interrupted goes on.")],
    rank: Annotated[int, typer.Option(help="Of the adapters.")] = 64,
    alpha: Annotated[int, typer.Option(help="An adapter is multiplied by alpha / rank.")] = 32,
    dropout: Annotated[float, typer.Option(help="Before the adapters.")] = 0.05,
    learning_rate: Annotated[float, typer.Option(help="At the start; falls linearly to 0.")] = 5e-5,
    epochs: Annotated[int, typer.Option(help="Passes over the annotations of a tactic.")] = 3,
    batch_size: Annotated[int, typer.Option(help="Sentences of one optimizer step: the paper's 24 x 4.")] = 96,
    micro_batch: Annotated[int, typer.Option(help="Sentences computed at once: fewer need less memory.")] = 24,
    balance_power: Annotated[
        float, typer.Option(help="How much more the rarer answer counts: 1 makes both weigh the same.")
    ] = 0.0,
    max_tokens: Annotated[int, typer.Option(help="The longest prompt.")] = 4096,
    bfloat16: Annotated[bool, typer.Option(help="Keep the frozen base in bfloat16.")] = False,
    seed: Annotated[int, typer.Option(help="Of adapters, order and dropout.")] = 0,
    threads: ThreadsOption = 1,
) -> None:
    """Train ten LoRA adapters, one per tactic, on chat-format annotations with MINT's recipe.

    A line of ANNOTATIONS is {"messages": [system, user, assistant]}: the user's turn holds the whole reply and the
    sentence, the assistant's is <score>0</score> or <score>1</score>. The words of the prompts are learnt from these
    files and kept in the tagger's folder. The loss is on the one token that is the verdict.

    \b
    rapport tagger train-lora tagger_annotations/train \\
      --base meta-llama/Llama-3.1-8B-Instruct --bfloat16 --out runs/lora-tagger
    rapport tagger evaluate-lora runs/lora-tagger tagger_annotations/val
    rapport tag conversations.json --tagger runs/lora-tagger --out tagged.json

    Interrupted, it goes on where it was when it is started again in the same way. At the end PEFT's answers to a few
    prompts are stored; every start of the tagger under vLLM is compared with them.
    """
    from reward_servers.lora_tagger.prompts import load_tactic_annotations

    found = load_tactic_annotations(annotations)
    import torch

    torch.set_num_threads(threads)
    from reward_servers.lora_tagger.building import train_tagger
    from reward_servers.lora_tagger.training import LoraRecipe
    from reward_servers.progress import shown_progress

    recipe = LoraRecipe(
        rank, alpha, dropout, learning_rate, epochs, batch_size, micro_batch, balance_power=balance_power, seed=seed
    )
    steps = {tactic: epochs * -(-len(some.sentences) // batch_size) for tactic, some in found.items()}
    with shown_progress("training", _console) as told:
        on_step = _step_reporter(told, dict.fromkeys(TACTICS, 0) | steps)
        train_tagger(found, _absolute(base), out, recipe, max_tokens, "bfloat16" if bfloat16 else "float32", on_step)
    answers = sum(len(some.sentences) for some in found.values())
    _console.print(f"ten adapters trained on {answers} answers -> {out}")


def adopt(
    folder: Annotated[Path, typer.Argument(help="Adapters in the released layout: one folder per tactic.")],
    annotations: Annotated[
        Path,
        typer.Option("--annotations", help="Chat-format annotations of these adapters: the source of the prompts."),
    ],
    base: BaseOption,
) -> None:
    """Make a tagger of released adapters: give them their prompts and their base.

    Adds lora_tagger.json and self_check.json to FOLDER and changes nothing else there.

    \b
    rapport tagger adopt empathy-tactic-taggers-llama3.1-8b \\
      --annotations tagger_annotations/val --base meta-llama/Llama-3.1-8B-Instruct
    """
    from reward_servers.lora_tagger.building import adopt_adapters
    from reward_servers.lora_tagger.folder import find_adapters
    from reward_servers.lora_tagger.prompts import load_tactic_annotations

    find_adapters(folder)
    found = load_tactic_annotations(annotations)
    with _console.status("asking PEFT for its answers to the probes"):
        adopt_adapters(folder, found, _absolute(base))
    _console.print(f"{folder} is a tagger now: rapport tag FILE --tagger {folder} --out OUT")


def evaluate_lora(
    folder: Annotated[Path, typer.Argument(help="A LoRA tagger: train-lora or adopt made it.")],
    annotations: AnnotationsArgument,
    threads: ThreadsOption = 1,
) -> None:
    """Macro F1 per tactic on annotations that the tagger was not trained on, with an interval of the mean."""
    from reward_servers.lora_tagger.folder import find_adapters, load_config
    from reward_servers.lora_tagger.prompts import load_tactic_annotations

    load_config(folder)
    find_adapters(folder)
    found = load_tactic_annotations(annotations)
    import torch

    torch.set_num_threads(threads)
    from reward_servers.lora_tagger.scoring import check_annotations, evaluate_annotations
    from reward_servers.lora_tagger.tagger import LoraTagger
    from reward_servers.progress import shown_progress

    check_annotations(found)
    with _console.status("loading the tagger"):
        tagger = LoraTagger.load(folder)
    with shown_progress("asking", _console) as told:
        evaluation = evaluate_annotations(tagger, found, lambda done, total: told(done, total))
    typer.echo(json.dumps(evaluation.as_dict(), indent=1))


def _absolute(base: str) -> str:
    """A folder by its whole path, so that the tagger may be used from elsewhere; a hub id as it is."""
    local = Path(base).expanduser()
    return str(local.resolve()) if local.is_dir() else base


def _step_reporter(told: Told, steps_of: Mapping[Tactic, int]) -> StepReport:
    """Steps counted over all ten adapters, those of earlier runs included."""
    total = sum(steps_of.values())
    before = {tactic: sum(steps_of[earlier] for earlier in TACTICS[:i]) for i, tactic in enumerate(TACTICS)}

    def report(tactic: Tactic, step: int, steps: int, loss: float) -> None:
        told(before[tactic] + step, total, f"{tactic}: step {step} of {steps}, loss {loss:.3f}")

    return report
