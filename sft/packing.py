"""Packing the sequences of a step into rows, and the trial that shows whether a model keeps them apart.

A step draws `batch * accumulation` sequences, packed or not. Packed, they fill rows of at most `data.max_tokens`, and
the rows are cut into micro-batches of at most `batch`. So the step's losses and gradient are the same, a micro-batch is
never larger than `rapport sft plan` says, and what packing saves is padding and the number of passes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch

from sft.base import BaseModelError
from sft.batching import pack
from sft.model import SftModel
from sft.tokens import TokenSequence

MUCH_NEARER = 0.2  # rounding alone, in bfloat16 too, is below it


def packed_batches(rows: Sequence[TokenSequence], width: int, batch: int) -> list[list[TokenSequence]]:
    """The sequences of a step as micro-batches, each of which `collate_packed` lays out in at most `batch` rows.

    Args:
        width: tokens of a row.
    """
    places = pack([len(row.ids) for row in rows], width)
    groups: defaultdict[int, list[TokenSequence]] = defaultdict(list)
    for place, row in sorted(zip(places, rows, strict=True), key=lambda entry: entry[0]):
        groups[place.row // batch].append(row)
    return [groups[number] for number in sorted(groups)]


@torch.no_grad()
def check_packing(model: SftModel, tokens: int = 24) -> None:
    """Compare two sequences in one row with the same ones in two, and with the row read as one sequence.

    Raises:
        BaseModelError: the states are not much nearer to those of two rows, so that a sequence sees the one before it.
    """
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(min(1000, len(model.output_weight)), (2, tokens), generator=draw).to(model.device)
    row, ones = ids.reshape(1, -1), torch.ones_like(ids)
    positions = torch.arange(tokens, device=model.device).repeat(2)[None]
    was_training = model.training
    model.eval()
    try:
        apart = model.states(ids, ones).float()
        packed = model.states(row, ones.reshape(1, -1), positions).float().reshape(apart.shape)
        as_one = model.states(row, ones.reshape(1, -1)).float().reshape(apart.shape)
    finally:
        model.train(was_training)
    gap, leak = (float((states - apart).norm() / apart.norm()) for states in (packed, as_one))
    if not gap < MUCH_NEARER * leak:
        raise BaseModelError(
            f"data.packing=true: this base does not keep packed sequences apart (its states differ by {gap:.1%}, by "
            f"{leak:.1%} where they are read as one); set data.packing=false"
        )
