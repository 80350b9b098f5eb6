"""How well the crisis detector does: recall on crisis prompts and alarms on everyday talk, on both halves of the data.

`sft/data/crisis_labels.csv` says, by name and without any text, what a reader decided about alarms on the everyday
turns, and which turns that a wide net of words brought up were a crisis that the detector missed:

    right     somebody who listens with care would have thought of danger too
    arguable  hyperbole, the past, or a word out of which one may read it
    wrong     no danger
    missed    a crisis without an alarm
    maybe     one may read a crisis into it; no alarm
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from dialogue.crisis.detector import Verdict, detect
from sft.chat.stimuli import EverydayTurn, Half, Stimulus, read_everyday, read_stimuli

LABELS = Path(__file__).parent.parent / "data" / "crisis_labels.csv"


class Label(StrEnum):
    """See the head of this file."""

    RIGHT = "right"
    ARGUABLE = "arguable"
    WRONG = "wrong"
    MISSED = "missed"
    MAYBE = "maybe"


class LabelError(ValueError):
    """The file of labels is not what is expected."""


@dataclass(frozen=True, slots=True)
class Share:
    """`hits` of `total`, with the 95 % interval of Wilson (1927)."""

    hits: int
    total: int

    @property
    def interval(self) -> tuple[float, float]:
        from scipy.stats import binomtest

        if not self.total:
            return 0.0, 1.0
        found = binomtest(self.hits, self.total).proportion_ci(0.95, method="wilson")
        return float(found.low), float(found.high)


@dataclass(frozen=True, slots=True)
class Alarm:
    """An alarm on everyday talk, and what a reader said of it; None where nobody has read it."""

    turn: EverydayTurn
    verdict: Verdict
    label: Label | None


@dataclass(frozen=True, slots=True)
class HalfResult:
    """One half of the data.

    Attributes:
        recall: crisis prompts that raised an alarm.
        missed: crisis prompts that raised none.
        prompt_alarms: prompts that are no crisis by their file, and raised an alarm.
        other_prompts: how many prompts are no crisis.
        everyday: how many everyday turns were judged.
        alarms: everyday turns that raised one.
        missed_turns, maybe_turns: everyday turns without an alarm that a reader called a crisis, or nearly one.
    """

    half: Half
    recall: Share
    missed: tuple[Stimulus, ...]
    prompt_alarms: tuple[tuple[Stimulus, Verdict], ...]
    other_prompts: int
    everyday: int
    alarms: tuple[Alarm, ...]
    missed_turns: int
    maybe_turns: int

    def labelled(self) -> Counter[Label | None]:
        return Counter(alarm.label for alarm in self.alarms)

    def precision(self) -> Share:
        """Right alarms among those that were read; arguable ones count as wrong."""
        counts = self.labelled()
        return Share(counts[Label.RIGHT], sum(count for label, count in counts.items() if label is not None))


def measure(data: Path, everyday: int | None = None) -> tuple[HalfResult, ...]:
    """Judge everything once.

    Args:
        everyday: at most so many everyday turns of each half, in the order of the files; None for all.

    Raises:
        DataError: see `sft.chat.stimuli`. LabelError: the labels cannot be read.
    """
    labels = read_labels(LABELS)
    stimuli = read_stimuli(data)
    turns: dict[Half, list[EverydayTurn]] = {half: [] for half in Half}
    for turn in read_everyday(data):
        if everyday is None or len(turns[turn.half]) < everyday:
            turns[turn.half].append(turn)
    return tuple(_half(half, [one for one in stimuli if one.half is half], turns[half], labels) for half in Half)


def read_labels(file: Path) -> dict[str, Label]:
    """Labels by the name of the turn.

    Raises:
        LabelError: a row is not complete, or its label is not known.
    """
    with file.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    try:
        return {f"{row['corpus']} {row['conversation']} {row['turn']}": Label(row["label"]) for row in rows}
    except (KeyError, ValueError) as error:
        raise LabelError(f"{file}: {error}; expected columns corpus, conversation, turn, label") from error


def _half(
    half: Half, stimuli: Sequence[Stimulus], turns: Sequence[EverydayTurn], labels: dict[str, Label]
) -> HalfResult:
    judged = [(one, detect(one.text)) for one in stimuli]
    missed = tuple(one for one, verdict in judged if one.crisis and not verdict.is_crisis)
    crisis = sum(one.crisis for one in stimuli)
    verdicts = [(turn, detect(turn.text)) for turn in turns]
    silent = Counter(labels.get(turn.name) for turn, verdict in verdicts if not verdict.is_crisis)
    return HalfResult(
        half,
        Share(crisis - len(missed), crisis),
        missed,
        tuple((one, verdict) for one, verdict in judged if not one.crisis and verdict.is_crisis),
        len(stimuli) - crisis,
        len(turns),
        tuple(Alarm(turn, found, labels.get(turn.name)) for turn, found in verdicts if found.is_crisis),
        silent[Label.MISSED],
        silent[Label.MAYBE],
    )
