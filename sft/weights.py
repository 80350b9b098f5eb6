"""The weights of the joint loss. Without torch, so that a configuration is read at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sft.examples import Loss


@dataclass(frozen=True, slots=True)
class LossWeights:
    """The lambdas. The defaults are the report's; affect is off unless asked for."""

    lm: float = 1.0
    emotion: float = 0.2
    strategy: float = 0.2
    safety: float = 0.1
    affect: float = 0.0

    def __post_init__(self) -> None:
        for loss in Loss:
            if not (math.isfinite(self.of(loss)) and self.of(loss) >= 0):
                raise ValueError(f"the lambda of {loss.value} is {self.of(loss)}; it must be 0 (off) or above")

    def of(self, loss: Loss) -> float:
        return getattr(self, loss.value)
