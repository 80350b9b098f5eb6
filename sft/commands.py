"""`rapport sft`: train, quickstart, dpo, pairs, ablate, evaluate, plan, export, safety-check.

Heavy modules are imported when one runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sft.chat.commands import safety_check
from sft.measuring.commands import evaluate, split_of

if TYPE_CHECKING:
    from rl.reward_client import BlockingScorer

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Fine-tune with emotion and strategy heads.")
app.command("safety-check")(safety_check)
app.command()(evaluate)

Overrides = Annotated[
    list[str] | None, typer.Argument(help="key=value, for example data.folder=data optimizer.lr=1e-4")
]
Processes = Annotated[
    int,
    typer.Option("--processes", help="Processes that share each step's batches, one for each GPU of the machine."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print configuration and plan; load no weights.")]


@app.command()
def train(
    preset: Annotated[str, typer.Argument(help="A preset of configs/sft/ (quickstart, t4) or a YAML file.")],
    overrides: Overrides = None,
    processes: Processes = 1,
    dry_run: DryRun = False,
) -> None:
    """Fine-tune a model: language modelling, emotion and strategy heads, safety KL.

    A run that was interrupted goes on from its last checkpoint when it is started again with the same name and
    configuration, with as many processes as you like. On several machines, start it with torchrun.

    rapport sft train t4 data.folder=data --dry-run

    rapport sft train t4 data.folder=data --processes 4

    torchrun --nnodes 2 --nproc-per-node 4 ... -m rapport sft train t4 data.folder=data
    """
    from rl.typed_yaml import to_yaml
    from sft.config_loading import load_config

    config = load_config(preset, overrides or [])
    if dry_run:
        typer.echo(to_yaml(config))
    from sft.preparing import prepare  # brings in torch: a mistyped key is told before that

    prepared = prepare(config)
    if dry_run or processes == 1:
        _say(prepared.describe())
    if dry_run:
        return
    _launch_several(processes, config.optimizer.accumulation, ["sft", "train", preset, *(overrides or [])])
    from sft.ranks import joined
    from sft.training import train as run

    with joined(), _alone_in(prepared.folder.path):
        result = run(prepared)
    _say(f"{result.steps} steps, best dev loss {result.best:.4f} after step {result.best_step}")
    _say(f"model {result.folder / 'best'}, curves {result.folder / 'curves.png'}")


def _say(text: str) -> None:
    from sft.launch import speaks

    if speaks():
        typer.echo(text)


def _alone_in(folder: Path) -> AbstractContextManager[None]:
    """The lock of a run's folder, held by the first of its processes."""
    from rl.run_lock import only_run_in
    from sft.launch import speaks

    return only_run_in(folder) if speaks() else nullcontext()


def _launch_several(processes: int, batches: int, arguments: list[str]) -> None:
    """Run the command in several processes and exit; goes on where one is enough, or where this is one of them."""
    from sft.launch import check_processes, launch, launched

    if processes == 1 or launched():
        return
    check_processes(processes, batches)
    raise typer.Exit(launch(processes, arguments))


@app.command()
def quickstart(overrides: Overrides = None, processes: Processes = 1, dry_run: DryRun = False) -> None:
    """Fine-tune SmolLM2-135M with all heads on the shipped examples: minutes on 2 cores."""
    train("quickstart", overrides, processes, dry_run)


