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
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rl.config import ConfigError, RunConfig
from rl.files import write_atomically
from rl.typed_yaml import changed_keys, to_yaml

_STEP_FOLDER = re.compile(r"step-(\d{6,})")
# Keys, or beginnings of keys, that may change between two starts of a run without changing what a step does.
_FREE_KEYS = (
    "steps",
    "epochs",
    "save_every",
    "keep_checkpoints",
    "resume",
    "trackers",
    "output_dir",
    "evaluation.every",
    "servers.",
    "learner.timeout_s",
    "rollout.timeout_s",
)


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
        differences = changed_keys(to_yaml(RunConfig()), saved.read_text(encoding="utf-8"), to_yaml(self._config))
        changed = [f"{key}: {change}" for key, change in differences.items() if not key.startswith(_FREE_KEYS)]
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
