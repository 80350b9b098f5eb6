"""How good is the policy on conversations that it was not trained on? Sampled, scored and kept reply by reply.

An `EvalRun` holds everything that the closing table needs, so two policies are compared without asking either again.
The prompts, their order and the sampling seeds are the same for every evaluation of a run.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dialogue.tactics import TACTICS, Tactic, TacticCounts, tactics_of_counts
from reward_servers.protocol import Dimension, Score
from rl.config import RunConfig
from rl.files import write_atomically
from rl.prompts import rollout_seed
from rl.reward import Components
from rl.rollout import Progress, RolloutPool, Sampling
from rl.scoring import ScoredGroup, Scorer, score_groups
from rl.types import Prompt, StopReason

EVALUATION_STEP = -1  # stands for the step in the sampling seeds, so that every evaluation samples with the same ones


@dataclass(frozen=True, slots=True)
class EvalReply:
    """One reply to a held-out prompt and what was said of it. Tactics are names, counts have K = 10 entries.

    `raw` holds the components of the reward; an empty reply has no sentences, no dimensions and no components.
    """

    prompt_id: str
    seeker: str
    text: str
    tokens: int
    truncated: bool
    leaked: bool
    sentences: tuple[str, ...]
    sentence_tactics: tuple[tuple[str, ...], ...]
    previous_counts: tuple[int, ...] | None
    dimensions: tuple[float, ...] | None
    raw: Components | None
    stock: float | None = None  # None in the files of older runs
    habit: float | None = None  # likewise

    @property
    def tactics(self) -> frozenset[Tactic]:
        return frozenset(Tactic(name) for names in self.sentence_tactics for name in names)


@dataclass(frozen=True, slots=True)
class EvalRun:
    """All replies of one evaluation, in the order of the prompts; `unscored` replies failed at the servers."""

    step: int
    replies: tuple[EvalReply, ...]
    unscored: int

    @staticmethod
    def path(folder: Path, step: int) -> Path:
        return folder / f"evaluation-{step:06d}.json"

    @staticmethod
    def forget_after(folder: Path, step: int) -> None:
        """Remove the evaluations of steps that a resumed run does again: their metrics lines were dropped as well."""
        for path in folder.glob("evaluation-*.json"):
            if int(path.stem.rpartition("-")[2]) > step:
                path.unlink()

    def save(self, path: Path) -> None:
        record = {
            "step": self.step,
            "unscored": self.unscored,
            "replies": [asdict(reply) for reply in self.replies],
        }
        write_atomically(path, json.dumps(record, ensure_ascii=False, indent=1))

    @staticmethod
    def load(path: Path) -> EvalRun:
        record = json.loads(path.read_text(encoding="utf-8"))
        return EvalRun(record["step"], tuple(map(_reply_from_json, record["replies"])), record["unscored"])

    def metrics(self) -> dict[str, float]:
        """Means over the replies, under `eval/`; one that does not exist (no previous turn anywhere) is left out."""
        values = summary(self.replies) | {"unscored": float(self.unscored)}
        return {f"eval/{name}": value for name, value in values.items() if not math.isnan(value)}

    def line(self) -> str:
        """One line for the log."""
        values = summary(self.replies)
        shown = (
            "empathy",
            "d_kl",
            "entropy",
            "distinct_tactics",
            "stickiness",
            "distinct_2",
            "tokens",
            "truncated",
        )
        unscored = f"  {self.unscored} replies without a score" if self.unscored else ""
        return f"held out, step {self.step}: " + "  ".join(f"{name} {values[name]:.3f}" for name in shown) + unscored


def evaluate(
    pool: RolloutPool,
    scorer: Scorer,
    prompts: Sequence[Prompt],
    step: int,
    config: RunConfig,
    on_progress: Progress | None = None,
) -> EvalRun:
    """Sample `evaluation.samples_per_prompt` replies to each prompt and score them.

    Raises:
        RolloutError, ScoringError: as in training. Up to `servers.max_failed_fraction` of the replies may stay without
            a score: they are left out, and `unscored` says how many.
    """
    sampling = Sampling(
        n=config.evaluation.samples_per_prompt,
        temperature=config.evaluation.temperature,
        top_p=1.0,
        max_tokens=config.rollout.max_response_tokens,
    )
    seeds = [rollout_seed(config.seed, EVALUATION_STEP, prompt, 0) for prompt in prompts]
    scores = score_groups(scorer, pool.generate(prompts, sampling, seeds, on_progress), config, min_group=1)
    replies = tuple(reply for group in scores.groups for reply in _replies(group))
    return EvalRun(step, replies, scores.failed)


def summary(replies: Sequence[EvalReply]) -> dict[str, float]:
    """The means that a run reports; empty replies count in `empty` and in the text measures only."""
    scored = [reply for reply in replies if reply.raw is not None]
    raw = [reply.raw for reply in replies if reply.raw is not None]
    values = {
        "empathy": _mean([item.quality for item in raw]),
        "d_kl": _mean([r.raw.d_kl for r in scored if r.raw is not None and r.previous_counts is not None]),
        "entropy": _mean([item.entropy for item in raw]),
        "distinct_tactics": _mean([len(reply.tactics) for reply in replies]),
        "stickiness": stickiness([(reply.previous_counts, reply.tactics) for reply in replies]),
        "distinct_2": distinct_ngrams([reply.text for reply in replies], 2),
        "common_opening": common_opening([reply.text for reply in replies]),
        "tokens": _mean([reply.tokens for reply in replies]),
        "truncated": _mean([reply.truncated for reply in replies]),
        "leaked": _mean([reply.leaked for reply in replies]),
        "stock_phrases": _mean([reply.stock for reply in replies if reply.stock is not None]),
        "habits": _mean([reply.habit for reply in replies if reply.habit is not None]),
        "empty": _mean([reply.raw is None for reply in replies]),
    }
    for index, dimension in enumerate(Dimension):
        values[dimension.value] = _mean([reply.dimensions[index] for reply in scored if reply.dimensions])
    return values


def stickiness(turns: Sequence[tuple[TacticCounts | None, frozenset[Tactic]]]) -> float:
    """How often a tactic of the gold previous supporter turn is used again (arXiv 2604.11742); lower is more varied.

    Args:
        turns: (tactic counts of the gold previous turn, tactics of the current turn); None where there is no previous.

    Returns:
        The mean over the tactics that occur in a previous turn of the share of those turns that repeat it; NaN where
        no previous turn has a tactic.
    """
    repeated: dict[Tactic, list[bool]] = {tactic: [] for tactic in TACTICS}
    for previous, current in turns:
        for tactic in tactics_of_counts(previous) if previous is not None else ():
            repeated[tactic].append(tactic in current)
    return _mean([_mean(flags) for flags in repeated.values() if flags])


def distinct_ngrams(texts: Sequence[str], order: int) -> float:
    """Share of different word n-grams among all of them, over all texts together; low when a phrase is everywhere."""
    grams = [gram for text in texts for gram in _ngrams(text.lower().split(), order)]
    return len(set(grams)) / len(grams) if grams else float("nan")


def common_opening(texts: Sequence[str], words: int = 4) -> float:
    """Share of the texts that open with the most frequent first `words` words: 1.0 when all begin alike."""
    openings = Counter(" ".join(text.lower().split()[:words]) for text in texts)
    return max(openings.values()) / len(texts) if texts else float("nan")


def _replies(group: ScoredGroup) -> list[EvalReply]:
    return [
        EvalReply(
            prompt_id=group.prompt.id,
            seeker=group.prompt.history[-1]["content"],
            text=rollout.text,
            tokens=len(rollout.token_ids),
            truncated=rollout.stop_reason is StopReason.LENGTH,
            leaked=breakdown.leaked,
            sentences=score.sentences if score else (),
            sentence_tactics=_names(score),
            previous_counts=group.prompt.previous_counts,
            dimensions=score.empathy.dimensions if score else None,
            raw=breakdown.raw,
            stock=breakdown.stock,
            habit=breakdown.habit,
        )
        for rollout, score, breakdown in zip(group.rollouts, group.scores, group.breakdowns, strict=True)
    ]


def _names(score: Score | None) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(map(str, tactics)) for tactics in score.sentence_tactics) if score else ()


def _ngrams(words: Sequence[str], order: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + order]) for i in range(len(words) - order + 1)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("nan")


def _reply_from_json(record: dict[str, Any]) -> EvalReply:
    raw = record.pop("raw")
    fields = {name: _tuples(value) for name, value in record.items()}
    return EvalReply(**fields, raw=Components(**raw) if raw is not None else None)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
