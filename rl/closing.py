"""What training did, on conversations that it never saw: before against after, with intervals, and what cheats score.

The reward is scaled within a group, so a policy's own mean reward says nothing about progress. For the table the
replies of both policies to one prompt are put into one group and scaled together: `reward` is then comparable.
Intervals are paired bootstraps over prompts (10,000 resamples): they say how far the prompts and samples at hand carry,
not how another seed of the whole run would turn out.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from rich.table import Table

from dialogue.conversation import Conversation
from dialogue.tactics import TACTICS
from reward_servers.protocol import Dimension, Score, ScoreRequest
from rl.config import RewardConfig
from rl.evaluation import EvalReply, EvalRun, summary
from rl.files import write_atomically
from rl.reward import RawReply, scale_and_join
from rl.scoring import Scorer, ScoringError

Item = TypeVar("Item")

RESAMPLES = 10_000
HONEST = "honest"


@dataclass(frozen=True, slots=True)
class Change:
    """One row: the measure before and after, and the 95 % interval of the difference (None: not a mean)."""

    name: str
    before: float
    after: float
    interval: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class ProbeRow:
    """How the scorer rates one way of cheating, mean over turns, and the share rated below the honest reply there."""

    name: str
    empathy: float
    below_honest: float


@dataclass(frozen=True, slots=True)
class Closing:
    """The closing table of a run."""

    before_step: int
    after_step: int
    prompts: int
    changes: tuple[Change, ...]
    probes: tuple[ProbeRow, ...]

    def save(self, path: Path) -> None:
        write_atomically(path, json.dumps(asdict(self), indent=1))

    def tables(self) -> tuple[Table, Table]:
        """For the terminal: the changes and the probes."""
        changes = Table(title=f"{self.prompts} held-out turns: step {self.before_step} against step {self.after_step}")
        for heading in ("measure", "before", "after", "change", "95 % interval"):
            changes.add_column(heading, justify="left" if heading == "measure" else "right")
        for row in self.changes:
            interval = f"{row.interval[0]:+.3f} .. {row.interval[1]:+.3f}" if row.interval else "-"
            change = f"{row.after - row.before:+.3f}"
            changes.add_row(
                row.name.replace("_", " "),
                f"{row.before:.3f}",
                f"{row.after:.3f}",
                change,
                interval,
            )
        probes = Table(title="What cheating would score (empathy, 1 to 5)")
        for heading in ("reply", "empathy", "below the honest reply"):
            probes.add_column(heading, justify="left" if heading == "reply" else "right")
        for probe in self.probes:
            share = "-" if probe.name == HONEST else f"{probe.below_honest:.0%}"
            probes.add_row(probe.name.replace("_", " "), f"{probe.empathy:.2f}", share)
        return changes, probes


def compare(before: EvalRun, after: EvalRun, config: RewardConfig, seed: int = 0) -> tuple[Change, ...]:
    """The rows of the table, over the prompts that both evaluations asked.

    Raises:
        ValueError: they have no prompt in common.
    """
    old, new = _by_prompt(before.replies), _by_prompt(after.replies)
    prompts = sorted(old.keys() & new.keys())
    if not prompts:
        raise ValueError("the two evaluations have no prompt in common")
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(len(prompts), np.full(len(prompts), 1 / len(prompts)), RESAMPLES)  # (R, P)
    sides = [[groups[p] for p in prompts] for groups in (old, new)]
    joint = [joint_rewards(before_G, after_G, config) for before_G, after_G in zip(*sides, strict=True)]
    rewards = [_mean_ratio([pair[side] for pair in joint], lambda reward: reward) for side in (0, 1)]
    rows = [_change("reward_in_a_joint_group", rewards[0], rewards[1], weights)]
    for name, value in _MEASURES.items():
        rows.append(_change(name, _mean_ratio(sides[0], value), _mean_ratio(sides[1], value), weights))
    rows.append(_change("stickiness", _stickiness_ratio(sides[0]), _stickiness_ratio(sides[1]), weights))
    texts = [summary([reply for group in side for reply in group]) for side in sides]
    rows += [Change(name, texts[0][name], texts[1][name], None) for name in ("distinct_2", "common_opening")]
    return tuple(rows)


def joint_rewards(
    old: Sequence[EvalReply], new: Sequence[EvalReply], config: RewardConfig
) -> tuple[list[float], list[float]]:
    """Rewards of two policies' replies to one prompt, their components scaled in one group."""
    replies = [RawReply(r.raw, r.tokens, r.leaked, r.truncated, r.stock or 0.0, r.habit or 0.0) for r in (*old, *new)]
    rewards = [breakdown.reward for breakdown in scale_and_join(replies, config)]
    return rewards[: len(old)], rewards[len(old) :]


