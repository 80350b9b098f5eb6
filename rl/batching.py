"""Groups -> shared-prompt rows -> micro-batches -> ranks.

    TrainGroup            prompt, reply 1, reply 2, ... reply n
    Row(s)                [prompt | reply 1 | reply 2 | ... ]     one, or several when it would exceed the limit
    MicroBatch            rows of similar length, padded to (B, N), at most `micro_batch_tokens` cells
    plan(...)[rank]       as many micro-batches on every rank, some of them empty

A reply sees the prompt and itself (rl/engines/attention.py), and its positions go on from the prompt's end, so every
reply is computed as if it stood alone after the prompt, which is computed once: P + nL tokens instead of n(P + L).

Invariants:
- Every reply of every group is in exactly one row. Nothing is cut, nothing is dropped.
- A micro-batch holds at most `micro_batch_tokens` cells, padding included, unless it is a single row with one reply.
- All ranks get the same number of micro-batches, because collectives must match.

Suffixes: B rows, N tokens of a row, R replies of a micro-batch, T tokens of a reply.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from rl.types import TrainGroup


@dataclass(frozen=True, slots=True)
class ReplyKey:
    """Which reply: indices into the groups given to `plan`, and into the group."""

    group: int
    reply: int


@dataclass(frozen=True, slots=True)
class Row:
    """A prompt and some of its replies. Its length is that of the prompt plus those of the replies."""

    prompt_ids: tuple[int, ...]
    keys: tuple[ReplyKey, ...]
    group: TrainGroup

    @property
    def replies(self) -> list[tuple[int, ...]]:
        return [self.group.response_ids[key.reply] for key in self.keys]

    def __len__(self) -> int:
        return len(self.prompt_ids) + sum(map(len, self.replies))


@dataclass(frozen=True, slots=True, eq=False)
class MicroBatch:
    """Tensors of one forward pass.

    Attributes:
        input_ids, position_ids: (B, N) int64.
        prompts: (B,) int64; tokens of each row's prompt.
        rows: (R,) int64; the row that holds a reply.
        cells: (R, T) int64; index into the flattened (B * N) cells of a reply's token.
        gather: (R, T) int64; index into the flattened (B * N) cells of the cell that predicts a reply's token.
        response_ids: (R, T) int64.
        response_mask, rollout_logprobs, advantages: (R, T) float32; 0 in padding.
        row_sizes: B; replies in each row.
        longest_prompt, used_cells: tokens of the longest prompt, and of all rows without padding.
        keys: R replies, in the order of the rows of these matrices. Empty: a micro-batch that is only there so that
            this rank takes part in the collectives.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    prompts: torch.Tensor
    rows: torch.Tensor
    cells: torch.Tensor
    gather: torch.Tensor
    response_ids: torch.Tensor
    response_mask: torch.Tensor
    rollout_logprobs: torch.Tensor
    advantages: torch.Tensor
    keys: tuple[ReplyKey, ...]
    row_sizes: tuple[int, ...]
    longest_prompt: int
    used_cells: int

    @property
    def is_empty(self) -> bool:
        return not self.keys

    @property
    def real(self) -> torch.Tensor:
        """Which of the (R, T) are computed: all reply tokens, and the one of an empty micro-batch."""
        return torch.ones_like(self.response_mask, dtype=torch.bool) if self.is_empty else self.response_mask.bool()

    def to(self, device: torch.device) -> MicroBatch:
        tensors = {name: getattr(self, name).to(device, non_blocking=True) for name in _TENSORS}
        return replace(self, **tensors)


_TENSORS = (
    "input_ids",
    "position_ids",
    "prompts",
    "rows",
    "cells",
    "gather",
    "response_ids",
    "response_mask",
    "rollout_logprobs",
    "advantages",
)


def rows_of(index: int, group: TrainGroup, limit: int) -> list[Row]:
    """The fewest rows of at most `limit` tokens, filled in order. A reply that alone exceeds it has a row of its own.

    Raises:
        ValueError: a prompt or a reply without tokens, or ragged fields that do not fit each other.
    """
    _check(index, group)
    rows: list[list[ReplyKey]] = []
    room = 0
    for number, reply in enumerate(group.response_ids):
        if not rows or len(reply) > room:
            rows.append([])
            room = limit - len(group.prompt_ids)
        rows[-1].append(ReplyKey(index, number))
        room -= len(reply)
    return [Row(group.prompt_ids, tuple(keys), group) for keys in rows]


def _check(index: int, group: TrainGroup) -> None:
    if not group.prompt_ids:
        raise ValueError(f"group {index} has an empty prompt")
    if len({len(group.response_ids), len(group.rollout_logprobs), len(group.advantages)}) != 1:
        raise ValueError(f"group {index}: as many log-probs and advantages as replies are needed")
    for number, (ids, logprobs, advantages) in enumerate(
        zip(group.response_ids, group.rollout_logprobs, group.advantages, strict=True)
    ):
        if not ids or len({len(ids), len(logprobs), len(advantages)}) != 1:
            raise ValueError(
                f"group {index}, reply {number}: {len(ids)} tokens, {len(logprobs)} log-probs and {len(advantages)} "
                "advantages; the three must be equal and not 0"
            )


