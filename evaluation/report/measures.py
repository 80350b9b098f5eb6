"""What the measures of a run are called on the page, which way is better, and what they mean."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from evaluation.report.palette import spoken
from evaluation.report.run_files import Change
from reward_servers.protocol import Dimension


class Better(Enum):
    """The direction that training is meant to push a measure in."""

    UP = 1
    DOWN = -1
    NEITHER = 0


@dataclass(frozen=True, slots=True)
class Measure:
    """A row of the closing table in words; the figures of a `share` are shown in per cent."""

    title: str
    better: Better
    note: str
    share: bool = False


def _dimension(dimension: Dimension) -> Measure:
    better = Better.DOWN if dimension.lower_is_better else Better.UP
    return Measure(
        spoken(dimension).capitalize(), better, "rated 1 to 5" + ", lower is better" * (better is Better.DOWN)
    )


MEASURES: dict[str, Measure] = {
    "reward_in_a_joint_group": Measure(
        "Reward", Better.UP, "old and new replies to a prompt scaled in one group, so that they can be compared"
    ),
    "empathy": Measure("Empathy", Better.UP, "1 to 5, a scoring model's opinion of the text"),
    "d_kl": Measure("Change of tactics", Better.UP, "D_KL in nats of the reply's tactics from the previous turn's"),
    "stickiness": Measure("Stickiness", Better.DOWN, "how often a tactic of the previous turn comes again"),
    **{dimension.value: _dimension(dimension) for dimension in Dimension},
    "entropy": Measure("Variety within a reply", Better.NEITHER, "entropy of its tactics, in nats"),
    "distinct_tactics": Measure("Different tactics in a reply", Better.NEITHER, "number of ten"),
    "tokens": Measure("Tokens in a reply", Better.NEITHER, "length"),
    "truncated": Measure("Cut off", Better.DOWN, "replies that reached the length limit", share=True),
    "leaked": Measure("Label leaks", Better.DOWN, "replies that show tactic names or headings", share=True),
    "stock_phrases": Measure(
        "Said to everybody", Better.DOWN, "words in phrases that are told to others too", share=True
    ),
    "habits": Measure("Done with everybody", Better.DOWN, "overuse of the tactics that most replies to others have"),
    "empty": Measure("Empty", Better.DOWN, "replies without any text", share=True),
    "distinct_2": Measure("Different word pairs", Better.UP, "of all pairs of words, over all replies", share=True),
    "common_opening": Measure(
        "Same opening", Better.DOWN, "replies that begin with the most frequent four words", share=True
    ),
}
HEADLINE = ("reward_in_a_joint_group", "empathy", "d_kl", "stickiness")


def measure_of(name: str) -> Measure:
    """A measure that this file does not know yet is shown under its own name."""
    return MEASURES.get(name, Measure(spoken(name).capitalize(), Better.NEITHER, ""))


def in_order(changes: tuple[Change, ...]) -> Iterator[Change]:
    """The rows in the order of `MEASURES`, unknown ones last."""
    places = {name: place for place, name in enumerate(MEASURES)}
    return iter(sorted(changes, key=lambda change: places.get(change.name, len(places))))


def verdict(change: Change) -> str:
    """better, worse, higher, lower, `no clear change` where the interval holds zero, or `no interval`."""
    if change.interval is None or not all(map(math.isfinite, change.interval)):
        return "no interval"
    low, high = change.interval
    if low <= 0 <= high:
        return "no clear change"
    direction = 1 if low > 0 else -1
    better = measure_of(change.name).better
    if better is Better.NEITHER:
        return "higher" if direction > 0 else "lower"
    return "better" if direction == better.value else "worse"


def shown(value: float, signed: bool = False, share: bool = False) -> str:
    """A number for people: two decimals, one from 10 on, a real minus sign; a dash where there is none.

    A share is shown in per cent, with one decimal.
    """
    if not math.isfinite(value):
        return "–"
    if share:
        return _rounded(100 * value, signed, 1) + " %"
    return _rounded(value, signed, 1 if abs(value) >= 9.95 else 2)


def _rounded(value: float, signed: bool, digits: int) -> str:
    rounded = round(value, digits) + 0.0
    text = f"{rounded:{'+' if signed and rounded else ''}.{digits}f}"
    return text.replace("-", "−")
