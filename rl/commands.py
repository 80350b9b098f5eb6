"""`rapport train` and `rapport export`. Heavy modules are imported when a command runs, so that `--help` is quick."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from rl.checkpoint import check_writable
from rl.config import ConfigError
from rl.files import folder_at_once

PRESETS = sorted(path.stem for path in (Path(__file__).resolve().parent.parent / "configs").glob("*.yaml"))


def train(
    preset: Annotated[
        str, typer.Argument(help=f"A preset of configs/ ({', '.join(PRESETS)}) or the path of a YAML file of yours.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="key=value, for example learner.lr=2e-6 rollout.workers=2; --dry-run lists all keys."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print every key with its value, and the plan; start nothing.")
    ] = False,
) -> None:
    """Train a policy by GRPO.

    The run lives in output_dir/name, by default runs/PRESET: configuration, metrics.jsonl, samples.jsonl, TensorBoard
    files, checkpoints and in the end report.html. Interrupted, it goes on from its last checkpoint when it is started
    again with the same name and configuration. All that can be checked is checked before Ray starts.

    rapport train quickstart

    rapport train quickstart name=mine steps=30 learner.lr=1e-4 --dry-run

    rapport train mint-qwen3-1.7b-q-dkl data.path=conversations_322.json

    A YAML file of yours may start from a preset with `extends: quickstart` and set only what differs. RAY_ADDRESS names
    a Ray cluster to run in; without it one is started on this machine. Reward servers at servers.url are shown
    servers.token, or where that is empty the variable RAPPORT_REWARD_TOKEN.
    """
    from rl.config_loading import load_config
    from rl.typed_yaml import to_yaml

    config = load_config(preset, overrides or [])
    if dry_run:
        typer.echo(to_yaml(config))
    from rl.launch import prepare  # brings in torch, Ray and verl: a mistyped key is told before that

    prepared = prepare(config)
    if dry_run:
        typer.echo(prepared.describe())
        return
    from cluster.session import ray_session
    from rl.launch import run
    from rl.run_lock import only_run_in

    folder = Path(config.output_dir) / config.name
    actors = config.rollout.workers + config.learner.ranks + 2 * config.servers.replicas + 4
    with only_run_in(folder), ray_session(parallel_actors=2 * actors):
        run(prepared)
    from evaluation.report.commands import report

    report([folder])


def export(
    run: Annotated[Path, typer.Argument(help="The folder of a run, runs/<name>.")],
    out: Annotated[Path, typer.Option("--out", help="Where to write the Hugging Face folder; must not exist.")],
    step: Annotated[int, typer.Option("--step", help="Which checkpoint; 0 for the newest.")] = 0,
) -> None:
    """Copy a checkpoint's weights as a Hugging Face folder that transformers and vLLM open as it is.

    rapport export runs/quickstart --out my-model
    """
    checkpoints = sorted((run / "checkpoints").glob("step-*"))
    if not checkpoints:
        raise ConfigError(f"{run} has no checkpoint: give the folder of a run, such as runs/quickstart")
    chosen = run / "checkpoints" / f"step-{step:06d}" if step else checkpoints[-1]
    if chosen not in checkpoints:
        kept = ", ".join(str(int(path.name[5:])) for path in checkpoints)
        raise ConfigError(f"{run} has no checkpoint of step {step}; kept: {kept}")
    if out.exists():
        raise ConfigError(f"{out} exists already: choose another --out")
    if not (chosen / "hf" / "config.json").is_file():
        raise ConfigError(f"{chosen} holds no weights in the Hugging Face layout: choose another --step")
    check_writable(out)
    with folder_at_once(out) as folder:
        shutil.copytree(chosen / "hf", folder, dirs_exist_ok=True)
    typer.echo(f"{chosen / 'hf'} -> {out}")
