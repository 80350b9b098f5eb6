"""Batches by tokens: how much a model computes at a time is bounded by its work, not by the number of replies.

    calls -> cut into pieces of at most max_tokens -> queue, first come first served -> one batch at a time -> compute
                                                          ^                                   |
                                                          +--- as many as fit, whole pieces <--+

Invariants
    A batch has at most `max_tokens`, or is one item that is larger by itself.
    Batches keep the order of arrival: what does not fit waits at the head, so no large piece is overtaken for ever.
    (Ray Serve's own batching by size puts it at the end of its queue, behind all that came after it.)
    A piece whose caller has gone before its batch began is not computed.
All of it runs in one event loop, so there is no lock.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")

BYTES_PER_TOKEN = 4  # of English text, as the usual subword tokenizers cut it
ITEM_TOKENS = 8  # of any item: marks at its ends, and the cost of one more call of the model


def estimated_tokens(*texts: str) -> int:
    """Tokens of an item made of texts, without its tokenizer: within a factor of two for the languages we have seen."""
    return ITEM_TOKENS + sum(len(text.encode("utf-8", "replace")) for text in texts) // BYTES_PER_TOKEN


def cut_by_tokens(tokens: Sequence[int], most: int) -> list[slice]:
    """Consecutive slices of at most `most` tokens each; an item that has more is alone."""
    slices: list[slice] = []
    start = total = 0
    for i, count in enumerate(tokens):
        if i > start and total + count > most:
            slices.append(slice(start, i))
            start, total = i, 0
        total += count
    return [*slices, slice(start, len(tokens))] if tokens else []


@dataclass(eq=False, slots=True)
class _Piece(Generic[Item, Answer]):
    items: list[Item]
    tokens: int
    due: float  # when it need not wait for others any longer, on the loop's clock
    answers: asyncio.Future[Sequence[Answer]] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class TokenBatches(Generic[Item, Answer]):
    """Joins the items of concurrent calls into batches. Belongs to one event loop.

    Args:
        compute: one answer for each item, in order.
        tokens: of one item.
        max_tokens: of a batch.
        wait_s: how long the first piece of a batch waits for others.
    """

    def __init__(
        self,
        compute: Callable[[list[Item]], Awaitable[Sequence[Answer]]],
        tokens: Callable[[Item], int],
        max_tokens: int,
        wait_s: float,
    ) -> None:
        self._compute = compute
        self._tokens = tokens
        self._max_tokens = max_tokens
        self._wait_s = wait_s
        self._waiting: deque[_Piece[Item, Answer]] = deque()
        self._loop: asyncio.Task[None] | None = None

    async def __call__(self, items: list[Item]) -> Sequence[Answer]:
        """One answer for each item, in order; raises what `compute` raised for the batch. `items` stay together."""
        piece: _Piece[Item, Answer] = _Piece(
            items, sum(map(self._tokens, items)), asyncio.get_running_loop().time() + self._wait_s
        )
        self._waiting.append(piece)
        if self._loop is None or self._loop.done():
            self._loop = asyncio.ensure_future(self._work())
        return await piece.answers

    async def _work(self) -> None:
        """Until nothing waits."""
        while self._waiting:
            left_s = self._waiting[0].due - asyncio.get_running_loop().time()
            if left_s > 0 and sum(piece.tokens for piece in self._waiting) < self._max_tokens:
                await asyncio.sleep(left_s)
            if batch := self._next():
                await self._settle(batch)

    def _next(self) -> list[_Piece[Item, Answer]]:
        batch: list[_Piece[Item, Answer]] = []
        room = self._max_tokens
        while self._waiting and (not batch or self._waiting[0].tokens <= room):
            piece = self._waiting.popleft()
            if not piece.answers.done():  # else its caller is gone
                batch.append(piece)
                room -= piece.tokens
        return batch

    async def _settle(self, batch: list[_Piece[Item, Answer]]) -> None:
        try:
            answers = iter(await self._compute([item for piece in batch for item in piece.items]))
            parts = [[next(answers) for _ in piece.items] for piece in batch]
        except Exception as error:
            for piece in batch:
                if not piece.answers.done():
                    piece.answers.set_exception(error)
            return
        for piece, part in zip(batch, parts, strict=True):
            if not piece.answers.done():
                piece.answers.set_result(part)
