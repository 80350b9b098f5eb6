"""Batches in an order that depends on seed, stage and epoch alone, so that a training can go on in mid-epoch."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence


def epoch_batches(rows: int, batch: int, seed: int, stage: str, epoch: int) -> list[list[int]]:
    """Row numbers of the batches of one epoch: every row once, the last batch may be smaller."""
    order = list(range(rows))
    random.Random(f"{seed} {stage} {epoch}").shuffle(order)
    return [order[start : start + batch] for start in range(0, rows, batch)]


def step_seed(seed: int, stage: str, epoch: int, step: int) -> int:
    """The seed of a step's dropout, from 0 to 2**32: no state of a generator has to be kept."""
    return int.from_bytes(hashlib.sha256(f"{seed} {stage} {epoch} {step}".encode()).digest()[:4])


def by_length(lengths: Sequence[int], batch: int) -> list[list[int]]:
    """Row numbers in batches of like length, for prediction: little padding."""
    order = sorted(range(len(lengths)), key=lambda row: lengths[row])
    return [order[start : start + batch] for start in range(0, len(order), batch)]
