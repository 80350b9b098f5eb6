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

from rl.checkpoint import check_same_run, check_writable
from rl.files import folder_at_once, write_atomically
from rl.typed_yaml import to_yaml

_STEP_FOLDER = re.compile(r"step-(\d{6,})")
# Keys that may change between two starts of the same run without changing what a step does.
_FREE_KEYS = frozenset(("save_every", "keep_checkpoints", "resume", "tensorboard", "output_dir", "name"))


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
        check_writable(self.path)
        check_same_run(self.path, type(self._config)(), self._config, _FREE_KEYS, resume=self._config.resume)

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
