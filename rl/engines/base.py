"""What a learner rank asks of a training engine, so that FSDP2 and DeepSpeed are interchangeable.

An engine owns the wrapped model and the optimizer. The caller owns the loss. Every method is a collective: all ranks
call it in the same order, and a rank with nothing to do still takes part.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import nn


@dataclass(frozen=True, slots=True)
class StepStats:
    """`grad_norm`: global L2 norm before clipping; `lr`: the rate this update used."""

    grad_norm: float
    lr: float


class Engine(Protocol):
    """The small interface. Gradients are SUMMED over ranks and micro-batches, never averaged: the loss given to
    `backward` is already divided by the global normaliser, so the update does not depend on the sharding."""

    model: nn.Module  # call it for a forward pass; returns what the Hugging Face model returns
    device: torch.device

    def backward(self, loss: torch.Tensor, *, last: bool) -> None:
        """Accumulate gradients of one micro-batch; `last` marks the one after which `step` follows."""
        ...

    def step(self) -> StepStats:
        """Clip by global norm, update, advance the learning-rate schedule, clear gradients."""
        ...

    def reference(self) -> AbstractContextManager[nn.Module]:
        """The frozen reference under `torch.no_grad`: adapters off under LoRA, else a second sharded copy."""
        ...

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Full tensors on CPU under their Hugging Face names (adapter tensors only under LoRA, in peft's names).
        Complete on rank 0, empty elsewhere. Tied weights appear once."""
        ...

    def save(self, folder: Path) -> None:
        """Model, optimizer and schedule, sharded, loadable at another world size where the engine allows it."""
        ...

    def load(self, folder: Path) -> None: ...