def plan(groups: Sequence[TrainGroup], ranks: int, micro_batch_tokens: int) -> list[list[list[Row]]]:
    """What each rank computes: `plan(...)[rank]` is a list of micro-batches, each a list of rows, [] an empty one.

    Rows of similar length share a micro-batch, so little is padded; micro-batches are dealt to the ranks by verl's
    Karmarkar-Karp partitioning, and within a rank the heaviest comes first, so that ranks wait little for each other.
    """
    rows = [row for index, group in enumerate(groups) for row in rows_of(index, group, micro_batch_tokens)]
    rows.sort(key=len, reverse=True)
    batches = _split_to_multiple(_fill(rows, micro_batch_tokens), ranks)
    batches += [[] for _ in range(-len(batches) % ranks)]
    if ranks == 1:
        return [batches]
    from verl.utils.seqlen_balancing import get_seqlen_balanced_partitions

    shares = get_seqlen_balanced_partitions([_cells(batch) for batch in batches], ranks, equal_size=True)
    return [sorted((batches[i] for i in share), key=_cells, reverse=True) for share in shares]


def _cells(batch: Sequence[Row]) -> int:
    return len(batch) * max(map(len, batch), default=0)


def _fill(rows: list[Row], limit: int) -> list[list[Row]]:
    """Consecutive rows, longest first, as many per micro-batch as fit when padded to the longest."""
    batches: list[list[Row]] = []
    for row in rows:
        if batches and len(batches[-1][0]) * (len(batches[-1]) + 1) <= limit:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def _split_to_multiple(batches: list[list[Row]], ranks: int) -> list[list[Row]]:
    """Halve the largest micro-batches until their number is a multiple of `ranks`, as far as rows allow."""
    batches = list(batches)
    while len(batches) % ranks:
        largest = max(range(len(batches)), key=lambda i: (len(batches[i]) > 1, _cells(batches[i])))
        batch = batches[largest]
        if len(batch) == 1:
            break
        half = (len(batch) + 1) // 2
        batches[largest : largest + 1] = [batch[:half], batch[half:]]
    return batches


def collate(rows: Sequence[Row]) -> MicroBatch:
    """Tensors of one micro-batch on the CPU; of no rows, one cell without a reply."""
    if not rows:
        return _empty()
    width = max(map(len, rows))
    ids, positions = np.zeros((2, len(rows), width), dtype=np.int64)
    cells: list[np.ndarray] = []
    gather: list[np.ndarray] = []
    for number, row in enumerate(rows):
        prompt, offset = len(row.prompt_ids), number * width
        flat = [token for part in (row.prompt_ids, *row.replies) for token in part]
        ids[number, : len(flat)] = flat
        positions[number, :prompt] = np.arange(prompt)
        start = prompt
        for reply in row.replies:
            end = start + len(reply)
            positions[number, start:end] = np.arange(prompt, prompt + len(reply))
            cells.append(np.arange(start, end) + offset)
            predictors = cells[-1] - 1
            predictors[0] = prompt - 1 + offset
            gather.append(predictors)
            start = end
    at = [(row.group, key.reply) for row in rows for key in row.keys]
    return MicroBatch(
        input_ids=torch.from_numpy(ids),
        position_ids=torch.from_numpy(positions),
        prompts=torch.tensor([len(row.prompt_ids) for row in rows]),
        rows=torch.tensor([number for number, row in enumerate(rows) for _ in row.keys]),
        cells=_padded(cells, np.int64),
        gather=_padded(gather, np.int64),
        response_ids=_padded([group.response_ids[reply] for group, reply in at], np.int64),
        response_mask=_padded([np.ones(len(group.response_ids[reply])) for group, reply in at], np.float32),
        rollout_logprobs=_padded([group.rollout_logprobs[reply] for group, reply in at], np.float32),
        advantages=_padded([group.advantages[reply] for group, reply in at], np.float32),
        keys=tuple(key for row in rows for key in row.keys),
        row_sizes=tuple(len(row.keys) for row in rows),
        longest_prompt=max(len(row.prompt_ids) for row in rows),
        used_cells=sum(map(len, rows)),
    )


def _padded(ragged: Sequence[Sequence[float] | np.ndarray], dtype: type) -> torch.Tensor:
    matrix: np.ndarray = np.zeros((len(ragged), max(map(len, ragged))), dtype=dtype)
    for number, values in enumerate(ragged):
        matrix[number, : len(values)] = values
    return torch.from_numpy(matrix)


def _empty() -> MicroBatch:
    """One cell that predicts one token which does not count: its loss is 0 and so is its gradient."""
    cell, nothing = torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 1)
    return MicroBatch(
        input_ids=cell,
        position_ids=cell,
        prompts=torch.ones(1, dtype=torch.int64),
        rows=torch.zeros(1, dtype=torch.int64),
        cells=cell,
        gather=cell,
        response_ids=cell,
        response_mask=nothing,
        rollout_logprobs=nothing,
        advantages=nothing,
        keys=(),
        row_sizes=(1,),
        longest_prompt=1,
        used_cells=0,
    )
