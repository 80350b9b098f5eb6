"""The preference stage: DPO on pairs of replies, in one process or in several that share a step's batches.

    for each step      1. draw `accumulation` batches of pairs of similar length
                       2. for each: log-probabilities of both replies by the reference, then by the policy
                       3. loss of each pair, over the pairs of the step -> backward
                       4. clip, update, log
    now and then       dev loss, best model, early stopping; then a checkpoint (`sft.loop`)

Invariants
    Before the first update policy and reference agree: every margin is 0, and without smoothing the loss is log 2.
    The gradient of a step is that of its pairs in one batch, however they are cut into batches.
    There are no random numbers but the order of the pairs: dropout is off.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sft.base import pick_device
from sft.batching import Batch, LengthGroups, collate
from sft.checkpoint import RunFolder
from sft.config import ConfigError
from sft.dpo.card import write_dpo_card
from sft.dpo.losses import PairLogprobs, PairScores, pair_logprobs, preference_scores
from sft.dpo.pairs import TokenPair
from sft.dpo.preparing import PreparedDpo, by_length
from sft.dpo.start import Policy
from sft.examples import Source
from sft.loop import Metrics, Plan, Stepper, TrainingError, run_to_end
from sft.mixing import MixtureSampler
from sft.ranks import Ranks
from sft.tracking import Panel, draw_panels, two_sides


@dataclass(frozen=True, slots=True)
class DpoEvaluation:
    """Of all dev pairs; see `Tally.means` for the measures."""

    measures: Metrics

    @property
    def loss(self) -> float:
        return self.measures["loss"]

    def as_metrics(self) -> dict[str, float]:
        return {f"dev/{name}": value for name, value in self.measures.items()}


@dataclass(frozen=True, slots=True)
class DpoResult:
    """`steps`: updates done. `best`: the best dev loss and the step after which it was measured."""

    folder: Path
    steps: int
    best: float
    best_step: int
    dev: DpoEvaluation | None


MEASURES = (
    "loss", "margin", "accuracy", "chosen_reward", "rejected_reward", "chosen_logprob", "rejected_logprob",
)  # fmt: skip


class Tally:
    """Sums over pairs, batch by batch."""

    def __init__(self) -> None:
        self._sums = dict.fromkeys(MEASURES, 0.0)
        self._pairs = 0.0
        self._unsafe = [0.0, 0.0]  # pairs whose rejected reply is unsafe: how many, and how many are right

    def enter(self, policy: PairLogprobs, scores: PairScores, violation: torch.Tensor) -> None:
        """`violation`: (B,) bool."""
        right = (scores.margin > 0).float()
        logprobs = policy.chosen.detach(), policy.rejected.detach()
        measured = (scores.loss.detach(), scores.margin, right, scores.chosen, scores.rejected, *logprobs)
        for name, values in zip(MEASURES, measured, strict=True):
            self._sums[name] += float(values.double().sum())
        self._pairs += len(violation)
        self._unsafe[0] += float(violation.sum())
        self._unsafe[1] += float(right[violation].sum())

    def sum_over(self, ranks: Ranks, device: torch.device) -> None:
        """Add what the other processes entered."""
        summed = ranks.sum([*self._sums.values(), self._pairs, *self._unsafe], device)
        self._sums = dict(zip(self._sums, summed, strict=False))
        self._pairs, *self._unsafe = summed[len(self._sums) :]

    def means(self) -> Metrics:
        """The mean over pairs of each measure.

        loss; margin, h of `sft.dpo.losses`; accuracy, the share with h above 0 (a tie is not right); the rewards and
        log-probabilities of both replies; safety_accuracy, the accuracy among pairs with an unsafe reply, if any.
        """
        found = {name: total / self._pairs for name, total in self._sums.items()}
        unsafe, right = self._unsafe
        return found | ({"safety_accuracy": right / unsafe} if unsafe else {})


class DpoTrainer(Stepper):
    """The preference stage."""

    def __init__(self, prepared: PreparedDpo, device: torch.device) -> None:
        config = self.config = prepared.config
        self.prepared = prepared
        self.policy = Policy(prepared.start, prepared.description, device)
        plan = Plan(prepared.steps, config.save_every, config.optimizer, config.dev)
        super().__init__(self.policy.model, prepared.description, plan)
        pairs = prepared.train.pairs
        self.groups = LengthGroups(
            MixtureSampler({Source.OWN: len(pairs)}, 1.0, config.seed),
            lambda draw: pairs[draw.place].tokens,
            config.optimizer.batch,
            config.pairs.length_window,
        )
        self._dev = by_length(prepared.dev.pairs, config.optimizer.batch)
        self._dev_reference: list[PairLogprobs] = []  # a constant: computed at the first evaluation
        self._fingerprint = prepared.fingerprint()

    def update(self) -> Metrics:
        """Raises TrainingError where the loss is not finite."""
        started = time.perf_counter()
        self.model.train()
        tally = Tally()
        total = self.config.optimizer.batch * self.config.optimizer.accumulation
        drawn = [self.groups.next_batch() for _ in range(self.config.optimizer.accumulation)]
        batches = [[self.prepared.train.pairs[draw.place] for draw in draws] for draws in drawn]
        for _, pairs in self.ranks.share(batches):
            self._backward(pairs, total, tally)
        tally.sum_over(self.ranks, self.model.device)
        means, tokens = tally.means(), sum(pair.tokens for pairs in batches for pair in pairs)
        if not math.isfinite(means["loss"]):
            raise TrainingError(f"step {self.step + 1}: the loss is {means['loss']}; lower optimizer.lr or loss.beta")
        values = {f"train/{name}": value for name, value in means.items()} | self._apply()
        seconds = time.perf_counter() - started
        return values | {"tokens": float(tokens), "tokens_per_s": tokens / seconds, "seconds": seconds}

    def evaluate(self) -> DpoEvaluation:
        tally, was_training = Tally(), self.model.training
        self.model.eval()
        try:
            with torch.no_grad():
                for number, (_, pairs) in enumerate(self.ranks.share(self._dev)):
                    batch, violation = self._batch(pairs)
                    if number == len(self._dev_reference):
                        self._dev_reference.append(self._of_reference(batch))
                    policy = self._logprobs(batch)
                    reference = self._dev_reference[number]
                    tally.enter(policy, preference_scores(policy, reference, violation, self.config.loss), violation)
        finally:
            self.model.train(was_training)
        tally.sum_over(self.ranks, self.model.device)
        return DpoEvaluation(tally.means())

    def state(self) -> dict[str, Any]:
        return super().state() | {"fingerprint": self._fingerprint}

    def load(self, checkpoint: Path) -> None:
        """Raises ConfigError where the reference or the pairs are not those that the run began with."""
        if RunFolder.load_state(checkpoint)["fingerprint"] != self._fingerprint:
            raise ConfigError(
                f"{checkpoint} was made with another reference or other pairs: START or --pairs has changed since; "
                "put them back, or choose another name="
            )
        super().load(checkpoint)

    def _backward(self, pairs: Sequence[TokenPair], total: int, tally: Tally) -> None:
        """`total`: pairs of the step."""
        batch, violation = self._batch(pairs)
        reference = self._of_reference(batch)
        policy = self._logprobs(batch)
        scores = preference_scores(policy, reference, violation, self.config.loss)
        self.scaler.scale(scores.loss.sum() / total).backward()
        tally.enter(policy, scores, violation)

    def _batch(self, pairs: Sequence[TokenPair]) -> tuple[Batch, torch.Tensor]:
        """2B rows, chosen first, and (B,) whether the rejected reply is unsafe; on the model's device."""
        rows = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
        device = self.model.device
        batch = collate(rows, self.prepared.pad_id, 8 if device.type == "cuda" else 1)
        return batch.to(device), torch.tensor([pair.violation for pair in pairs], device=device)

    def _of_reference(self, batch: Batch) -> PairLogprobs:
        with self.policy.as_reference():
            return self._logprobs(batch)

    def _logprobs(self, batch: Batch) -> PairLogprobs:
        return pair_logprobs(self.model, batch, self.config.vocabulary_chunk)


