"""Several processes that fine-tune together, one for each GPU: each takes its share of the batches of every step.

    rapport sft train t4 data.folder=DATA --processes 4          on one machine (`sft.launch`)
    torchrun --nnodes 2 ... -m rapport sft train t4 ...          on several

Every process draws all batches of a step and knows their items, so a loss is a mean over the items of the whole step
whoever computes it; parts and gradients are summed over the processes before the update. Only adapter and heads have
gradients, a few per cent of the model, so nothing is sharded. Only the first process writes.

Invariant: N processes give the losses and the weights of one, up to the order of float sums, dropout included.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed

Item = TypeVar("Item")

TIMEOUT = timedelta(minutes=30)  # a checkpoint on a slow disk, or a dev set, while the others wait


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among `size` that train together."""

    rank: int = 0
    size: int = 1

    @classmethod
    def here(cls) -> Ranks:
        """As `torch.distributed` has it; alone where there is no process group."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return cls()
        return cls(distributed.get_rank(), distributed.get_world_size())

    @property
    def first(self) -> bool:
        """Whether this process writes and speaks."""
        return self.rank == 0

    def share(self, items: Sequence[Item]) -> list[tuple[int, Item]]:
        """Every `size`-th item, with its number among all."""
        return list(enumerate(items))[self.rank :: self.size]

    def sum(self, numbers: Sequence[float], device: torch.device) -> list[float]:
        """Each number summed over the processes; all give as many."""
        if self.size == 1:
            return list(numbers)
        total = torch.tensor(numbers, dtype=torch.float64, device=device)
        distributed.all_reduce(total)
        return total.tolist()

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Every gradient summed over the processes, in place; one that no process has stays None."""
        if self.size == 1:
            return
        every = list(parameters)
        device = every[0].device
        has = torch.tensor([float(p.grad is not None) for p in every], device=device)
        distributed.all_reduce(has)
        wanted = [p for p, count in zip(every, has.tolist(), strict=True) if count]
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in wanted]
        flat = torch.cat([part.reshape(-1).float() for part in parts])  # one call for all
        distributed.all_reduce(flat)
        for parameter, summed in zip(wanted, flat.split([p.numel() for p in wanted]), strict=True):
            parameter.grad = summed.reshape(parameter.shape).to(parameter.dtype)

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            distributed.barrier()


@contextmanager
def joined() -> Iterator[Ranks]:
    """Join the process group that torchrun's environment names; alone where it names none."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Ranks()
        return
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if cuda else "gloo", timeout=TIMEOUT)
    try:
        yield Ranks.here()
    finally:
        distributed.destroy_process_group()
