"""Policy losses by name from verl, normalised over the whole batch however it is sharded.

A loss here is the sum over ranks and micro-batches of terms already divided by GLOBAL counts, so any split of a batch
gives the same gradient. That needs a loss that is separable over replies; `POLICY_LOSSES` says which are.

Sources: `verl.trainer.ppo.core_algos` (losses, aggregation, KL), `verl.trainer.ppo.rollout_corr_helper` (importance
weights between the policy that sampled and the learner's own).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import torch

from rl.batching import MicroBatch
from rl.config import ConfigError, LossConfig
from rl.types import TrainGroup


class Sharding(StrEnum):
    """What a registered loss needs so that shards of a batch add up to the loss of the whole."""

    EXACT = "exact"  # verl divides by the global counts it is given
    ROWS = "rows"  # verl takes the plain mean over the rows it sees: multiplied by their share of the batch
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class LossFact:
    """`only_agg_mode`: the one aggregation the loss computes, whatever it is told."""

    sharding: Sharding = Sharding.EXACT
    why: str = ""
    only_agg_mode: str = ""


_WHOLE_BATCH = "it ranks tokens by statistics of all tokens it sees, so the result would depend on the micro-batches"
POLICY_LOSSES: dict[str, LossFact] = {
    "vanilla": LossFact(),
    "dppo_tv": LossFact(),
    "dppo_kl": LossFact(),
    "gspo": LossFact(),
    "sapo": LossFact(only_agg_mode="seq-mean-token-mean"),
    "gpg": LossFact(),
    "cispo": LossFact(),
    "geo_mean": LossFact(Sharding.ROWS, only_agg_mode="seq-mean-token-mean"),
    "clip_cov": LossFact(Sharding.REFUSED, _WHOLE_BATCH),
    "kl_cov": LossFact(Sharding.REFUSED, _WHOLE_BATCH),
    "dro": LossFact(Sharding.REFUSED, "it needs dro_beta, for which there is no configuration key"),
    "bypass_mode": LossFact(
        Sharding.REFUSED, "it computes importance weights inside; use vanilla with correction.rollout_is"
    ),
}
AGG_MODES = ("token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm")
CORRECTIONS = ("token", "sequence", "none")


def validate_loss(config: LossConfig) -> None:
    """Refuse a loss that cannot be computed exactly. Imports neither verl nor Ray.

    Raises:
        ConfigError: names the key, the value and the known ones.
    """
    usable = [name for name, fact in POLICY_LOSSES.items() if fact.sharding is not Sharding.REFUSED]
    fact = POLICY_LOSSES.get(config.policy_loss)
    key = "learner.loss.policy_loss"
    if fact is None:
        raise ConfigError(f"{key}={config.policy_loss!r} is not registered in verl; known: {', '.join(usable)}")
    if fact.sharding is Sharding.REFUSED:
        raise ConfigError(f"{key}={config.policy_loss!r} is not supported: {fact.why}; use one of {', '.join(usable)}")
    if config.loss_agg_mode not in AGG_MODES:
        raise ConfigError(f"learner.loss.loss_agg_mode={config.loss_agg_mode!r} is none of {', '.join(AGG_MODES)}")
    if fact.only_agg_mode and config.loss_agg_mode != fact.only_agg_mode:
        raise ConfigError(
            f"learner.loss.loss_agg_mode={config.loss_agg_mode!r} would be ignored by {config.policy_loss!r}, which "
            f"always aggregates by {fact.only_agg_mode}: set that"
        )
    if config.correction.rollout_is not in CORRECTIONS:
        raise ConfigError(
            f"learner.loss.correction.rollout_is={config.correction.rollout_is!r} is none of {', '.join(CORRECTIONS)}"
        )
    if config.correction.rollout_is_threshold <= 0:
        raise ConfigError(
            f"learner.loss.correction.rollout_is_threshold={config.correction.rollout_is_threshold} must be positive"
        )
    if config.clip_ratio_c <= 1:
        raise ConfigError(f"learner.loss.clip_ratio_c={config.clip_ratio_c} must be greater than 1")


@dataclass(frozen=True, slots=True)
class BatchCounts:
    """Global counts of one update. `horizon`: the constant divisor of seq-mean-token-sum-norm, in tokens."""

    tokens: int
    replies: int
    horizon: int

    @classmethod
    def of(cls, groups: Sequence[TrainGroup], horizon: int) -> BatchCounts:
        lengths = [len(reply) for group in groups for reply in group.response_ids]
        return cls(sum(lengths), len(lengths), horizon)


@dataclass(slots=True)
class Tally:
    """Metrics that can be added over micro-batches and ranks: sums, and maxima."""

    sums: dict[str, float] = field(default_factory=dict)
    maxima: dict[str, float] = field(default_factory=dict)

    def add(self, other: Tally) -> None:
        for name, value in other.sums.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        for name, value in other.maxima.items():
            self.maxima[name] = max(self.maxima.get(name, value), value)


SUMS = ("loss", "pg_loss", "kl", "entropy", "clip_fraction", "approx_kl", "is_weight_mean", "logprob_diff_mean")
MAXIMA = ("is_weight_max", "logprob_diff_max")


@dataclass(frozen=True, slots=True, eq=False)
class LossInputs:
    """All (R, T) float32. `old`: log-probs before this step's updates; `reference`: None without a KL term."""

    logprobs: torch.Tensor
    entropies: torch.Tensor
    old: torch.Tensor
    reference: torch.Tensor | None


