"""The terms of the joint loss, and their sum.

    L = 1.0 LM + 0.2 emotion + 0.2 strategy + 0.1 safety [+ affect]

Each term is a function that returns the *sum* over its items (reply tokens, labelled turns), and the joint loss divides
it by the number of items in the whole optimizer step. So a step split into micro-batches, or over ranks, has the loss
and gradient of the step in one piece.

A term comes as a callable. One whose lambda is 0, or for which a batch has no item, is not called: it costs no teacher
pass and no product. A lambda above 0 without a term is an error, never a silent 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch.nn import functional

from sft.examples import Loss
from sft.vocabulary import CHUNK, token_kl, token_nll
from sft.weights import LossWeights

Term = Callable[[], torch.Tensor]
"""Returns the sum of a loss over its items in this batch, a scalar with a gradient."""


@dataclass(frozen=True, slots=True)
class JointLoss:
    """What one batch gives.

    Attributes:
        total: scalar to call `backward` on, None where nothing in the batch feeds a loss that is on.
        parts: of each term that was computed, its sum here over the step's items, before its lambda.
    """

    total: torch.Tensor | None
    parts: Mapping[Loss, float]


def joint_loss(
    terms: Mapping[Loss, Term],
    weights: LossWeights,
    counts: Mapping[Loss, int],
    step_counts: Mapping[Loss, int] | None = None,
) -> JointLoss:
    """Sum of lambda * term / items.

    Args:
        terms: one for each loss that is on.
        counts: items of each loss in this batch, as `Batch.counts()` gives them.
        step_counts: items in the whole optimizer step; this batch's by default.

    Raises:
        ValueError: a loss is on but has no term, or has more items here than in the step.
    """
    step_counts = counts if step_counts is None else step_counts
    total: torch.Tensor | None = None
    parts: dict[Loss, torch.Tensor] = {}
    for loss in Loss:
        if weights.of(loss) == 0:
            continue
        if loss not in terms:
            raise ValueError(f"the lambda of {loss.value} is {weights.of(loss)}, but nothing computes it: set it to 0")
        if counts.get(loss, 0) > step_counts.get(loss, 0):
            raise ValueError(f"{loss.value}: {counts[loss]} items here, but {step_counts.get(loss, 0)} in the step")
        if counts.get(loss, 0):
            mean = terms[loss]() / step_counts[loss]
            parts[loss] = mean.detach()
            total = weights.of(loss) * mean if total is None else total + weights.of(loss) * mean
    return JointLoss(total, {loss: float(part) for loss, part in parts.items()})


def lm_loss(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, chunk: int = CHUNK) -> torch.Tensor:
    """Sum of cross-entropies of M reply tokens; see `sft.vocabulary.token_nll`."""
    return token_nll(hidden, weight, targets, chunk).sum()


def safety_loss(
    student: torch.Tensor,
    student_weight: torch.Tensor,
    teacher: torch.Tensor,
    teacher_weight: torch.Tensor,
    tau: float = 1.0,
    chunk: int = CHUNK,
) -> torch.Tensor:
    """Sum over M reply tokens of KL(teacher || student); see `sft.vocabulary.token_kl`.

    The teacher is the base with adapters off and the safety rules in its prompt. Its states must be those of the same
    reply tokens: check with `sft.batching.check_same_tokens`. There is no factor tau^2, as in the report.
    """
    return token_kl(student, student_weight, teacher, teacher_weight, tau, chunk).sum()


def emotion_loss(
    logits: torch.Tensor, targets: torch.Tensor, class_weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Sum over M turns of - sum_c w_c q_c log softmax(logits)_c.

    Args:
        logits: (M, 27).
        targets: (M, 27) probabilities q.
        class_weights: (27,) w from `sft.balance`, None for 1.
    """
    return functional.cross_entropy(_wide(logits), targets.to(_wide(logits).dtype), class_weights, reduction="sum")


def strategy_loss(
    logits: torch.Tensor, targets: torch.Tensor, class_weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Sum over M turns of - w_y log softmax(logits)_y; logits (M, 8), targets y (M,), class_weights (8,)."""
    return functional.cross_entropy(_wide(logits), targets, class_weights, reduction="sum")


def affect_loss(predicted: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Sum over M turns of the mean of two Huber losses (delta 1), of valence and arousal; both (M, 2), from -1 to 1."""
    losses = functional.smooth_l1_loss(_wide(predicted), targets.to(_wide(predicted).dtype), reduction="none")
    return losses.mean(-1).sum()


def _wide(values: torch.Tensor) -> torch.Tensor:
    """float32 at least: a softmax in half precision loses the small classes."""
    return values if values.dtype is torch.float64 else values.float()
