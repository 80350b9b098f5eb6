"""Replies to one prompt as one group: what the reader shows at a time.

A training group is the rollouts of one prompt in one step. A held-out group is the replies of the first and of the last
evaluation to one prompt, so that before and after stand side by side.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import mean

from evaluation.report.faults import Fault, faults_of_group
from evaluation.report.run_files import Reply, Run
from reward_servers.protocol import Dimension

_DISMISSING = tuple(Dimension).index(Dimension.DISMISSING_EMOTIONS)


class Kind(StrEnum):
    TRAINING = "training"
    HELD_OUT = "held out"


@dataclass(frozen=True, slots=True)
class Group:
    """G replies to one prompt, and the numbers by which groups are sorted.

    Attributes:
        labels: G names of the replies, as the page shows them.
        gain: training: highest minus lowest reward; held out: mean empathy of the last evaluation minus that of the
            first. None where a side has no scored reply.
        lowest: the lowest reward; None for held-out groups, which have no rewards.
        dismissing: the highest rating of dismissing the seeker's feelings, 1 to 5; None where no reply was scored.
    """

    kind: Kind
    step: int
    replies: tuple[Reply, ...]
    labels: tuple[str, ...]
    faults: tuple[tuple[Fault, ...], ...]
    gain: float | None
    lowest: float | None
    dismissing: float | None

    @property
    def prompt_id(self) -> str:
        return self.replies[0].prompt_id

    @property
    def seeker(self) -> str:
        return self.replies[0].seeker


def groups_of(run: Run) -> list[Group]:
    """All groups of a run: the held-out ones, then training in the order of its steps."""
    training: dict[tuple[int, str], list[Reply]] = {}
    for reply in run.samples:
        training.setdefault((reply.step, reply.prompt_id), []).append(reply)
    return [*_held_out(run), *map(_training_group, training.values())]


def _training_group(replies: Sequence[Reply]) -> Group:
    rewards = [reply.reward for reply in replies if reply.reward is not None]
    return _group(
        Kind.TRAINING,
        replies,
        faults_of_group(replies),
        labels=[f"rollout {i}" for i in range(1, len(replies) + 1)],
        gain=max(rewards) - min(rewards),
        lowest=min(rewards),
    )


def _held_out(run: Run) -> Iterable[Group]:
    if not run.evaluations:
        return
    evaluations = dict.fromkeys((run.evaluations[0].step, run.evaluations[-1].step))
    prompts: dict[str, dict[int, list[Reply]]] = {}
    for evaluation in run.evaluations:
        if evaluation.step in evaluations:
            for reply in evaluation.replies:
                prompts.setdefault(reply.prompt_id, {}).setdefault(evaluation.step, []).append(reply)
    for by_step in prompts.values():
        replies = [reply for replies in by_step.values() for reply in replies]
        labels = [f"{_side(step, run)} {i}" for step, group in by_step.items() for i in range(1, len(group) + 1)]
        empathy = [_empathy(group) for group in by_step.values()]
        gain = empathy[-1] - empathy[0] if len(empathy) == 2 and empathy[0] and empathy[-1] else None
        faults = [found for group in by_step.values() for found in faults_of_group(group)]  # same words later: no copy
        yield _group(Kind.HELD_OUT, replies, faults, labels, gain, lowest=None)


def _side(step: int, run: Run) -> str:
    return "before" if step == run.evaluations[0].step else "after"


def _empathy(replies: Sequence[Reply]) -> float | None:
    scored = [reply.raw["quality"] for reply in replies if reply.raw is not None]
    return mean(scored) if scored else None


def _group(
    kind: Kind,
    replies: Sequence[Reply],
    faults: Sequence[tuple[Fault, ...]],
    labels: Sequence[str],
    gain: float | None,
    lowest: float | None,
) -> Group:
    dismissing = [reply.dimensions[_DISMISSING] for reply in replies if reply.dimensions is not None]
    return Group(
        kind=kind,
        step=max(reply.step for reply in replies),
        replies=tuple(replies),
        labels=tuple(labels),
        faults=tuple(faults),
        gain=gain,
        lowest=lowest,
        dismissing=max(dismissing, default=None),
    )
