"""The folder of a run and its checkpoints: written to a temporary name, then renamed, so that none is ever half there.

    runs/<name>/
        config.yaml  metrics.jsonl  samples.jsonl  closing.json  tensorboard/  train.log
        checkpoints/step-000010/
            state.json      step, policy version, prompt queue
            learner/        model, optimizer, schedule and RNG of every rank, as the engine keeps them
            hf/             the weights in the Hugging Face layout, for transformers and vLLM

Exact resume: what a step does depends only on the weights, the optimizer, the prompt queue and seeds derived from the
step's number, all of which are in the checkpoint. Lines of metrics and samples past it are dropped and written anew.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rl.config import ConfigError, RunConfig
from rl.files import write_atomically
from rl.typed_yaml import changed_keys, to_yaml

_STEP_FOLDER = re.compile(r"step-(\d{6,})")
# What may change between two starts of a run without changing what a step does. A server's address is here, since
# it may have moved; that it still scores alike is the caller's to know.
_FREE_KEYS = frozenset(
    (
        "steps",
        "epochs",
        "save_every",
        "keep_checkpoints",
        "resume",
        "trackers",
        "output_dir",
        "evaluation.every",
        "servers.url",
        "servers.token",
        "servers.replicas",
        "servers.timeout_s",
        "servers.retries",
        "servers.max_failed_fraction",
        "learner.timeout_s",
        "learner.max_logprob_gap",
        "rollout.timeout_s",
        "rollout.retries",
    )
)


@dataclass(frozen=True, slots=True)
class TrainState:
    """What the driver itself must remember: `step` updates are done, `queue` is `PromptQueue.state()`."""

    step: int
    policy_version: int
    queue: dict[str, Any]


def check_writable(folder: Path) -> None:
    """Raise ConfigError where `folder` is not there and cannot be made, or cannot be written."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir():
        raise ConfigError(f"{folder} cannot be made: {there} is a file; choose another output_dir= or name=")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(f"{folder} cannot be written: no permission to write in {there}; choose another output_dir=")


def check_same_run(folder: Path, default: Any, config: Any, free: Set[str], *, resume: bool) -> None:
    """Check that the run in `folder`, if there is one, was started with `config` but for the keys in `free`.

    Args:
        default: the same dataclass as `config` with nothing set: the values of keys that did not exist at that time.
        resume: whether a run that is there may be gone on with at all.

    Raises:
        ConfigError: with what differs.
    """
    saved = folder / "config.yaml"
    if not saved.is_file():
        return
    if not resume:
        raise ConfigError(f"{folder} already holds a run: choose another name=, or resume=true to go on")
    try:
        differences = changed_keys(to_yaml(default), saved.read_text(encoding="utf-8"), to_yaml(config))
    except (ConfigError, UnicodeDecodeError) as error:
        raise ConfigError(f"{saved}: {error}; choose another name=, or move this folder away") from error
    changed = [f"{key}: {change}" for key, change in differences.items() if key not in free]
    if changed:
        raise ConfigError(
            f"{folder} was started with another configuration ({', '.join(changed)}): set these back, or "
            "choose another name="
        )


class RunFolder:
    """`runs/<name>` and the rules for what may be written into it."""

    def __init__(self, config: RunConfig) -> None:
        self.path = Path(config.output_dir) / config.name
        self._config = config

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def check(self) -> None:
        """Check that what is in the folder may be resumed with this configuration; writes nothing.

        Raises:
            ConfigError: the folder cannot be written; or it holds a run and resuming is off, the configuration has
                changed, or the saved one cannot be read.
        """
        check_writable(self.path)
        check_same_run(self.path, RunConfig(), self._config, _FREE_KEYS, resume=self._config.resume)

    def prepare(self) -> None:
        """`check`, then create the folder and clear away what an interrupted checkpoint left."""
        self.check()
        self.path.mkdir(parents=True, exist_ok=True)
        self.checkpoints.mkdir(exist_ok=True)
        for leftover in self.checkpoints.glob("writing-*"):
            shutil.rmtree(leftover)
        write_atomically(self.path / "config.yaml", to_yaml(self._config))

    def latest(self) -> Path | None:
        """The newest complete checkpoint."""
        steps = {
            int(match[1]): path
            for path in self.checkpoints.glob("step-*")
            if (match := _STEP_FOLDER.fullmatch(path.name))
        }
        return steps[max(steps)] if steps else None

    def save(self, state: TrainState, write_weights: Callable[[Path], None]) -> Path:
        """Write a checkpoint; `write_weights` fills `learner/` and `hf/` in the folder that it is given."""
        final = self.checkpoints / f"step-{state.step:06d}"
        folder = self.checkpoints / f"writing-step-{state.step:06d}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        write_weights(folder.resolve())
        record = {
            "step": state.step,
            "policy_version": state.policy_version,
            "queue": state.queue,
        }
        write_atomically(folder / "state.json", json.dumps(record))
        folder.replace(final)
        self._prune()
        return final

    @staticmethod
    def load_state(checkpoint: Path) -> TrainState:
        record = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
        return TrainState(record["step"], record["policy_version"], record["queue"])

    def _prune(self) -> None:
        complete = sorted(path for path in self.checkpoints.glob("step-*") if _STEP_FOLDER.fullmatch(path.name))
        for old in complete[: -self._config.keep_checkpoints]:
            shutil.rmtree(old)
