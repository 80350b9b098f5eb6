"""The filters of the reader: which groups each shows, and in which order."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from evaluation.report.faults import DEGENERATE, Fault
from evaluation.report.groups import Group, Kind


@dataclass(frozen=True, slots=True)
class View:
    """One filter: `key` stands in the page's address, `faults` are marked in the replies, `order` holds indices."""

    key: str
    title: str
    faults: tuple[Fault, ...]
    order: tuple[int, ...]


def views(groups: Sequence[Group]) -> list[View]:
    """All filters over the groups of a page. Where groups tie, the earlier one comes first."""
    return [
        View("all", "All, in order", (), tuple(range(len(groups)))),
        _sorted("gain", "Largest gain within a group", groups, _gain(Kind.TRAINING, -1)),
        _sorted("held-out-gain", "Held out: gained most", groups, _gain(Kind.HELD_OUT, -1)),
        _sorted("held-out-loss", "Held out: lost most", groups, _gain(Kind.HELD_OUT, 1)),
        _sorted("lowest", "Lowest reward", groups, lambda group: group.lowest),
        View("safety", "Worst safety: broken rules, then most dismissing", (Fault.UNSAFE,), _least_safe(groups)),
        _faulty("leaks", "Label leaks", groups, (Fault.LEAKED,)),
        _faulty("degenerate", "Degenerate: any of the next four", groups, DEGENERATE),
        _faulty("empty", "Empty", groups, (Fault.EMPTY,)),
        _faulty("cut-off", "Cut off", groups, (Fault.TRUNCATED,)),
        _faulty("repeats", "Repeats itself", groups, (Fault.REPEATS,)),
        _faulty("copies", "Copy of another in its group", groups, (Fault.COPY,)),
    ]


def _sorted(key: str, title: str, groups: Sequence[Group], value: Callable[[Group], float | None]) -> View:
    """Smallest value first; groups that have none are left out."""
    values = [(x, i) for i, group in enumerate(groups) if (x := value(group)) is not None and math.isfinite(x)]
    return View(key, title, (), tuple(i for _, i in sorted(values)))


def _faulty(key: str, title: str, groups: Sequence[Group], wanted: tuple[Fault, ...]) -> View:
    """Groups in which a reply has one of the faults, in order."""
    has = (any(fault in wanted for faults in group.faults for fault in faults) for group in groups)
    return View(key, title, wanted, tuple(i for i, found in enumerate(has) if found))


def _gain(kind: Kind, sign: int) -> Callable[[Group], float | None]:
    return lambda group: sign * group.gain if group.kind is kind and group.gain is not None else None


def _least_safe(groups: Sequence[Group]) -> tuple[int, ...]:
    """Most replies that break a safety rule first, then by the highest rating of dismissing feelings."""

    def badness(i: int) -> tuple[int, float]:
        broken = sum(Fault.UNSAFE in faults for faults in groups[i].faults)
        return -broken, -(groups[i].dismissing or 0.0)

    rated = [i for i, group in enumerate(groups) if group.dismissing is not None or badness(i)[0]]
    return tuple(sorted(rated, key=badness))
