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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rl.config import ConfigError, RunConfig
from rl.config_loading import to_yaml

_STEP_FOLDER = re.compile(r"step-(\d{6,})")


@dataclass(frozen=True, slots=True)
class TrainState:
    """What the driver itself must remember: `step` updates are done, `queue` is `PromptQueue.state()`."""

    step: int
    policy_version: int
    queue: dict[str, Any]


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
            ConfigError: the folder holds a run and resuming is off or the configuration has changed.
        """
        saved = self.path / "config.yaml"
        if not saved.is_file():
            return
        if not self._config.resume:
            raise ConfigError(f"{self.path} already holds a run: choose another name=, or resume=true to go on")
        changed = _changed_keys(saved.read_text(encoding="utf-8"), to_yaml(self._config))
        if changed:
            raise ConfigError(
                f"{self.path} was started with another configuration ({', '.join(changed)}): set these back, or "
                "choose another name="
            )

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


def write_atomically(path: Path, text: str) -> None:
    """Write to a temporary name on the same file system, flush to disk, rename."""
    temporary = path.with_name(f".{path.name}.writing")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


# Keys that may change between two starts of the same run without changing what a step does.
_FREE_KEYS = (
    "steps",
    "epochs",
    "save_every",
    "keep_checkpoints",
    "resume",
    "trackers",
    "evaluation.every",
)


def _changed_keys(old_text: str, new_text: str) -> list[str]:
    from omegaconf import OmegaConf

    # A key that did not exist when the run began had its present default then.
    default, old, new = (
        _flatten(OmegaConf.to_container(OmegaConf.create(text))) for text in (to_yaml(RunConfig()), old_text, new_text)
    )
    old = default | old
    free = (
        *_FREE_KEYS,
        "servers.",
        "learner.timeout_s",
        "rollout.timeout_s",
        "output_dir",
    )
    return [
        f"{key}: {old.get(key)} -> {new.get(key)}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and not key.startswith(free)
    ]


def _flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(node, dict):
        return {prefix.rstrip("."): node}
    return {k: v for key, value in node.items() for k, v in _flatten(value, f"{prefix}{key}.").items()}
