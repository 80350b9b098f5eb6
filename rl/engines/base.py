"""What a learner rank asks of a training engine, so that FSDP2 and DeepSpeed are interchangeable.

An engine owns the wrapped model and the optimizer. The caller owns the loss. Every method is a collective: all ranks
call it in the same order, and a rank with nothing to do still takes part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from rl.batching import MicroBatch
from rl.config import LearnerConfig, ModelConfig
from rl.engines.head import Scoring

Forward = Callable[[MicroBatch, Scoring], tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """What an engine is made from. `reference`: whether the loss asks for a frozen reference."""

    model_path: Path
    model: ModelConfig
    learner: LearnerConfig
    device: torch.device
    compute: torch.dtype
    reference: bool

    @property
    def lora(self) -> bool:
        return self.model.lora.rank > 0


@dataclass(frozen=True, slots=True)
class StepStats:
    """`grad_norm`: global L2 norm before clipping; `lr`: the rate this update used."""

    grad_norm: float
    lr: float


class Engine(Protocol):
    """The small interface. Gradients are SUMMED over ranks and micro-batches, never averaged: the loss given to
    `backward` is already divided by the global normaliser, so the update does not depend on the sharding."""

    device: torch.device

    def forward(self, batch: MicroBatch, scoring: Scoring) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probs and entropies of the reply tokens, (R, T) each, with gradients when they are enabled."""
        ...

    def train_mode(self, on: bool) -> None:
        """Whether dropout and gradient checkpointing are on."""
        ...

    def backward(self, loss: torch.Tensor, *, last: bool) -> None:
        """Accumulate gradients of one micro-batch; `last` marks the one after which `step` follows."""
        ...

    def step(self) -> StepStats:
        """Clip by global norm, update, advance the learning-rate schedule, clear gradients."""
        ...

    def reference(self) -> AbstractContextManager[Forward]:
        """The frozen reference under `torch.no_grad`: adapters off under LoRA, else a second sharded copy."""
        ...

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Full tensors on CPU under their Hugging Face names (adapter tensors only under LoRA, in peft's names), in the
        dtype of the forward pass. Complete on rank 0, empty elsewhere. Tied weights appear once. Every rank must
        exhaust it."""
        ...

    def save(self, folder: Path) -> None:
        """Model, optimizer and schedule, sharded, loadable at another world size where the engine allows it."""
        ...

    def load(self, folder: Path) -> None: ...


def learning_rate(updates: int, config: LearnerConfig) -> float:
    """Linear warm-up to `lr` over `warmup_steps` updates, then constant. `updates` counts those already made."""
    if updates >= config.warmup_steps:
        return config.lr
    return config.lr * (updates + 1) / config.warmup_steps


def weight_name(parameter: str, *, lora: bool) -> str:
    """`PolicyModel`'s name of a parameter -> the name that Hugging Face, or peft under LoRA, files it under."""
    name = parameter.removeprefix("lm.")
    return name.replace(".default.weight", ".weight") if lora else name
