"""Progress in a log: a line at every tenth, at least one a minute, and anew for every part of the work."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from reward_servers import progress
from reward_servers.progress import shown_progress


def lines_of(steps: list[tuple[int, int, str]]) -> list[str]:
    out = io.StringIO()
    with shown_progress("work", Console(file=out, width=40)) as told:
        for step in steps:
            told(*step)
    return out.getvalue().splitlines()


def test_a_log_has_a_line_at_every_tenth() -> None:
    lines = lines_of([(n, 1000, "loss [1]") for n in range(1001)])
    assert len(lines) == 11
    assert lines[0] == "work: 0 of 1,000, loss [1]" and lines[-1] == "work: 1,000 of 1,000, loss [1]"


def test_every_part_begins_anew_and_nothing_to_do_is_no_error() -> None:
    assert lines_of([(1, 2, ""), (2, 2, ""), (1, 2, "fold 2"), (2, 2, "fold 2"), (0, 0, "")]) == [
        "work: 1 of 2",
        "work: 2 of 2",
        "work: 1 of 2, fold 2",
        "work: 2 of 2, fold 2",
        "work: 0 of 0",
    ]


def test_where_a_tenth_takes_hours_there_is_a_line_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    out = io.StringIO()
    with shown_progress("work", Console(file=out)) as told:
        for n in range(1, 10):
            now[0] += 30
            told(n, 10_000)
    assert out.getvalue().count("work: ") == 5
