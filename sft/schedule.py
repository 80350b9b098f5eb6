"""The learning rate as a share of its peak: linear warm-up, then decay."""

from __future__ import annotations

import math

from sft.config import Decay


def lr_share(done: int, steps: int, warmup: float, decay: Decay) -> float:
    """From above 0 to 1, for the step after `done` ones.

    The first `ceil(warmup * steps)` steps rise in equal parts to 1. The rest fall: `linear` and `cosine` would be 0 at
    the step after the last.
    """
    rising = math.ceil(warmup * steps)
    if done < rising:
        return (done + 1) / rising
    fallen = (done - rising) / max(steps - rising, 1)
    if decay is Decay.constant:
        return 1.0
    return 1 - fallen if decay is Decay.linear else (1 + math.cos(math.pi * fallen)) / 2
