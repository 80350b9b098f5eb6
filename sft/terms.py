"""From the student's states to the terms of the joint loss: heads where they read, and the teacher only if asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from sft.batching import Batch
from sft.examples import Loss
from sft.losses import Term, affect_loss, emotion_loss, lm_loss, safety_loss, strategy_loss
from sft.model import SftModel
from sft.teacher import Teacher
from sft.tokens import TokenSequence
from sft.weights import LossWeights


@dataclass(frozen=True, slots=True)
class TermOptions:
    """`class_weights`: of EMOTION (27,) and STRATEGY (8,), absent for 1 throughout. `chunk`: words per product."""

    losses: LossWeights
    tau: float
    chunk: int
    class_weights: Mapping[Loss, torch.Tensor] = field(default_factory=dict)


def batch_terms(
    model: SftModel,
    states: torch.Tensor,
    teacher: Teacher,
    rows: Sequence[TokenSequence],
    batch: Batch,
    options: TermOptions,
) -> dict[Loss, Term]:
    """One term for each loss that is on; nothing is computed before a term is called.

    Args:
        states: (B, T, H) of the student for `batch`.
        rows: the sequences of `batch`, in its order.
        batch: on the model's device.
    """
    weight = model.output_weight
    spots = batch.spots

    def lm() -> torch.Tensor:
        return lm_loss(spots[Loss.LM].pick(states), weight, spots[Loss.LM].targets, options.chunk)

    def safety() -> torch.Tensor:
        rules = teacher.reply_states(rows, spots[Loss.SAFETY])
        return safety_loss(spots[Loss.SAFETY].pick(states), weight, rules, weight, options.tau, options.chunk)

    def emotion() -> torch.Tensor:
        read = model.read(Loss.EMOTION, batch, states)
        return emotion_loss(read, spots[Loss.EMOTION].targets, options.class_weights.get(Loss.EMOTION))

    def strategy() -> torch.Tensor:
        read = model.read(Loss.STRATEGY, batch, states)
        return strategy_loss(read, spots[Loss.STRATEGY].targets, options.class_weights.get(Loss.STRATEGY))

    def affect() -> torch.Tensor:
        return affect_loss(model.read(Loss.AFFECT, batch, states), spots[Loss.AFFECT].targets)

    every: dict[Loss, Term] = {
        Loss.LM: lm,
        Loss.EMOTION: emotion,
        Loss.STRATEGY: strategy,
        Loss.SAFETY: safety,
        Loss.AFFECT: affect,
    }
    return {loss: term for loss, term in every.items() if options.losses.of(loss)}
