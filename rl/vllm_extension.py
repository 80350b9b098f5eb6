"""What Rapport adds inside vLLM's worker process: loading synced weights, and one LoRA adapter at full speed on CPU.

`SyncExtension` is handed to vLLM as `worker_extension_cls`, so its methods are called through `collective_rpc` on every
tensor-parallel worker. Two faults of the CPU backend are answered here, each proved by a test:

- After a reload a tied `lm_head` still multiplies by a packed copy of the OLD embedding. It is packed anew.
- The LoRA kernels gather one copy of the adapter per token and multiply those. A rollout batch has one adapter, the
  policy's, so the same sum is two plain matrix products.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from rl.adapter_merge import merged_weights
from rl.config import LoraConfig
from rl.weight_sync import WeightBucket, unpack


class SyncExtension:
    """Mixed into vLLM's worker. vLLM wants plain methods; `self` is the worker."""

    reload_weights: Any
    model_runner: Any

    def load_buckets(self, buckets: Sequence[WeightBucket]) -> None:
        """Replace all weights. The buckets hold a whole model under Hugging Face names, tied weights once."""
        self.reload_weights(weights_iterator=chain.from_iterable(map(unpack, buckets)))
        repack_tied_head(self.model_runner.get_model())

    def load_merged(self, buckets: Sequence[WeightBucket], model_path: Path, lora: LoraConfig) -> None:
        """Replace all weights by those of the checkpoint at `model_path` with the adapter in `buckets` folded in."""
        self.reload_weights(weights_iterator=merged_weights(model_path, buckets, lora))
        repack_tied_head(self.model_runner.get_model())


def repack_tied_head(model: Any) -> None:
    """Give a tied output layer the embedding's new values where the CPU backend keeps a packed copy of its weight."""
    head = getattr(model, "lm_head", None)
    if head is None or not hasattr(head, "cpu_linear") or not model.config.tie_word_embeddings:
        return
    from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

    head.weight = model.model.embed_tokens.weight
    dispatch_cpu_unquantized_gemm(head, remove_weight=False)


def install_single_adapter_kernels() -> None:
    """Replace the CPU backend's LoRA kernels in this process by ones for batches in which all tokens share an adapter.

    They refuse a mixed batch. x: (T, in), a: (1, 1, r, in), b: (1, 1, out, r); results are written in place.
    """
    from vllm.lora.punica_wrapper import punica_cpu as module

    punica_cpu: Any = module
    punica_cpu.sgmv_shrink = _shrink
    punica_cpu.sgmv_expand = _expand
    punica_cpu.sgmv_expand_slice = _expand_slice


def _only_adapter(stacked: torch.Tensor, lora_indices: torch.Tensor) -> torch.Tensor:
    """The matrix of the one adapter in the batch, (out, in)."""
    first = int(lora_indices[0])
    if first < 0 or bool((lora_indices != first).any()):
        raise RuntimeError(f"a rollout batch must have exactly one LoRA adapter, got slots {lora_indices.tolist()}")
    matrix = stacked[first]
    return matrix[0] if matrix.dim() == 3 else matrix


def _shrink(
    x: torch.Tensor,
    a: torch.Tensor,
    out: torch.Tensor,
    starts: torch.Tensor,
    lengths: torch.Tensor,
    lora_indices: torch.Tensor,
    batches: int,
    max_length: int,
    tokens: int,
    scaling: float,
) -> None:
    matrix = _only_adapter(a, lora_indices)
    torch.mul(x.to(matrix.dtype) @ matrix.T, scaling, out=out[:, : matrix.shape[0]])


def _expand(
    x: torch.Tensor,
    b: torch.Tensor,
    out: torch.Tensor,
    starts: torch.Tensor,
    lengths: torch.Tensor,
    lora_indices: torch.Tensor,
    batches: int,
    max_length: int,
    tokens: int,
    add_inputs: bool = False,
) -> None:
    _expand_slice(
        x, b, out, starts, lengths, lora_indices, batches, max_length, tokens, 0, out.shape[1], add_inputs=add_inputs
    )


def _expand_slice(
    x: torch.Tensor,
    b: torch.Tensor,
    out: torch.Tensor,
    starts: torch.Tensor,
    lengths: torch.Tensor,
    lora_indices: torch.Tensor,
    batches: int,
    max_length: int,
    tokens: int,
    offset: int,
    size: int,
    add_inputs: bool = False,
) -> None:
    matrix = _only_adapter(b, lora_indices)
    part = out[:, offset : offset + min(size, matrix.shape[0])]
    delta = x.to(matrix.dtype) @ matrix[: part.shape[1]].T
    if add_inputs:
        part.add_(delta)
    else:
        part.copy_(delta)
