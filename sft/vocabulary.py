"""Losses over the vocabulary without the (tokens, vocabulary) logits of a batch ever existing.

With z = h W^T for hidden states h (M, H) and an output matrix W (V, H), the vocabulary is read `chunk` words at a time.
The forward pass keeps only sums per token, in the running form of log-sum-exp; the backward pass computes each chunk
again. Gradients are exact. Where s is the student and t the teacher, p = softmax(z / tau):

    nll   = logsumexp(z) - z[target]                          d nll / dz = softmax(z) - onehot(target)
    KL    = sum_v p_t (log p_t - log p_s)                     d KL / dz_s = (p_s - p_t) / tau

    KL is summed as  E_t[(z_t - z_s) / tau] - logsumexp(z_t / tau) + logsumexp(z_s / tau).

Memory: 2 (M, chunk) tensors for the first, 4 for the second, float32 (float64 for float64 input), whatever V is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.nn import functional

CHUNK = 8192


def token_nll(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, chunk: int = CHUNK) -> torch.Tensor:
    """Negative log-likelihood of each target in nats.

    Args:
        hidden: (M, H). Products are computed in its dtype.
        weight: (V, H), the output layer, which has no bias.
        targets: (M,) word numbers.

    Returns:
        (M,) float32, or float64 for float64 input.

    Raises:
        ValueError: shapes do not fit, or `chunk` is below 1.
    """
    _check(hidden, weight, chunk)
    if targets.shape != hidden.shape[:1]:
        raise ValueError(f"{tuple(targets.shape)} targets for {len(hidden)} hidden states")
    return _TokenNll.apply(hidden, weight, targets, chunk)


def token_kl(
    student: torch.Tensor,
    student_weight: torch.Tensor,
    teacher: torch.Tensor,
    teacher_weight: torch.Tensor,
    tau: float = 1.0,
    chunk: int = CHUNK,
) -> torch.Tensor:
    """KL(softmax(z_teacher / tau) || softmax(z_student / tau)) at each of M positions, in nats.

    Args:
        student, teacher: (M, H) and (M, H') hidden states of the same tokens.
        student_weight, teacher_weight: (V, H) and (V, H') output layers; may be the same tensor.

    Returns:
        (M,) float32, or float64 for float64 input. The teacher is a constant: it gets no gradient.

    Raises:
        ValueError: shapes do not fit, tau is not above 0, or `chunk` is below 1.
    """
    _check(student, student_weight, chunk)
    _check(teacher, teacher_weight, chunk)
    if len(student) != len(teacher) or len(student_weight) != len(teacher_weight):
        raise ValueError(
            f"the student has {len(student)} positions and {len(student_weight)} words, the teacher {len(teacher)} and "
            f"{len(teacher_weight)}: both must read the same tokens with the same vocabulary"
        )
    if not tau > 0:
        raise ValueError(f"tau is {tau}; a temperature must be above 0")
    return _TokenKl.apply(student, student_weight, teacher.detach(), teacher_weight.detach(), tau, chunk)


def _check(hidden: torch.Tensor, weight: torch.Tensor, chunk: int) -> None:
    if hidden.dim() != 2 or weight.dim() != 2 or hidden.shape[1] != weight.shape[1]:
        raise ValueError(f"hidden {tuple(hidden.shape)} and weight {tuple(weight.shape)} must be (M, H) and (V, H)")
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}; it must be at least 1 word")


def _parts(weight: torch.Tensor, chunk: int) -> Iterator[slice]:
    yield from (slice(start, min(start + chunk, len(weight))) for start in range(0, len(weight), chunk))


def _logits(hidden: torch.Tensor, weight: torch.Tensor, part: slice) -> torch.Tensor:
    """(M, v) logits of one chunk, in float32 at least."""
    with torch.autocast(hidden.device.type, enabled=False):
        logits = functional.linear(hidden, weight[part].to(hidden.dtype))
    return logits if logits.dtype is torch.float64 else logits.float()


def _per_token(hidden: torch.Tensor, value: float) -> torch.Tensor:
    dtype = torch.float64 if hidden.dtype is torch.float64 else torch.float32
    return torch.full((len(hidden),), value, dtype=dtype, device=hidden.device)


class _Gradients:
    """Sums chunk by chunk what the slope of a loss in its logits means for hidden states and weight."""

    def __init__(self, hidden: torch.Tensor, weight: torch.Tensor, needs: tuple[bool, ...]) -> None:
        self._inputs = hidden, weight
        wide = torch.float64 if hidden.dtype is torch.float64 else torch.float32
        self._hidden = torch.zeros(hidden.shape, dtype=wide, device=hidden.device) if needs[0] else None
        self._weight = torch.zeros_like(weight) if needs[1] else None

    def add(self, slope: torch.Tensor, part: slice) -> None:
        """`slope`: (M, v) of the chunk `part`."""
        hidden, weight = self._inputs
        slope = slope.to(hidden.dtype)
        with torch.autocast(hidden.device.type, enabled=False):
            if self._hidden is not None:
                self._hidden += slope @ weight[part].to(hidden.dtype)
            if self._weight is not None:
                self._weight[part] = (slope.T @ hidden).to(weight.dtype)

    def result(self) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        hidden = None if self._hidden is None else self._hidden.to(self._inputs[0].dtype)
        return hidden, self._weight


class _TokenNll(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, chunk: int
    ) -> torch.Tensor:
        normaliser = _per_token(hidden, float("-inf"))
        target_logits = _per_token(hidden, 0.0)
        for part in _parts(weight, chunk):
            logits = _logits(hidden, weight, part)
            normaliser = torch.logaddexp(normaliser, logits.logsumexp(-1))
            rows, words = _targets_within(targets, part)
            target_logits[rows] = logits[rows, words]
        ctx.save_for_backward(hidden, weight, targets, normaliser)
        ctx.chunk = chunk
        return normaliser - target_logits

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None, None]:
        hidden, weight, targets, normaliser = ctx.saved_tensors
        total = _Gradients(hidden, weight, ctx.needs_input_grad)
        for part in _parts(weight, ctx.chunk):
            slope = (_logits(hidden, weight, part) - normaliser[:, None]).exp_()
            rows, words = _targets_within(targets, part)
            slope[rows, words] -= 1
            total.add(slope.mul_(grads[0][:, None]), part)
        return *total.result(), None, None


def _targets_within(targets: torch.Tensor, part: slice) -> tuple[torch.Tensor, torch.Tensor]:
    """The tokens whose target is a word of this chunk, and its place in the chunk."""
    rows = ((targets >= part.start) & (targets < part.stop)).nonzero()[:, 0]
    return rows, targets[rows] - part.start


class _TokenKl(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        student: torch.Tensor,
        student_weight: torch.Tensor,
        teacher: torch.Tensor,
        teacher_weight: torch.Tensor,
        tau: float,
        chunk: int,
    ) -> torch.Tensor:
        student_sum, teacher_sum = (_per_token(student, float("-inf")) for _ in range(2))
        gap = _per_token(student, 0.0)  # E_t[(z_t - z_s) / tau] over the words read so far
        for part in _parts(student_weight, chunk):
            z_s = _logits(student, student_weight, part) / tau
            z_t = _logits(teacher, teacher_weight, part) / tau
            student_sum = torch.logaddexp(student_sum, z_s.logsumexp(-1))
            grown = torch.logaddexp(teacher_sum, z_t.logsumexp(-1))
            here = (z_t - grown[:, None]).exp_().mul_(z_t - z_s).sum(-1)
            gap = gap * (teacher_sum - grown).exp() + here
            teacher_sum = grown
        ctx.save_for_backward(student, student_weight, teacher, teacher_weight, student_sum, teacher_sum)
        ctx.tau, ctx.chunk = tau, chunk
        return gap - teacher_sum + student_sum

    @staticmethod
    def backward(
        ctx: Any, *grads: torch.Tensor
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, None, None, None, None]:
        student, student_weight, teacher, teacher_weight, student_sum, teacher_sum = ctx.saved_tensors
        total = _Gradients(student, student_weight, ctx.needs_input_grad)
        for part in _parts(student_weight, ctx.chunk):
            slope = (_logits(student, student_weight, part) / ctx.tau - student_sum[:, None]).exp_()
            slope -= (_logits(teacher, teacher_weight, part) / ctx.tau - teacher_sum[:, None]).exp_()
            total.add(slope.mul_(grads[0][:, None] / ctx.tau), part)
        return *total.result(), None, None, None, None