def probe_table(scorer: Scorer, conversations: Sequence[Conversation], seed: int = 0) -> tuple[ProbeRow, ...]:
    """Score every way of cheating that the scorer was taught, against the human replies of these conversations.

    Raises:
        ScoringError: a probe could not be scored; the table is never made of what is left.
    """
    from reward_servers.empathy.probes import build_probes

    requests: list[ScoreRequest] = []
    for conversation in conversations:
        for index in conversation.supporter_turns():
            history = tuple(turn.as_message() for turn in conversation.history(index))
            honest = conversation.turns[index].text
            texts = {
                HONEST: honest,
                **{k.value: v for k, v in build_probes(history, honest, seed).items()},
            }
            requests += [ScoreRequest(f"{conversation.id}/{index}#{k}", history, text) for k, text in texts.items()]
    empathy: dict[str, list[float]] = defaultdict(list)
    for request, result in zip(requests, scorer.score(requests), strict=True):
        if not isinstance(result, Score):
            raise ScoringError(f"probe {request.id} could not be scored: {result.server}: {result.message}")
        empathy[request.id.rpartition("#")[2]].append(result.empathy.aggregated)
    honest_scores = np.array(empathy[HONEST])
    return tuple(
        ProbeRow(
            name,
            float(np.mean(values)),
            float(np.mean(np.array(values) < honest_scores)),
        )
        for name, values in sorted(empathy.items(), key=lambda item: -float(np.mean(item[1])))
    )


Ratio = tuple[np.ndarray, np.ndarray]  # numerators and denominators, (P, C): the measure is a mean over C of the ratios


def _quality(reply: EvalReply) -> float | None:
    return reply.raw.quality if reply.raw else None


def _d_kl(reply: EvalReply) -> float | None:
    return reply.raw.d_kl if reply.raw and reply.previous_counts is not None else None


def _entropy(reply: EvalReply) -> float | None:
    return reply.raw.entropy if reply.raw else None


def _dimension(index: int) -> Callable[[EvalReply], float | None]:
    return lambda reply: reply.dimensions[index] if reply.dimensions else None


# What is read off one reply; None where the reply has no such value. Names are those of `rl.evaluation.summary`.
_MEASURES: dict[str, Callable[[EvalReply], float | None]] = {
    "empathy": _quality,
    **{dimension.value: _dimension(index) for index, dimension in enumerate(Dimension)},
    "d_kl": _d_kl,
    "entropy": _entropy,
    "distinct_tactics": lambda reply: float(len(reply.tactics)),
    "tokens": lambda reply: float(reply.tokens),
    "truncated": lambda reply: float(reply.truncated),
    "leaked": lambda reply: float(reply.leaked),
    "stock_phrases": lambda reply: reply.stock,
    "habits": lambda reply: reply.habit,
    "empty": lambda reply: float(reply.raw is None),
}


def _mean_ratio(groups: Sequence[Sequence[Item]], value: Callable[[Item], float | None]) -> Ratio:
    values = [[x for item in group if (x := value(item)) is not None] for group in groups]
    return np.array([[sum(v)] for v in values], float), np.array([[len(v)] for v in values], float)


def _stickiness_ratio(groups: Sequence[Sequence[EvalReply]]) -> Ratio:
    repeated, chances = np.zeros((2, len(groups), len(TACTICS)))
    for p, group in enumerate(groups):
        for reply in group:
            had = np.array(reply.previous_counts or [0] * len(TACTICS)) > 0
            chances[p] += had
            repeated[p] += had & np.array([tactic in reply.tactics for tactic in TACTICS])
    return repeated, chances


def _change(name: str, before: Ratio, after: Ratio, weights: np.ndarray) -> Change:
    spread = _measure(after, weights) - _measure(before, weights)  # (R,)
    low, high = np.nanquantile(spread, [0.025, 0.975]) if not np.isnan(spread).all() else (np.nan, np.nan)
    once = np.ones((1, weights.shape[1]))
    return Change(
        name,
        float(_measure(before, once)[0]),
        float(_measure(after, once)[0]),
        (float(low), float(high)),
    )


def _measure(ratio: Ratio, weights: np.ndarray) -> np.ndarray:
    """Mean over C of weighted numerators by weighted denominators, for each of R weightings: (R,)."""
    numerators, denominators = weights @ ratio[0], weights @ ratio[1]  # (R, C)
    shares = np.divide(
        numerators,
        denominators,
        out=np.full_like(numerators, np.nan),
        where=denominators > 0,
    )
    used = ~np.isnan(shares)
    return np.where(
        used.any(1),
        np.where(used, shares, 0).sum(1) / np.maximum(used.sum(1), 1),
        np.nan,
    )


def _by_prompt(replies: Sequence[EvalReply]) -> dict[str, list[EvalReply]]:
    groups: dict[str, list[EvalReply]] = defaultdict(list)
    for reply in replies:
        groups[reply.prompt_id].append(reply)
    return groups
