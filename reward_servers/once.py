"""Identical work is done once: what is being computed is joined, what was computed is kept.

    call (some items) -> kept answers ─────────────────────────────────────────────┐
                      -> equal items being computed, by any call: wait with it ────┼─► answers in the order of the items
                      -> the rest, in batches -> compute -> keep what is no failure┘

Invariants
    The answer to an item is what `compute` said of an equal item: the same with and without sharing, as long as
    `compute` answers equal items equally whatever their batch, which the models of the reward servers guarantee.
    A failure is given to those that waited for it and never kept: the next call computes again.
    Work goes on while one call waits for it. When the last one is cancelled, so is the work.
    Kept answers take at most `max_bytes`; those not asked for the longest make room.

It lives inside a model's replica rather than in the client or the gateway: there the version of the weights is known
and does not change under a key, several trainers and gateways share what is kept, and no answer outlives its weights.
The price is that each replica computes an item once for itself. All of it runs in one event loop, so there is no lock.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from cachetools import LRUCache

from reward_servers.batching import cut_by_tokens

Item = TypeVar("Item")
Answer = TypeVar("Answer")
Key = bytes
_MISSING = object()


@dataclass(frozen=True, slots=True)
class Shared(Generic[Answer]):
    """Answers of one call in order, and how many of them came from kept answers or from work already begun."""

    answers: tuple[Answer, ...]
    kept: int
    joined: int


def key_of(version: str, *parts: object) -> Key:
    """A digest of a model's version and of an input made of strings, numbers and sequences of them."""
    text = json.dumps([version, *parts], separators=(",", ":"))  # unambiguous, unlike joined strings
    return hashlib.sha256(text.encode()).digest()


@dataclass(eq=False, slots=True)
class _Batch(Generic[Answer]):
    """Items being computed together, and how many calls wait for any of them."""

    keys: tuple[Key, ...]
    task: asyncio.Task[dict[Key, Answer]] | None = None
    callers: int = 0


class WorkOnce(Generic[Item, Answer]):
    """Calls `compute` for what nobody has computed or is computing. Belongs to one event loop.

    Args:
        compute: one answer for each item, in order.
        key: equal for items that must get equal answers.
        keep: whether an answer may be given again; False for failures.
        size: bytes that an answer takes, roughly.
        tokens: of one item.
        max_tokens: of the items that `compute` is given at a time; an item that has more comes alone.
        max_bytes: of all kept answers; 0 keeps none, and work in flight is still shared.
    """

    def __init__(
        self,
        compute: Callable[[list[Item]], Awaitable[Sequence[Answer]]],
        key: Callable[[Item], Key],
        keep: Callable[[Answer], bool],
        size: Callable[[Answer], int],
        tokens: Callable[[Item], int],
        max_tokens: int,
        max_bytes: int,
    ) -> None:
        self._compute = compute
        self._key = key
        self._keep = keep
        self._size = size
        self._tokens = tokens
        self._max_tokens = max_tokens
        self._kept: LRUCache[Key, Answer] = LRUCache(max_bytes, getsizeof=size)
        self._batches: dict[Key, _Batch[Answer]] = {}

    @property
    def kept_bytes(self) -> int:
        return int(self._kept.currsize)

    @property
    def in_flight(self) -> int:
        """Distinct items being computed."""
        return len(self._batches)

    async def __call__(self, items: Sequence[Item]) -> Shared[Answer]:
        """One answer for each item, in order; raises what `compute` raised for a batch that holds one of them."""
        keys = [self._key(item) for item in items]
        answers: dict[Key, Answer] = {}
        new: dict[Key, Item] = {}
        kept = joined = 0
        for key, item in zip(keys, items, strict=True):
            found = self._kept.get(key, _MISSING)
            if found is not _MISSING:
                answers[key] = found  # type: ignore[assignment]
                kept += 1
            elif key in self._batches or key in new:
                joined += 1
            else:
                new[key] = item
        self._begin(new)
        missing = dict.fromkeys(key for key in keys if key not in answers)
        for batch_answers in await self._wait(self._batches[key] for key in missing):
            answers.update(batch_answers)
        return Shared(tuple(answers[key] for key in keys), kept, joined)

    def _begin(self, new: dict[Key, Item]) -> None:
        pairs = list(new.items())
        for piece in cut_by_tokens([self._tokens(item) for _, item in pairs], self._max_tokens):
            part = dict(pairs[piece])
            batch: _Batch[Answer] = _Batch(tuple(part))
            batch.task = asyncio.ensure_future(self._run(batch, list(part.values())))
            self._batches.update(dict.fromkeys(part, batch))

    async def _wait(self, wanted: Iterable[_Batch[Answer]]) -> list[dict[Key, Answer]]:
        """The answers of batches. When the caller is cancelled, batches that nobody else waits for are, too."""
        batches = list(dict.fromkeys(wanted))
        for batch in batches:
            batch.callers += 1
        try:
            return await asyncio.gather(*(asyncio.shield(batch.task) for batch in batches if batch.task is not None))
        finally:
            for batch in batches:
                batch.callers -= 1
                if not batch.callers and batch.task is not None and not batch.task.done():
                    self._end(batch)
                    batch.task.cancel()

    async def _run(self, batch: _Batch[Answer], items: list[Item]) -> dict[Key, Answer]:
        try:
            answers = dict(zip(batch.keys, await self._compute(items), strict=True))
        finally:
            self._end(batch)
        for key, answer in answers.items():
            if self._keep(answer) and self._size(answer) <= self._kept.maxsize:
                self._kept[key] = answer
        return answers

    def _end(self, batch: _Batch[Answer]) -> None:
        """No further call joins; another batch may hold the same key by now."""
        for key in batch.keys:
            if self._batches.get(key) is batch:
                del self._batches[key]
