"""The folder of a run and its checkpoints: written to a temporary name, then renamed, so that none is half there.

    runs/<name>/
        config.yaml  metrics.jsonl  curves.png  README.md  tensorboard/
        best/                           the model of the best dev loss, for `sft.saved.load_model`
        checkpoints/step-000010/        a model as in best/, and
            state.json                  step, sampler, early stopping
            optimizer.pt                AdamW's moments and the loss scale

Exact resume: what a step does depends only on weights, optimizer, sampler, and random numbers seeded by the step's
number. All but the last are in the checkpoint. Lines of metrics past it are dropped and written anew.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import yaml

from rl.files import folder_at_once, write_atomically
from rl.typed_yaml import changed_keys, to_yaml
from sft.config import ConfigError

_STEP_FOLDER = re.compile(r"step-(\d{6,})")
# Keys that may change between two starts of the same run without changing what a step does.
_FREE_KEYS = ("save_every", "keep_checkpoints", "resume", "tensorboard", "output_dir", "name")


class CheckpointError(RuntimeError):
    """A checkpoint could not be written or read. The message says what is left to go on from."""


class RunSettings(Protocol):
    """What any stage's configuration says of its folder: a frozen dataclass whose fields all have defaults."""

    @property
    def name(self) -> str: ...

    @property
    def output_dir(self) -> str: ...

    @property
    def keep_checkpoints(self) -> int: ...

    @property
    def resume(self) -> bool: ...


class RunFolder:
    """`<output_dir>/<name>` and the rules for what may be written into it."""

    def __init__(self, config: RunSettings) -> None:
        self.path = Path(config.output_dir) / config.name
        self._config = config

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def best(self) -> Path:
        return self.path / "best"

    def check(self) -> None:
        """Check that what is in the folder may be resumed with this configuration; writes nothing.

        Raises:
            ConfigError: the folder holds a run and resuming is off or the configuration has changed.
        """
        saved = self.path / "config.yaml"
        if self.path.exists() and not self.path.is_dir():
            raise ConfigError(f"{self.path} is a file, but the run's folder would go there: choose another name=")
        if not saved.is_file():
            return
        if not self._config.resume:
            raise ConfigError(f"{self.path} already holds a run: choose another name=, or resume=true to go on")
        default, now = to_yaml(type(self._config)()), to_yaml(self._config)
        differences = changed_keys(default, _mapping_in(saved), now)
        changed = [f"{key}: {change}" for key, change in differences.items() if key not in _FREE_KEYS]
        if changed:
            raise ConfigError(
                f"{self.path} was started with another configuration ({', '.join(changed)}): set these back, or "
                "choose another name="
            )

    def prepare(self) -> None:
        """`check`, then create the folder and clear away what an interrupted checkpoint left."""
        self.check()
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        for parent, pattern in ((self.checkpoints, ".step-*"), (self.path, ".best-*")):
            for leftover in parent.glob(pattern):
                shutil.rmtree(leftover)
        write_atomically(self.path / "config.yaml", to_yaml(self._config))

    def all(self) -> list[Path]:
        """The complete checkpoints, oldest first."""
        found = {
            path: match for path in self.checkpoints.glob("step-*") if (match := _STEP_FOLDER.fullmatch(path.name))
        }
        return sorted(found, key=lambda path: int(found[path][1]))

    def latest(self) -> Path | None:
        """The newest complete checkpoint."""
        return next(reversed(self.all()), None)

    def save(self, state: dict[str, Any], write: Callable[[Path], None]) -> Path:
        """Write the checkpoint of `state["step"]`; `write` fills the folder that it is given.

        Raises:
            CheckpointError: it could not be written, and what was there before is as it was.
        """

        def fill(folder: Path) -> None:
            write(folder)
            write_atomically(folder / "state.json", json.dumps(state))

        final = self.checkpoints / f"step-{state['step']:06d}"
        self._write(final, fill)
        for old in self.all()[: -self._config.keep_checkpoints]:
            shutil.rmtree(old)
        return final

    def save_best(self, write: Callable[[Path], None]) -> None:
        """Replace the best model. Raises CheckpointError as `save`."""
        self._write(self.best, write)

    def _write(self, final: Path, write: Callable[[Path], None]) -> None:
        from safetensors import SafetensorError

        try:
            with folder_at_once(final) as folder:
                write(folder)
        except (OSError, RuntimeError, SafetensorError) as error:
            good = self.latest()
            kept = f"the last good checkpoint is {good}" if good else "there is no earlier checkpoint"
            raise CheckpointError(f"{final} could not be written ({error}); {kept}. Is the disk full?") from error

    @staticmethod
    def load_state(checkpoint: Path) -> dict[str, Any]:
        return json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))


def _mapping_in(file: Path) -> str:
    """The text of a YAML file with keys and values. Raises ConfigError where it is none."""
    try:
        text = file.read_text(encoding="utf-8")
        content = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not valid YAML ({error}); choose another name=, or remove that folder") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{file}: no keys and values in it; choose another name=, or remove that folder")
    return text
