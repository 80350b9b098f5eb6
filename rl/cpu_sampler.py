"""Seeded sampling on CPU with one random number per token instead of one per word of the vocabulary.

vLLM draws a token as argmax p / q with q exponential noise over the whole vocabulary, twice for a request that has a
seed: 49,152 logarithms per token of SmolLM2, about as much time as all its matrix products. Drawing from the inverse of
the cumulative distribution needs a single uniform number and gives the same distribution.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


def sample(logprobs: torch.Tensor, generators: Mapping[int, torch.Generator]) -> torch.Tensor:
    """One token id per row, (B,) int64, from `logprobs` (B, V) float32; row i uses generators[i], else the global one.

    Row by row, so that no row's token depends on the others. A word of probability 0 is never drawn: its cumulative
    probability does not exceed that of the word before.
    """
    cumulative = logprobs.exp().cumsum(-1)  # (B, V)
    uniform = torch.stack(
        [torch.rand(1, generator=generators.get(row)) for row in range(len(logprobs))]
    )  # (B, 1) in [0, 1)
    # Rounding can lift u * total to total itself, past the last word.
    target = torch.minimum(uniform * cumulative[:, -1:], cumulative[:, -1:].nextafter(torch.zeros(1)))
    return torch.searchsorted(cumulative, target, right=True)[:, 0]


def install() -> None:
    """Replace the sampling of vLLM's CPU backend in this process; top-k, top-p and log-probs stay vLLM's own."""
    from vllm.v1.sample.ops import topk_topp_sampler

    def forward_cpu(
        self: Any,
        logits: torch.Tensor,
        generators: dict[int, torch.Generator],
        k: torch.Tensor | None,
        p: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        logits = topk_topp_sampler.apply_top_k_top_p(logits, k, p)
        logprobs = logits.log_softmax(dim=-1, dtype=torch.float32)
        shown = {"processed_logits": logits, "processed_logprobs": logprobs}.get(self.logprobs_mode)
        return sample(logprobs, generators), shown

    topk_topp_sampler.TopKTopPSampler.forward_cpu = forward_cpu
