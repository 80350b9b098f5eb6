"""LoRA on a processor, right in batches that mix adapters: replacements for vLLM's kernels.

vLLM's CPU backend gathers one copy of an adapter per token and multiplies those. A token without an adapter has the
index -1, which picks the last adapter: its output is wrong and nothing says so. Here each run of consecutive tokens
with the same adapter is one matrix product, and a token without one gets nothing. That is also faster, because no
weights are copied.

x: (T, in); a stacked: (slots, 1, r, in) or (slots, r, in); b stacked: (slots, 1, out, r) or (slots, out, r);
results are written in place.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


def install() -> None:
    """Replace the kernels of vLLM's CPU backend in this process."""
    from vllm.lora.punica_wrapper import punica_cpu as module

    punica_cpu: Any = module
    punica_cpu.bgmv_shrink, punica_cpu.bgmv_expand, punica_cpu.bgmv_expand_slice = shrink, expand, expand_slice
    punica_cpu.sgmv_shrink, punica_cpu.sgmv_expand, punica_cpu.sgmv_expand_slice = (
        _shrink_sequences,
        _expand_sequences,
        _expand_slice_sequences,
    )


def shrink(x: Tensor, a: Tensor, out: Tensor, adapters: Tensor, scaling: float = 1.0) -> None:
    """out[:, :r] = scaling * x @ A.T with the A of each token; 0 for a token without one. adapters: (T,)"""
    for matrix, rows in _runs(a, adapters):
        if matrix is None:
            out[rows].zero_()
        else:
            torch.mul(x[rows].to(matrix.dtype) @ matrix.T, scaling, out=out[rows, : matrix.shape[0]])


def expand(x: Tensor, b: Tensor, out: Tensor, adapters: Tensor, add_inputs: bool = True) -> None:
    """out (+)= x @ B.T with the B of each token."""
    expand_slice(x, b, out, adapters, 0, out.shape[1], add_inputs)


def expand_slice(
    x: Tensor, b: Tensor, out: Tensor, adapters: Tensor, offset: int, size: int, add_inputs: bool = True
) -> None:
    """out[:, offset : offset + size] (+)= x @ B.T; a padded output layer may be wider or narrower than B."""
    for matrix, rows in _runs(b, adapters):
        if matrix is None:
            if not add_inputs:
                out[rows, offset : offset + size].zero_()
            continue
        part = out[rows, offset : offset + min(size, matrix.shape[0])]
        delta = x[rows].to(matrix.dtype) @ matrix[: part.shape[1]].T
        if add_inputs:
            part.add_(delta)
        else:
            part.copy_(delta)


def _runs(stacked: Tensor, adapters: Tensor) -> Iterator[tuple[Tensor | None, slice]]:
    """For each run of equal entries the matrix (None below 0) and the rows."""
    slots, lengths = torch.unique_consecutive(adapters, return_counts=True)
    start = 0
    for slot, length in zip(slots.tolist(), lengths.tolist(), strict=True):
        matrix = stacked[slot] if slot >= 0 else None
        yield (matrix[0] if matrix is not None and matrix.dim() == 3 else matrix), slice(start, start + length)
        start += length


def _shrink_sequences(
    x: Tensor,
    a: Tensor,
    out: Tensor,
    starts: Tensor,
    lengths: Tensor,
    adapters: Tensor,
    batches: int,
    longest: int,
    tokens: int,
    scaling: float,
) -> None:
    shrink(x, a, out, torch.repeat_interleave(adapters, lengths), scaling)


def _expand_sequences(
    x: Tensor,
    b: Tensor,
    out: Tensor,
    starts: Tensor,
    lengths: Tensor,
    adapters: Tensor,
    batches: int,
    longest: int,
    tokens: int,
    add_inputs: bool = False,
) -> None:
    expand(x, b, out, torch.repeat_interleave(adapters, lengths), add_inputs)


def _expand_slice_sequences(
    x: Tensor,
    b: Tensor,
    out: Tensor,
    starts: Tensor,
    lengths: Tensor,
    adapters: Tensor,
    batches: int,
    longest: int,
    tokens: int,
    offset: int,
    size: int,
    add_inputs: bool = False,
) -> None:
    expand_slice(x, b, out, torch.repeat_interleave(adapters, lengths), offset, size, add_inputs)