@app.command()
def dpo(
    start: Annotated[str, typer.Argument(help="The folder of a fine-tuning run, or a plain model (folder or hub id).")],
    pairs: Annotated[str, typer.Option("--pairs", help="Preference pairs: a JSONL file, a folder, or a hub id.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key=value, for example name=warm loss.beta=0.2 loss.safety_margin=1")
    ] = None,
    processes: Processes = 1,
    dry_run: DryRun = False,
) -> None:
    """Second stage: learn from pairs which of two replies is preferred (DPO), against a frozen reference.

    The reference is the fine-tuned model itself, or a plain model with its adapter off. A pair is one object a line:
    {"history": [{"role": "user", "content": "..."}], "chosen": "...", "rejected": "...", "safety_violation": false};
    hub datasets whose chosen and rejected are whole conversations are read too. loss.safety_margin is for pairs whose
    rejected reply breaks a safety rule. The defaults of model and rendering are those of START. A run that was
    interrupted goes on when started again.

    rapport sft dpo runs/sft-quickstart --pairs pairs.jsonl name=sft-dpo loss.beta=0.1 --dry-run
    """
    from rl.typed_yaml import to_yaml
    from sft.dpo.preparing import prepare_dpo

    prepared = prepare_dpo(start, pairs, overrides or [])
    if dry_run:
        typer.echo(to_yaml(prepared.config))
    if dry_run or processes == 1:
        _say(prepared.describe())
    if dry_run:
        return
    _launch_several(
        processes, prepared.config.optimizer.accumulation, ["sft", "dpo", start, "--pairs", pairs, *(overrides or [])]
    )
    from sft.dpo.training import train_dpo
    from sft.ranks import joined

    with joined(), _alone_in(prepared.folder.path):
        result = train_dpo(prepared)
    _say(f"{result.steps} steps, best dev loss {result.best:.4f} after step {result.best_step}")
    _say(f"model {result.folder / 'best'}, curves {result.folder / 'curves.png'}")


@app.command()
def pairs(
    first: Annotated[
        Path, typer.Argument(help="JSONL of one system's replies: history (or prompt) and reply (or response).")
    ],
    second: Annotated[Path, typer.Argument(help="Another system's replies to the same histories.")],
    out: Annotated[Path, typer.Option("--out", help="Where to write the pairs (JSONL); must not exist.")],
    min_margin: Annotated[float, typer.Option("--min-margin", help="Scores nearer than this make no pair.")] = 0.25,
    servers: Annotated[str, typer.Option("--servers", help="URL of reward servers; started here by default.")] = "",
    timeout: Annotated[
        float, typer.Option("--timeout", help="Seconds for a call of 8 replies; raise it for a slow judge.")
    ] = 60.0,
) -> None:
    """Make preference pairs: of two replies to a history, the one that the reward servers score higher is chosen.

    An LLM judge chooses where the servers score with one: put `loader: evaluation.judge.scorer:JudgeScorer` and the
    `folder` of its calibration under `scorer` in the YAML of `rapport serve`, and give its URL as --servers.

    Scores are kept in a hidden file beside --out until the pairs are written: a call that was interrupted, or that left
    no pair, goes on when it is made again, also with another --min-margin; what has changed since is scored anew.

    rapport sft pairs model-a.jsonl model-b.jsonl --out pairs.jsonl --min-margin 0.5
    """
    from rl.files import write_atomically
    from sft.config import ConfigError
    from sft.dpo.making import make_pairs, match, read_replies
    from sft.dpo.scores import ScoreJournal

    if out.exists():
        raise ConfigError(f"{out} exists already: choose another --out")
    if not min_margin >= 0:
        raise ConfigError(f"--min-margin {min_margin}: must be 0 or more")
    if not timeout > 0:
        raise ConfigError(f"--timeout {timeout}: must be above 0")
    rivals, unmatched = match(read_replies(str(first)), read_replies(str(second)))
    typer.echo(f"{len(rivals)} histories with two replies to score")
    journal = ScoreJournal(out)
    from evaluation.asking.commands import progress

    with _ranker(servers, timeout) as ranker, progress("scoring") as on_scored:
        made = make_pairs(rivals, ranker, min_margin, journal, on_scored)
    counted = ", ".join(f"{reason.value} {count}" for reason, count in (made.left_out + unmatched).items())
    if not made.lines:
        raise ConfigError(
            f"no pair is left ({counted}): lower --min-margin, or compare systems that differ more; the scores are "
            f"kept in {journal.file} for the next call"
        )
    write_atomically(out, "".join(f"{line}\n" for line in made.lines))
    journal.remove()
    typer.echo(
        f"{len(made.lines)} pairs -> {out}; chosen from the first file {made.won['first']} times; left out: "
        f"{counted or 'none'}" + (f"; {made.kept} scores were there from an earlier start" if made.kept else "")
    )


@contextmanager
def _ranker(url: str, timeout_s: float) -> Iterator[BlockingScorer]:
    """The reward servers at `url`, or the shipped ones, started here and stopped at the end."""
    from contextlib import ExitStack

    from rl.config import RunConfig, ServersConfig
    from rl.reward_client import start_scorer

    with ExitStack() as on_exit:
        if not url:
            from cluster.session import ray_session

            on_exit.enter_context(ray_session(parallel_actors=8))
        yield start_scorer(RunConfig(servers=ServersConfig(url=url, timeout_s=timeout_s)), on_exit)


