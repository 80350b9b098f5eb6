"""Log-probabilities at reply positions, without the (tokens, vocabulary) logits ever existing at once.

The output layer is applied to `chunk` positions at a time, and only log p(target), its entropy and what the backward
pass needs are kept. With z = h W^T / temperature and p = softmax(z), both over the vocabulary (V):

    d log p(target) / dh = (W[target] - p W) / temperature                        (H,) per token
    d log p(target) / dW = (onehot(target) - p) h^T / temperature                 (V, H)

A frozen W (LoRA) needs only the first, which is computed in the forward pass: two matrix products in all instead of
the three of plain checkpointing. A trained W recomputes z chunk by chunk in the backward pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional


def not_plain_logits(lm: Any) -> str:
    """What stands between this model's last hidden states and its logits besides one matrix, or "" if nothing does."""
    head = lm.get_output_embeddings()
    if not isinstance(head, nn.Linear) or head.bias is not None:
        return "its output layer is not a plain matrix"
    config = lm.config.get_text_config()
    for key in ("final_logit_softcapping", "logit_scale", "logits_scaling"):
        if getattr(config, key, None) not in (None, 1.0):
            return f"its configuration sets {key}"
    return ""


@dataclass(frozen=True, slots=True)
class Scoring:
    """How log-probabilities are read. `temperature`: that of sampling. `chunk`: positions per product."""

    temperature: float = 1.0
    chunk: int = 1024
    entropy_gradient: bool = False  # entropy is always computed; it carries a gradient only when the loss uses it

    def __post_init__(self) -> None:
        if self.temperature <= 0 or self.chunk <= 0:
            raise ValueError(f"temperature and chunk must be positive, got {self.temperature} and {self.chunk}")


class ReplyHead(nn.Linear):
    """The output layer of a language model, which answers with log-probs and entropies of given targets.

    It shares the parameter of the layer it replaces, so tied embeddings stay tied and names stay the same.
    """

    @classmethod
    def adopt(cls, layer: nn.Linear) -> ReplyHead:
        head = cls(1, 1, bias=False, device="meta")
        head.in_features, head.out_features, head.weight = layer.in_features, layer.out_features, layer.weight
        return head

    def forward(  # type: ignore[override]
        self, hidden: torch.Tensor, targets: torch.Tensor, scoring: Scoring
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """hidden (M, H), targets (M,) -> log-probs (M,), entropies (M,), both float32; computed in `hidden`'s dtype."""
        return reply_logprobs(hidden, self.weight.to(hidden.dtype), targets, scoring)


def reply_logprobs(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, scoring: Scoring
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probs and entropies, (M,) float32, of `targets` (M,) for `hidden` (M, H) and the head's `weight` (V, H)."""
    function = _TrainedHead if weight.requires_grad else _FrozenHead
    return function.apply(hidden, weight, targets, scoring)


def _read(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """One chunk: log-probs of all words (m, V), of the targets (m,), probabilities (m, V), entropies (m,)."""
    logits = functional.linear(hidden, weight).float()
    if temperature != 1.0:
        logits /= temperature
    normaliser = logits.logsumexp(-1)
    target_logits = logits.gather(1, targets[:, None])[:, 0]
    probs = (logits - normaliser[:, None]).exp_()
    # sum p log p = sum p z - log-sum-exp; einsum reads both matrices once and writes none
    entropies = normaliser - torch.einsum("mv,mv->m", probs, logits)
    logits -= normaliser[:, None]
    return logits, target_logits - normaliser, probs, entropies


def _entropy_slope(logprobs: torch.Tensor, probs: torch.Tensor, entropies: torch.Tensor) -> torch.Tensor:
    """dH/dz = -p (log p + H), (m, V)."""
    return -(probs * (logprobs + entropies[:, None]))


class _FrozenHead(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, scoring: Scoring
    ) -> tuple[torch.Tensor, torch.Tensor]:
        needs_slope = hidden.requires_grad
        outputs, slopes, entropy_slopes = [], [], []
        for h, t in zip(hidden.split(scoring.chunk), targets.split(scoring.chunk), strict=True):
            logprobs, picked, probs, entropies = _read(h, weight, t, scoring.temperature)
            outputs.append((picked, entropies))
            if needs_slope:
                slopes.append((weight[t] - probs.to(weight.dtype) @ weight) / scoring.temperature)
            if needs_slope and scoring.entropy_gradient:
                slope = _entropy_slope(logprobs, probs, entropies).to(weight.dtype)
                entropy_slopes.append(slope @ weight / scoring.temperature)
        saved = [torch.cat(slopes)] if slopes else []
        ctx.save_for_backward(*saved, *([torch.cat(entropy_slopes)] if entropy_slopes else []))
        picked, entropies = (torch.cat(parts) for parts in zip(*outputs, strict=True))
        if not scoring.entropy_gradient:
            ctx.mark_non_differentiable(entropies)
        return picked, entropies

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        total = sum(
            grad[:, None].to(slope.dtype) * slope for grad, slope in zip(grads, ctx.saved_tensors, strict=False)
        )
        assert isinstance(total, torch.Tensor)
        return total, None, None, None


class _TrainedHead(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, scoring: Scoring
    ) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.save_for_backward(hidden, weight, targets)
        ctx.scoring = scoring
        chunks = zip(hidden.split(scoring.chunk), targets.split(scoring.chunk), strict=True)
        outputs = [_read(h, weight, t, scoring.temperature)[1::2] for h, t in chunks]
        picked, entropies = (torch.cat(parts) for parts in zip(*outputs, strict=True))
        if not scoring.entropy_gradient:
            ctx.mark_non_differentiable(entropies)
        return picked, entropies

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None, None]:
        hidden, weight, targets = ctx.saved_tensors
        scoring = ctx.scoring
        hidden_grad = torch.empty_like(hidden)
        weight_grad = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
        for start in range(0, len(hidden), scoring.chunk):
            part = slice(start, start + scoring.chunk)
            h, t = hidden[part], targets[part]
            logprobs, _, probs, entropies = _read(h, weight, t, scoring.temperature)
            slope = probs * -grads[0][part, None]
            slope.scatter_add_(1, t[:, None], grads[0][part, None])
            if scoring.entropy_gradient:
                slope += grads[1][part, None] * _entropy_slope(logprobs, probs, entropies)
            slope = (slope / scoring.temperature).to(weight.dtype)
            hidden_grad[part] = slope @ weight
            weight_grad += slope.T @ h
        return hidden_grad, weight_grad.to(weight.dtype), None, None
