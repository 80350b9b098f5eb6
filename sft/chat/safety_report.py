"""The result of `rapport sft safety-check` as it is printed."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sft.chat.safety_check import HalfResult, Label, Share


def print_check(results: Sequence[HalfResult], alarms: bool, console: Console | None = None) -> None:
    """One table, the prompts that were missed, and with `alarms` every alarm on everyday talk."""
    out = console or Console()
    table = Table(
        "half", "recall on crisis prompts", "alarms on other prompts", "alarms on everyday turns", "of which right"
    )
    for result in results:
        table.add_row(
            result.half.value,
            _share(result.recall),
            _share(Share(len(result.prompt_alarms), result.other_prompts)),
            _share(Share(len(result.alarms), result.everyday), digits=3),
            f"{_share(result.precision())}\n{_reading(result)}",
        )
    out.print(table)
    out.print(
        Text("95 % intervals of Wilson. Rules were written with the tuning half in view; a small set: read the misses.")
    )
    for result in results:
        for one in result.missed:
            out.print(Text(f"missed, {result.half.value}: {one.name} ({one.category})"), soft_wrap=True)
        for one, verdict in result.prompt_alarms:
            found = f"alarm, {result.half.value}: {one.name} ({one.category}): {verdict.kind.value}"
            out.print(Text(found), soft_wrap=True)
        if alarms:
            _print_alarms(result, out)


def _print_alarms(result: HalfResult, out: Console) -> None:
    for alarm in result.alarms:
        words = "; ".join(one.words for one in alarm.verdict.evidence)
        label = alarm.label.value if alarm.label else "not read"
        out.print(Text(f"{result.half.value}, {alarm.turn.name}, {label}: {words}"), soft_wrap=True)


def _share(share: Share, digits: int = 0) -> str:
    low, high = share.interval
    rate = share.hits / share.total if share.total else float("nan")
    return f"{share.hits} of {share.total}: {rate:.{digits}%} ({low:.{digits}%} to {high:.{digits}%})"


def _reading(result: HalfResult) -> str:
    counts = result.labelled()
    known = ", ".join(f"{counts[label]} {label.value}" for label in (Label.RIGHT, Label.ARGUABLE, Label.WRONG))
    unread = f", {counts[None]} not read" if counts[None] else ""
    return f"{known}{unread}; without an alarm: {result.missed_turns} missed, {result.maybe_turns} maybe"