def train_dpo(prepared: PreparedDpo, after_step: Callable[[int], None] = lambda step: None) -> DpoResult:
    """Run to the end, from the newest checkpoint where there is one.

    Args:
        after_step: called with the number of steps done, before evaluation and checkpoint.

    Raises:
        ConfigError: the run folder holds another run, or the reference or the pairs have changed.
        CheckpointError: a checkpoint could not be written.
        TrainingError: the loss is not finite.
    """
    folder = prepared.folder
    trainer = DpoTrainer(prepared, pick_device())
    dev = run_to_end(trainer, folder, prepared.config.tensorboard, after_step)
    stopper = trainer.stopper
    if trainer.ranks.first:
        draw_panels(folder.path / "metrics.jsonl", folder.path / "curves.png", _panels())
        write_dpo_card(prepared, stopper.best, stopper.best_step, trainer.step)
    last = dev if isinstance(dev, DpoEvaluation) else None
    return DpoResult(folder.path, trainer.step, stopper.best, stopper.best_step, last)


def _panels() -> list[Panel]:
    both = {f"train/{side}_logprob": ("-", side) for side in ("chosen", "rejected")}
    return [
        two_sides("loss"),
        two_sides("margin"),
        two_sides("accuracy", shares=True),
        Panel("log-probability of a reply", both),
    ]
