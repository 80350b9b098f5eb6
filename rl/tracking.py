"""What a run writes while it goes: metrics, samples, TensorBoard or wandb, and what a person sees on the terminal.

`metrics.jsonl` has one line per step and per evaluation, `samples.jsonl` one per scored rollout, trained on or not,
with every component of its reward. After a resume the lines past the checkpoint are dropped and TensorBoard is told to
forget them, so no step is ever listed twice.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rl.config import ConfigError
from rl.files import write_atomically

SECONDS_BETWEEN_LINES = 15.0  # of progress within a phase, where the output is not a terminal
TRACKERS = ("tensorboard", "wandb")

Progress = Callable[[int, int], None]


class Tracker(Protocol):
    """Somewhere that takes numbers by name and step."""

    def rewind(self, step: int) -> None:
        """Called once, before the first `log`: what an earlier start logged after `step` is done again."""
        ...

    def log(self, metrics: Mapping[str, float], step: int) -> None: ...

    def close(self) -> None: ...


class TensorBoardTracker:
    """Event files under `<run>/tensorboard`."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._folder = str(folder / "tensorboard")
        self._writer = SummaryWriter(self._folder)

    def rewind(self, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer.close()
        self._writer = SummaryWriter(self._folder, purge_step=step + 1)  # TensorBoard hides older files' later steps

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WandbTracker:
    """Weights & Biases, where the user has installed it and is logged in."""

    def __init__(self, folder: Path) -> None:
        import wandb

        self._run = wandb.init(
            project="rapport",
            name=folder.name,
            id=folder.name,
            dir=str(folder),
            resume="allow",
        )

    def rewind(self, step: int) -> None:
        """Nothing: wandb refuses steps that it has, and those that are done again give the same numbers."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        self._run.finish()


def validate_trackers(names: Sequence[str]) -> None:
    """Raise ConfigError for an unknown tracker or one that is not installed."""
    import importlib.util

    for name in names:
        if name not in TRACKERS:
            raise ConfigError(f"trackers={name}: unknown; use any of {', '.join(TRACKERS)}, or [] for none")
        if name == "wandb" and importlib.util.find_spec("wandb") is None:
            raise ConfigError("trackers=wandb: wandb is not installed; pip install wandb, or use tensorboard")


class RunLog:
    """The log of one run; `step` in every method is the number of updates done."""

    def __init__(self, folder: Path, trackers: Sequence[str]) -> None:
        self._folder = folder
        self.console = Console(stderr=False, highlight=False)
        self._file = (folder / "train.log").open("a", encoding="utf-8", buffering=1)
        makers: dict[str, Callable[[Path], Tracker]] = {"tensorboard": TensorBoardTracker, "wandb": WandbTracker}
        self._trackers: list[Tracker] = [makers[name](folder) for name in trackers]

    def rewind(self, step: int) -> None:
        """Drop what was written after `step`, because those steps are done again."""
        for name in ("metrics.jsonl", "samples.jsonl"):
            path = self._folder / name
            if path.is_file():
                kept = [line for line in _complete_lines(path) if json.loads(line)["step"] <= step]
                write_atomically(path, "".join(f"{line}\n" for line in kept))
        for tracker in self._trackers:
            tracker.rewind(step)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        _append(self._folder / "metrics.jsonl", [{"step": step, **values}])
        for tracker in self._trackers:
            tracker.log(values, step)

    def samples(self, step: int, records: Iterable[Mapping[str, Any]]) -> None:
        _append(
            self._folder / "samples.jsonl",
            [{"step": step, **record} for record in records],
        )

    def say(self, text: str) -> None:
        """One line for a person, on the terminal and in train.log."""
        self._file.write(f"{time.strftime('%H:%M:%S')} {text}\n")
        self.console.print(f"[dim]{time.strftime('%H:%M:%S')}[/dim] {escape(text)}", soft_wrap=True)

    def show(self, table: Table) -> None:
        """A table, on the terminal and in train.log."""
        self.console.print(table)
        Console(file=self._file, width=120).print(table)

    @contextmanager
    def phase(self, name: str, timings: dict[str, float], step: int | None = None) -> Iterator[Progress]:
        """Time a phase into `timings` (seconds) and show it while it lasts; train.log gets its beginning.

        Yields a function that takes (done, all): a terminal shows them at once, a log file gets a line now and then.
        """
        of_step = "" if step is None else f"step {step} "
        self._file.write(f"{time.strftime('%H:%M:%S')} {of_step}phase {name}\n")
        start = time.perf_counter()
        if self.console.is_terminal:
            with self.console.status(f"{of_step}{name} ...") as status:
                yield lambda done, count: status.update(f"{of_step}{name} {done}/{count}")
        else:
            yield self._lines_now_and_then(f"{of_step}{name}")
        timings[name] = timings.get(name, 0.0) + time.perf_counter() - start

    def _lines_now_and_then(self, name: str) -> Progress:
        latest = time.monotonic()

        def report(done: int, count: int) -> None:
            nonlocal latest
            if time.monotonic() - latest >= SECONDS_BETWEEN_LINES:
                latest = time.monotonic()
                self.say(f"{name} {done}/{count}")

        return report

    def close(self) -> None:
        for tracker in self._trackers:
            tracker.close()
        self._file.close()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """All complete lines of a JSONL file of ours; an absent file has none."""
    return [json.loads(line) for line in _complete_lines(path)] if path.is_file() else []


def _complete_lines(path: Path) -> list[str]:
    """A run killed while writing leaves a last line without its newline: that one is not counted."""
    text = path.read_text(encoding="utf-8")
    return text.split("\n")[:-1]


def _append(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