class GrpoLoss:
    """This update's share of the loss for one micro-batch, and its metrics.

    loss = policy_loss(old, new, advantages) * importance weights + kl_coef KL(new, reference) - entropy_coef H
    """

    def __init__(self, config: LossConfig, counts: BatchCounts) -> None:
        validate_loss(config)
        self.config = config
        self.counts = counts
        self._actor = _actor_config(config, counts)

    def __call__(self, batch: MicroBatch, inputs: LossInputs) -> tuple[torch.Tensor, Tally]:
        if batch.is_empty:
            return (inputs.logprobs + inputs.entropies).sum() * 0.0, Tally()
        from verl.trainer.ppo.core_algos import kl_penalty

        weights = self.importance_weights(batch, inputs.old)
        pg_loss, verl_metrics = self._policy_loss(batch, inputs, weights)
        loss, kl = pg_loss, None
        if inputs.reference is not None:
            # verl annotates FloatTensor and takes any floating-point tensor
            kl = kl_penalty(inputs.logprobs, inputs.reference, self.config.kl_estimator.value)  # type: ignore[arg-type]
            loss = loss + self.config.kl_coef * self._aggregate(kl, batch)
        if self.config.entropy_coef:
            loss = loss - self.config.entropy_coef * self._aggregate(inputs.entropies, batch)
        return loss, self._tally(batch, inputs, weights, loss, pg_loss, kl, verl_metrics)

    def importance_weights(self, batch: MicroBatch, old: torch.Tensor) -> torch.Tensor | None:
        """Truncated pi_learner / pi_rollout (R, T), or None when the correction is off."""
        from verl.trainer.ppo.rollout_corr_helper import compute_rollout_correction_weights

        if self.config.correction.rollout_is == "none":
            return None
        weights, _ = compute_rollout_correction_weights(
            old - batch.rollout_logprobs,
            batch.response_mask,
            rollout_is=self.config.correction.rollout_is,
            rollout_is_threshold=self.config.correction.rollout_is_threshold,
        )
        return weights

    def _policy_loss(
        self, batch: MicroBatch, inputs: LossInputs, weights: torch.Tensor | None
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        from verl.trainer.ppo.core_algos import get_policy_loss_fn

        loss, metrics = get_policy_loss_fn(self.config.policy_loss)(
            old_log_prob=inputs.old,
            log_prob=inputs.logprobs,
            advantages=batch.advantages,
            response_mask=batch.response_mask,
            loss_agg_mode=self.config.loss_agg_mode,
            config=self._actor,
            rollout_is_weights=weights,
        )
        if POLICY_LOSSES[self.config.policy_loss].sharding is Sharding.ROWS:
            loss = loss * (len(batch.keys) / self.counts.replies)
        return loss, metrics

    def _aggregate(self, matrix: torch.Tensor, batch: MicroBatch) -> torch.Tensor:
        from verl.trainer.ppo.core_algos import agg_loss

        return agg_loss(matrix, batch.response_mask, self.config.loss_agg_mode, **self._actor.global_batch_info)

    def _tally(
        self,
        batch: MicroBatch,
        inputs: LossInputs,
        weights: torch.Tensor | None,
        loss: torch.Tensor,
        pg_loss: torch.Tensor,
        kl: torch.Tensor | None,
        verl_metrics: dict[str, Any],
    ) -> Tally:
        mask = batch.response_mask
        share = float(mask.sum()) / self.counts.tokens
        difference = (inputs.old - batch.rollout_logprobs).abs() * mask
        ratio = torch.ones_like(mask) if weights is None else weights

        def mean(matrix: torch.Tensor) -> float:
            return float((matrix.detach() * mask).sum()) / self.counts.tokens

        sums = {
            "loss": float(loss.detach()),
            "pg_loss": float(pg_loss.detach()),
            "entropy": mean(inputs.entropies),
            "clip_fraction": verl_metrics.get("actor/pg_clipfrac", 0.0) * share,
            "approx_kl": verl_metrics.get("actor/ppo_kl", 0.0) * share,
            "is_weight_mean": mean(ratio),
            "logprob_diff_mean": mean(difference),
            "kl": 0.0 if kl is None else mean(kl),
        }
        return Tally(sums, {"is_weight_max": float((ratio * mask).max()), "logprob_diff_max": float(difference.max())})


def _actor_config(config: LossConfig, counts: BatchCounts) -> Any:
    """verl's ActorConfig, of which the losses read clip ratios and global counts."""
    from verl.workers.config import ActorConfig, PolicyLossConfig

    return ActorConfig(
        strategy="fsdp2",
        rollout_n=1,
        use_dynamic_bsz=True,
        clip_ratio=config.clip_ratio_high,
        clip_ratio_low=config.clip_ratio_low,
        clip_ratio_high=config.clip_ratio_high,
        clip_ratio_c=config.clip_ratio_c,
        loss_agg_mode=config.loss_agg_mode,
        policy_loss=PolicyLossConfig(loss_mode=config.policy_loss),
        global_batch_info={
            "dp_size": 1,
            "batch_num_tokens": counts.tokens,
            "global_batch_size": counts.replies,
            "loss_scale_factor": counts.horizon,
        },
    )
