"""What a run writes while it goes: metrics.jsonl, TensorBoard, a line for a person; and its curves as a picture.

`metrics.jsonl` has one line per step, and one per evaluation with the dev values of the step before it. After a resume
the lines past the checkpoint are dropped, so no step is listed twice.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rl.files import write_atomically


class Log(Protocol):
    """Where a run's numbers and lines go."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None: ...

    def say(self, text: str) -> None: ...

    def close(self) -> None: ...


class Silence:
    """The log of a process that is not the first: nothing."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        pass

    def say(self, text: str) -> None:
        pass

    def close(self) -> None:
        pass


class RunLog:
    """The log of one run that goes on after `done` updates; what was written past them is dropped: it is done again."""

    def __init__(self, folder: Path, tensorboard: bool, done: int) -> None:
        self._path = folder / "metrics.jsonl"
        kept = [json.dumps(record) for record in read_metrics(self._path) if record["step"] <= done]
        write_atomically(self._path, "".join(f"{line}\n" for line in kept))
        self._writer: Any = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=done + 1 if done else None)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """`step`: the number of updates done."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)

    def say(self, text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All complete lines; a run killed while writing leaves a last one without its newline, which does not count."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


@dataclass(frozen=True, slots=True)
class Panel:
    """One plot: what is drawn of `metrics.jsonl`, by key, with its line's style and label."""

    title: str
    lines: Mapping[str, tuple[str, str]]
    shares: bool = False


_PANELS_ABREAST = 3
_LONG = 60  # points, from which on a line is too ragged to read without its running mean
_WIDTHS = 20  # windows of the running mean in a whole line


def draw_curves(metrics: Path, picture: Path) -> None:
    """One panel for each loss, training and dev, and the heads' dev accuracy, as a PNG."""
    panels = [two_sides(name) for name in ("loss", "lm", "emotion", "strategy", "safety", "affect")]
    heads = {f"dev/{head}_accuracy": ("o-", head) for head in ("emotion", "strategy")}
    draw_panels(metrics, picture, [*panels, Panel("dev accuracy", heads, shares=True)])


def two_sides(name: str, shares: bool = False) -> Panel:
    """A measure as it is in training and on the dev sequences."""
    return Panel(name, {f"train/{name}": ("-", "train"), f"dev/{name}": ("o-", "dev")}, shares)


def draw_panels(metrics: Path, picture: Path, panels: Sequence[Panel]) -> None:
    """The panels that have something to show, three abreast, as a PNG; one that is empty takes the place of none."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    records = read_metrics(metrics)
    shown = [panel for panel in panels if any(key in record for key in panel.lines for record in records)]
    columns = min(max(len(shown), 1), _PANELS_ABREAST)
    rows = max(-(-len(shown) // columns), 1)
    figure = Figure(figsize=(4 * columns, 3.2 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    places = list(figure.subplots(rows, columns, squeeze=False).flat)
    for empty in places[len(shown) :]:
        empty.set_axis_off()
    for place, panel in zip(places, shown, strict=False):
        for key, (style, label) in panel.lines.items():
            _line(place, records, key, style, label)
        place.set_title(panel.title)
        place.set_xlabel("step")
        place.xaxis.set_major_locator(MaxNLocator(integer=True))
        if panel.shares:
            place.set_ylim(0, 1)
        place.legend()
    temporary = picture.with_name(f".{picture.name}.writing")
    figure.savefig(temporary, format="png", dpi=110)
    temporary.replace(picture)


def _line(panel: Any, records: list[dict[str, Any]], key: str, style: str, label: str) -> None:
    points = [(record["step"], record[key]) for record in records if key in record]
    if not points:
        return
    steps, values = zip(*points, strict=True)
    if len(points) < _LONG:
        panel.plot(steps, values, style, markersize=3, label=label)
        return
    width = max(3, len(points) // _WIDTHS)
    faint = panel.plot(steps, values, linewidth=0.6, alpha=0.35)[0]
    panel.plot(steps, running_mean(values, width), style, markersize=3, color=faint.get_color(),
               label=f"{label}, mean of {width}")  # fmt: skip


def running_mean(values: Sequence[float], width: int) -> list[float]:
    """Of each value, the mean of at most `width` values around it: fewer at the ends, where there are none beyond.

    An even width reaches one further back than forward.
    """
    back, on = width // 2, width - width // 2
    parts = [values[max(0, place - back) : place + on] for place in range(len(values))]
    return [sum(part) / len(part) for part in parts]
