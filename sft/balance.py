"""Class weights for heads whose classes are far from equally common.

Effective number of samples (Cui et al. 2019, arXiv 1901.05555, eq. 2): a class seen n times counts as

    E_n = (1 - beta^n) / (1 - beta)          and gets a weight in proportion to 1 / E_n.

beta 0 weighs all classes alike, beta -> 1 by inverse frequency. The paper scales the weights to sum to the number of
classes; here their mean over the *examples* is 1, so that turning balance on does not change what a lambda means.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from sft.emotions import EMOTION_CLASSES, emotion_target
from sft.examples import Example
from sft.strategies import STRATEGIES

BETA = 0.999


def class_weights(counts: Sequence[float], beta: float = BETA) -> torch.Tensor:
    """(C,) float32 weights. A class that was never seen gets 0: nothing will ask for it.

    Raises:
        ValueError: beta is not from 0 to below 1, a count is negative, or all are 0.
    """
    if not 0 <= beta < 1:
        raise ValueError(f"beta is {beta}; it must lie from 0 to below 1")
    n = torch.tensor(counts, dtype=torch.float64)
    if (n < 0).any() or n.sum() == 0:
        raise ValueError(f"class counts are {list(counts)}; expected some labels and no negative count")
    weights = torch.where(n > 0, (1 - beta) / (1 - beta**n), 0.0)
    return (weights * n.sum() / (weights * n).sum()).float()


def emotion_counts(examples: Iterable[Example]) -> list[float]:
    """(27,) labels of each emotion; a turn with k of them adds 1/k to each."""
    total = torch.zeros(EMOTION_CLASSES, dtype=torch.float64)
    for example in examples:
        for labels in example.emotions.values():
            total += torch.tensor(emotion_target(labels), dtype=torch.float64)
    return total.tolist()


def strategy_counts(examples: Iterable[Example]) -> list[float]:
    """(8,) labels of each strategy."""
    labels = [label for example in examples for label in example.strategies.values()]
    return [float(labels.count(strategy)) for strategy in STRATEGIES]
