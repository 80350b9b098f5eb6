"""The MINT reward (arXiv 2604.11742): empathy quality joined with variety of supportive tactics across turns.

A reward function sees a whole group, because each component is scaled to [0, 1] within the group:

    r = (Q' + w * (g_kl * D_KL' + g_h * H' + g_2 * B' + g_3 * T')) * min(1, 200 / tokens) - penalties

Q    quality of the reply in its history
D_KL KL(current || previous supporter turn) over the ten tactics: variety across turns
H    Shannon entropy of the current turn's tactics: variety within a turn
B, T surprisal of the order of tactics under the conversation's own past, by bigram and trigram

All logarithms are natural. What the paper leaves open is settled here: on the supporter's first turn there is no
previous turn, so D_KL is 0 for every rollout of the group and scales to the flat 0.5.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from dialogue.leaks import leaks_labels
from dialogue.tactics import TACTICS, Tactic, TacticCounts
from reward_servers.protocol import Score
from rl.config import RewardConfig, RewardMode
from rl.types import Prompt, Rollout, StopReason, TurnTactics

FLAT = 0.5  # what a component scales to when it is equal for the whole group


@dataclass(frozen=True, slots=True)
class Components:
    """Raw components of one reply, before scaling within the group."""

    quality: float
    d_kl: float
    entropy: float
    bigram: float
    trigram: float


@dataclass(frozen=True, slots=True)
class RewardBreakdown:
    """How one rollout came by its reward. `raw` and `scaled` are None for an empty reply, which is not scored.

    `stock`: how much of it is said to other people too, from 0 to 1 (`rl.stock`). `habit`: how far its tactics are used
    with everybody, from 0 to 1 (`rl.habit`).
    """

    reward: float
    raw: Components | None
    scaled: Components | None
    length_factor: float
    leaked: bool
    truncated: bool
    empty: bool
    stock: float
    habit: float


def kl_to_previous(current: TacticCounts, previous: TacticCounts | None, alpha: float, cap: float) -> float:
    """D_KL(current || previous) of tactic counts smoothed by `alpha`, at most `cap`, in nats.

    0 where the reply has no tactic (saying nothing recognisable is not variety) or there is no previous turn.
    """
    if previous is None or not any(current):
        return 0.0
    p, q = _smoothed(current, alpha), _smoothed(previous, alpha)
    return min(cap, sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))


def entropy(counts: TacticCounts) -> float:
    """Shannon entropy in nats of the distribution of tactics in one turn; 0 where there is none."""
    total = sum(counts)
    return -sum(c / total * math.log(c / total) for c in counts if c) if total else 0.0


def ngram_surprisal(current: TurnTactics, past: Sequence[TurnTactics], order: int, alpha: float) -> float:
    """Mean -log P(next tactic | the `order` - 1 before it) over consecutive sentences of the current turn, in nats.

    P is estimated on the past supporter turns, smoothed by `alpha` over the K = 10 possible next tactics. Sentences
    without a tactic are passed over; where a sentence has several tactics every combination counts with equal weight.
    0 where the turn is shorter than `order` sentences with tactics.
    """
    seen: Counter[tuple[Tactic, ...]] = Counter()
    for turn in past:
        for window in _windows(turn, order):
            seen.update(product(*window))
    contexts: Counter[tuple[Tactic, ...]] = Counter()
    for gram, count in seen.items():
        contexts[gram[:-1]] += count
    surprisals = []
    for window in _windows(current, order):
        grams = list(product(*window))
        logs = [-math.log((seen[gram] + alpha) / (contexts[gram[:-1]] + alpha * len(TACTICS))) for gram in grams]
        surprisals.append(sum(logs) / len(logs))
    return sum(surprisals) / len(surprisals) if surprisals else 0.0


def components(prompt: Prompt, score: Score, config: RewardConfig) -> Components:
    """The raw components of one scored reply."""
    counts = score.tactic_counts
    return Components(
        quality=score.quality,
        d_kl=kl_to_previous(counts, prompt.previous_counts, config.alpha, config.kl_cap),
        entropy=entropy(counts),
        bigram=ngram_surprisal(score.sentence_tactics, prompt.past_tactics, 2, config.alpha),
        trigram=ngram_surprisal(score.sentence_tactics, prompt.past_tactics, 3, config.alpha),
    )


def scale_within_group(values: Sequence[float]) -> list[float]:
    """Min-max scaling to [0, 1]; a flat range gives `FLAT` for all."""
    low, high = min(values), max(values)
    if high - low < 1e-12:
        return [FLAT] * len(values)
    return [(value - low) / (high - low) for value in values]


@dataclass(frozen=True, slots=True)
class RawReply:
    """All that the reward of one reply depends on besides the rest of its group. `raw` is None for an empty reply."""

    raw: Components | None
    tokens: int
    leaked: bool
    truncated: bool
    stock: float = 0.0
    habit: float = 0.0


def group_rewards(
    prompt: Prompt,
    rollouts: Sequence[Rollout],
    scores: Sequence[Score | None],
    config: RewardConfig,
    stock: Sequence[float] = (),
    habit: Sequence[float] = (),
) -> list[RewardBreakdown]:
    """The rewards of one group.

    Args:
        prompt: with the tactics of the supporter's earlier turns.
        rollouts: G rollouts that are in the group; those whose scoring failed have already left it.
        scores: G scores in the same order; None for exactly the replies without text.
        stock: G shares of stock phrases (`rl.stock`); all 0 if not given.
        habit: G shares of overused tactics (`rl.habit`); all 0 if not given.

    Returns:
        G breakdowns in the same order.
    """
    if any((score is None) != is_empty(rollout) for rollout, score in zip(rollouts, scores, strict=True)):
        raise ValueError(f"prompt {prompt.id}: exactly the rollouts without text must come without a score")
    none = [0.0] * len(rollouts)
    replies = [
        RawReply(
            raw=components(prompt, score, config) if score is not None else None,
            tokens=len(rollout.token_ids),
            leaked=leaks_labels(rollout.text),
            truncated=rollout.stop_reason is StopReason.LENGTH,
            stock=told,
            habit=overused,
        )
        for rollout, score, told, overused in zip(rollouts, scores, stock or none, habit or none, strict=True)
    ]
    return scale_and_join(replies, config)


def scale_and_join(replies: Sequence[RawReply], config: RewardConfig) -> list[RewardBreakdown]:
    """Scale the components within the group and join them into G rewards; empty replies stand outside the scaling."""
    scaled = iter(_scale_all([reply.raw for reply in replies if reply.raw is not None]))
    return [_breakdown(reply, next(scaled) if reply.raw is not None else None, config) for reply in replies]


def is_empty(rollout: Rollout) -> bool:
    """A reply that shows the seeker no text at all."""
    return not rollout.text.strip()


def _breakdown(reply: RawReply, scaled: Components | None, config: RewardConfig) -> RewardBreakdown:
    length_factor = min(1.0, config.target_tokens / max(1, reply.tokens))
    if scaled is None:
        reward = config.empty_reward
    else:
        penalty = (
            config.leak_penalty * reply.leaked
            + config.truncation_penalty * reply.truncated
            + config.stock_penalty * reply.stock
            + config.habit_penalty * reply.habit
        )
        reward = _join(scaled, config) * length_factor - penalty
    return RewardBreakdown(
        reward,
        reply.raw,
        scaled,
        length_factor,
        reply.leaked,
        reply.truncated,
        empty=scaled is None,
        stock=reply.stock,
        habit=reply.habit,
    )


def _join(scaled: Components, config: RewardConfig) -> float:
    diversity = config.weight * (
        config.gamma_kl * scaled.d_kl
        + config.gamma_entropy * scaled.entropy
        + config.gamma_bigram * scaled.bigram
        + config.gamma_trigram * scaled.trigram
    )
    match config.mode:
        case RewardMode.quality_only:
            return scaled.quality
        case RewardMode.diversity_only:
            return diversity
        case RewardMode.quality_plus_diversity:
            return scaled.quality + diversity
        case RewardMode.quality_times_diversity:
            return scaled.quality * diversity


def _scale_all(raw: Sequence[Components]) -> list[Components]:
    if not raw:
        return []
    names = Components.__slots__
    columns = [scale_within_group([getattr(item, name) for item in raw]) for name in names]
    return [Components(*row) for row in zip(*columns, strict=True)]


def _smoothed(counts: TacticCounts, alpha: float) -> list[float]:
    total = sum(counts) + alpha * len(counts)
    return [(count + alpha) / total for count in counts]


def _windows(turn: TurnTactics, order: int) -> list[TurnTactics]:
    tagged = [tactics for tactics in turn if tactics]
    return [tuple(tagged[i : i + order]) for i in range(len(tagged) - order + 1)]
