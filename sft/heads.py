"""The classification and regression heads on the hidden states of a language model.

    emotion    Linear(H, 512) - ReLU - Dropout - Linear(512, 27)    at the end of the seeker's latest turn
    strategy   Linear(H, 256) - ReLU - Dropout - Linear(256, 8)     at the last position before the reply
    affect     Linear(H, 128) - ReLU - Dropout - Linear(128, 2) - tanh    where the emotion head reads

Each first takes the mean of the states that it reads away and divides by their spread (`sft.head_inputs`).

Parameters and products are float32 whatever the language model computes in: the heads are small, and a softmax over
half-precision logits loses rare classes.
"""

from __future__ import annotations

import torch
from torch import nn

from sft.config import HeadsConfig
from sft.emotions import EMOTION_CLASSES
from sft.examples import Loss
from sft.strategies import STRATEGIES
from sft.weights import LossWeights

OUTPUTS = {Loss.EMOTION: EMOTION_CLASSES, Loss.STRATEGY: len(STRATEGIES), Loss.AFFECT: 2}


class Head(nn.Module):
    """hidden (M, H) of any dtype -> (M, outputs) float32.

    `mean` and `spread`: (H,) of the states that it reads; 0 and 1 until `standardise`.
    """

    mean: torch.Tensor
    spread: torch.Tensor

    def __init__(self, hidden_size: int, width: int, outputs: int, dropout: float, bounded: bool = False) -> None:
        super().__init__()
        layers = [nn.Linear(hidden_size, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, outputs)]
        self.layers = nn.Sequential(*layers, *([nn.Tanh()] if bounded else []))
        self.register_buffer("mean", torch.zeros(hidden_size))
        self.register_buffer("spread", torch.ones(hidden_size))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            return self.layers((hidden.float() - self.mean) / self.spread)

    @torch.no_grad()
    def standardise(self, states: torch.Tensor) -> None:
        """Let states like these (M, H), M > 1, have mean 0 and spread 1.

        No dimension is stretched by more than a hundred times the typical one: what hardly differs here may elsewhere.
        """
        spread = states.float().std(dim=0)
        typical = spread.square().mean().sqrt()
        self.mean.copy_(states.float().mean(dim=0))
        self.spread.copy_(spread.clamp_min(0.01 * float(typical)) if typical else torch.ones_like(spread))


class Heads(nn.ModuleDict):
    """The heads that a run trains, by the value of their loss."""

    def __init__(self, hidden_size: int, config: HeadsConfig, losses: frozenset[Loss]) -> None:
        widths = {
            Loss.EMOTION: config.emotion_width,
            Loss.STRATEGY: config.strategy_width,
            Loss.AFFECT: config.affect_width,
        }
        super().__init__(
            {
                loss.value: Head(hidden_size, widths[loss], OUTPUTS[loss], config.dropout, loss is Loss.AFFECT)
                for loss in OUTPUTS
                if loss in losses
            }
        )

    def read(self, loss: Loss, hidden: torch.Tensor) -> torch.Tensor:
        """hidden (M, H) -> (M, outputs): logits, or valence and arousal from -1 to 1."""
        return self[loss.value](hidden)


def heads_wanted(losses: LossWeights) -> frozenset[Loss]:
    """A head whose lambda is 0 would answer with noise, so it does not exist."""
    return frozenset(loss for loss in OUTPUTS if losses.of(loss))
