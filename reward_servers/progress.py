"""Progress of long work: a bar on a terminal; elsewhere, in a log, a line at every tenth and at least one a minute."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_LINE_EVERY_S = 60.0


class Told(Protocol):
    """To be told how much of how much is done. Where less is done than before, another part of the work has begun."""

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


@contextmanager
def shown_progress(what: str, console: Console | None = None) -> Iterator[Told]:
    """Show the progress of `what` on stderr while the context lasts; yields the function to tell it."""
    console = console or Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    lines = _Lines(what, console)
    with Progress(
        *columns, TextColumn("{task.fields[note]}"), console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(what, total=None, note="")

        def told(done: int, total: int, note: str = "") -> None:
            bar.update(task, completed=done, total=total, note=note)
            if not console.is_terminal:
                lines.tell(done, total, note)

        yield told


class _Lines:
    """What a log gets."""

    def __init__(self, what: str, console: Console) -> None:
        self._what, self._console = what, console
        self._done, self._tenth, self._at = 0, -1, -math.inf

    def tell(self, done: int, total: int, note: str) -> None:
        if done < self._done:
            self._tenth = -1
        self._done = done
        tenth, now = 10 * done // max(total, 1), time.monotonic()
        if tenth > self._tenth or now - self._at >= _LINE_EVERY_S:
            self._tenth, self._at = tenth, now
            said = f"{self._what}: {done:,} of {total:,}" + (f", {note}" if note else "")
            self._console.print(said, highlight=False, markup=False, soft_wrap=True)
