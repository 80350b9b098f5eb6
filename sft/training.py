"""The loop of multi-task fine-tuning, in one process or in several that share the batches of a step (`sft.ranks`).

    at the start       mean and spread of the states that each head reads (`sft.head_inputs`)
    for each step      1. draw `accumulation` batches of similar length from the mixture; pack them if asked to
                       2. count the items of each loss in all of them
                       3. for each batch: student's states -> terms -> joint loss over the step's items -> backward
                       4. clip, update, log
    now and then       dev loss, best model, early stopping; then a checkpoint (`sft.loop`)

Invariants
    The gradient of a step is that of its sequences in one batch, however they are cut into batches.
    Step k depends on the weights, the optimizer, the sampler and k alone: random numbers are seeded by k and the batch.
"""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from sft.base import pick_device
from sft.batching import Batch, LengthGroups, collate, collate_packed
from sft.checkpoint import RunFolder
from sft.dev import DevResult, dev_loss
from sft.examples import Loss
from sft.head_inputs import standardise_heads
from sft.loop import Evaluation, Metrics, Plan, Stepper, TrainingError, batch_seed, run_to_end
from sft.losses import joint_loss
from sft.mixing import MixtureSampler
from sft.model import build_model
from sft.model_card import write_model_card
from sft.packing import check_packing, packed_batches
from sft.preparing import Prepared
from sft.teacher import Teacher
from sft.terms import TermOptions, batch_terms
from sft.tokens import TokenSequence
from sft.tracking import draw_curves

_MOST_DRAWN = 1000  # sequences looked through for the turns that standardise the heads


@dataclass(frozen=True, slots=True)
class TrainResult:
    """`steps`: updates done. `best`: the best dev loss and the step after which it was measured. `dev`: the last."""

    folder: Path
    steps: int
    best: float
    best_step: int
    dev: Evaluation | None


class Trainer(Stepper):
    """The multi-task stage."""

    def __init__(self, prepared: Prepared, device: torch.device) -> None:
        config = self.config = prepared.config
        plan = Plan(prepared.steps, config.save_every, config.optimizer, config.dev)
        super().__init__(build_model(config, prepared.base, device), config, plan)
        self.prepared = prepared
        self.teacher = Teacher(self.model, prepared.chat, prepared.pad_id, config.data.system, config.optimizer.batch)
        self.options = _options(prepared, device)
        self.sampler = MixtureSampler(prepared.corpus.sizes, config.data.alpha, config.seed)
        self.groups = LengthGroups(
            self.sampler,
            lambda draw: len(prepared.corpus.row(draw).ids),
            config.optimizer.batch,
            config.data.length_window,
        )
        if config.data.packing:
            check_packing(self.model)

    def begin(self) -> None:
        """Standardise the heads' inputs on the sequences that will be drawn first."""
        corpus, optimizer = self.prepared.corpus, self.config.optimizer
        sampler = MixtureSampler(corpus.sizes, self.config.data.alpha, self.config.seed)
        first = (corpus.row(sampler.draw()) for _ in range(_MOST_DRAWN))
        standardise_heads(self.model, first, optimizer.batch, self.prepared.pad_id)

    def update(self) -> Metrics:
        """One optimizer step; the number of its losses is before the update.

        Raises:
            TrainingError: the loss or its gradient is not finite; the weights are those from before.
        """
        started = time.perf_counter()
        self.model.train()
        batches = self._next_batches()
        items: Counter[Loss] = sum((Counter(batch.counts()) for _, batch in batches), Counter())
        parts: defaultdict[Loss, float] = defaultdict(float)
        for number, (rows, batch) in self.ranks.share(batches):
            torch.manual_seed(batch_seed(self.config.seed, self.step, number))
            for loss, value in self._backward(rows, batch, items).items():
                parts[loss] += value
        wanted = [loss for loss in Loss if items[loss] and self.config.losses.of(loss)]
        summed = self.ranks.sum([parts[loss] for loss in wanted], self.model.device)
        parts = defaultdict(float, zip(wanted, summed, strict=True))
        total = sum(self.config.losses.of(loss) * value for loss, value in parts.items())
        if not math.isfinite(total):
            raise TrainingError(f"step {self.step + 1}: the loss is {total}; lower optimizer.lr, or start anew")
        values = {"train/loss": total, **{f"train/{loss.value}": value for loss, value in parts.items()}}
        values |= self._apply()
        seconds = time.perf_counter() - started
        tokens = sum(int(batch.attention.sum()) for _, batch in batches)
        return values | {"tokens": float(tokens), "tokens_per_s": tokens / seconds, "seconds": seconds} | self._shares()

    def evaluate(self) -> DevResult:
        batch, prepared = self.config.optimizer.batch, self.prepared
        return dev_loss(self.model, self.teacher, prepared.dev, self.options, batch, prepared.pad_id, self.ranks)

    def _next_batches(self) -> list[tuple[list[TokenSequence], Batch]]:
        """The sequences of a step, as they were drawn or packed."""
        optimizer, width = self.config.optimizer, self.config.data.max_tokens
        drawn = [self.groups.next_batch() for _ in range(optimizer.accumulation)]
        several = [[self.prepared.corpus.row(draw) for draw in draws] for draws in drawn]
        pad_id, multiple_of = self.prepared.pad_id, 8 if self.model.device.type == "cuda" else 1
        if not self.config.data.packing:
            return [(rows, collate(rows, pad_id, multiple_of)) for rows in several]
        packed = packed_batches([row for rows in several for row in rows], width, optimizer.batch)
        return [(rows, collate_packed(rows, width, pad_id, multiple_of)) for rows in packed]

    def _backward(self, rows: list[TokenSequence], batch: Batch, items: Counter[Loss]) -> Mapping[Loss, float]:
        moved = batch.to(self.model.device)
        states = self.model.states(moved.ids, moved.attention, moved.positions)
        terms = batch_terms(self.model, states, self.teacher, rows, moved, self.options)
        joint = joint_loss(terms, self.config.losses, moved.counts(), items)
        if joint.total is not None:
            self.scaler.scale(joint.total).backward()
        return joint.parts

    def _shares(self) -> Metrics:
        """Realised shares of the mixture; they run ahead by what is left of the window of `LengthGroups`."""
        return {f"share/{source.value}": share for source, share in self.sampler.realised_shares().items()}


def train(prepared: Prepared, after_step: Callable[[int], None] = lambda step: None) -> TrainResult:
    """Run to the end, from the newest checkpoint where there is one.

    Args:
        after_step: called with the number of steps done, before evaluation and checkpoint.

    Raises:
        ConfigError: the run folder holds another run.
        CheckpointError: a checkpoint could not be written.
        TrainingError: the loss is not finite.
    """
    config, folder = prepared.config, prepared.folder
    trainer = Trainer(prepared, pick_device())
    dev = run_to_end(trainer, folder, config.tensorboard, after_step)
    if trainer.ranks.first:
        _describe(trainer, folder)
    return TrainResult(folder.path, trainer.step, trainer.stopper.best, trainer.stopper.best_step, dev)


def _describe(trainer: Trainer, folder: RunFolder) -> None:
    """What is left for people: curves and a card."""
    draw_curves(folder.path / "metrics.jsonl", folder.path / "curves.png")
    write_model_card(trainer.prepared, trainer.stopper.best, trainer.stopper.best_step, trainer.step)


def _options(prepared: Prepared, device: torch.device) -> TermOptions:
    config = prepared.config
    weights = {loss: values.to(device) for loss, values in prepared.class_weights.items()}
    return TermOptions(config.losses, config.safety.tau, config.vocabulary_chunk, weights)