@app.command()
def ablate(
    preset: Annotated[str, typer.Argument(help="A preset of configs/sft/ (quickstart, t4) or a YAML file.")],
    overrides: Overrides = None,
    seeds: Annotated[
        str, typer.Option("--seeds", help="Whole numbers with commas; each variant runs once for each.")
    ] = "0,1,2",
    split: Annotated[str, typer.Option("--split", help="What runs are measured on: valid or test.")] = "valid",
    of_each: Annotated[
        int | None,
        typer.Option("--of-each", min=1, help="Measure on so many sequences of each source; else data.max_dev in all."),
    ] = None,
    probe_rows: Annotated[
        int, typer.Option("--probe-rows", min=1, help="Training sequences that the linear probe reads at most.")
    ] = 20_000,
    dry_run: DryRun = False,
) -> None:
    """Train the full recipe and variants without a loss (emotion, strategy, safety, all but LM), and compare them.

    Every variant makes the same number of updates, in a run folder of its own below runs/<name>-ablation/. Started
    again, finished runs are not repeated. Writes ablation.md, ablation.json and ablation.png there, with the majority
    class and a linear probe on the base's states beside the heads. Where GoEmotions is among the data the emotion head
    is measured on it alone, and the strategy head on ESConv.

    rapport sft ablate quickstart --seeds 0,1,2
    rapport sft ablate quickstart data.folder=DATA steps=100 --split test --of-each 400
    """
    from sft.ablation.variants import parse_seeds
    from sft.config_loading import load_config

    config, numbers, measured = load_config(preset, overrides or []), parse_seeds(seeds), split_of(split)
    from sft.ablation.running import prepare_ablation, run_ablation

    ablation = prepare_ablation(config, numbers, measured, of_each, probe_rows)
    typer.echo(ablation.describe())
    if not dry_run:
        typer.echo(f"table {run_ablation(ablation, typer.echo)}")


@app.command()
def plan(
    preset: Annotated[str, typer.Argument(help="A preset of configs/sft/ (quickstart, t4) or a YAML file.")],
    overrides: Overrides = None,
    device: Annotated[str, typer.Option("--device", help="t4, cuda (bfloat16, flash attention) or cpu.")] = "t4",
    bar: Annotated[float, typer.Option("--bar", help="GiB that the peak should stay under.")] = 15.0,
) -> None:
    """Estimate the peak memory of a run's longest batch, part by part, and its tokens per step; loads nothing.

    The formulae are in sft/planning/memory.py; benchmarks/sft_memory.py measures the same step beside the estimate.

    rapport sft plan t4 optimizer.batch=8
    """
    from sft.config_loading import load_config
    from sft.planning.memory import CONTEXT_GIB, GIB, Device, longest_step, plan_memory
    from sft.planning.shapes import shape_of

    if device not in tuple(Device):
        raise typer.BadParameter(f"{device!r}: expected {', '.join(Device)}", param_hint="--device")
    config = load_config(preset, overrides or [])
    found, step = plan_memory(config, shape_of(config.model.path), Device(device)), longest_step(config)
    typer.echo(f"{config.model.path}: {step.batch} x {step.length} tokens, the teacher's behind {step.rules} of rules")
    typer.echo(found.describe())
    typer.echo(f"at most {found.tokens_per_step} tokens per step, in {config.optimizer.accumulation} batches")
    room = bar - found.peak / GIB - (0 if device == Device.CPU else CONTEXT_GIB)
    said = f"{room:.1f} GiB below" if room >= 0 else f"{-room:.1f} GiB above"
    typer.echo(f"{said} the bar of {bar:g} GiB" + ("" if device == Device.CPU else f", {CONTEXT_GIB} for CUDA counted"))


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="The folder of a run, runs/<name>, or of one of its checkpoints.")],
    out: Annotated[Path, typer.Option("--out", help="Where to write the Hugging Face folder; must not exist.")],
) -> None:
    """Merge the adapter of a run's best model and write a plain Hugging Face folder."""
    from sft.export import export_model

    typer.echo(f"{export_model(run, out)} -> {out}")
