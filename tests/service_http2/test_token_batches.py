"""Batches are bounded by tokens, keep the order of arrival, and cannot be told from the answers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reward_servers.batching import ITEM_TOKENS, TokenBatches, cut_by_tokens, estimated_tokens


class Model:
    """Triples a number, which is also its tokens; waits until `open` is set; notes its batches."""

    def __init__(self, max_tokens: int, wait_s: float = 0.0) -> None:
        self.batches: list[list[int]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.broken = False
        self.joined: TokenBatches[int, int] = TokenBatches(self.compute, lambda item: item, max_tokens, wait_s)

    async def compute(self, items: list[int]) -> Sequence[int]:
        self.batches.append(items)
        await self.open.wait()
        if self.broken:
            raise OSError("the disk is gone")
        return [3 * item for item in items]


async def soon() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_the_estimate_is_of_bytes_and_never_nothing() -> None:
    assert estimated_tokens() == estimated_tokens("") == ITEM_TOKENS
    assert estimated_tokens("a" * 40, "b" * 4) == ITEM_TOKENS + 11
    assert estimated_tokens("\u6211" * 4) == ITEM_TOKENS + 3, "three bytes each"
    assert estimated_tokens("\ud800") == ITEM_TOKENS, "half a pair is refused elsewhere, and must not raise here"


@pytest.mark.parametrize(
    ("tokens", "parts"),
    [
        ([], []),
        ([5], [[5]]),
        ([4, 4, 2, 1], [[4, 4, 2], [1]]),
        ([20, 1, 1], [[20], [1, 1]]),
        ([9, 20, 1, 9], [[9], [20], [1, 9]]),
    ],
)
def test_a_call_is_cut_into_pieces_of_at_most_10_tokens(tokens: list[int], parts: list[list[int]]) -> None:
    assert [tokens[part] for part in cut_by_tokens(tokens, 10)] == parts


def test_what_arrives_while_the_model_works_is_computed_together_up_to_the_bound() -> None:
    async def run() -> None:
        model = Model(max_tokens=10)
        model.open.clear()
        calls = [asyncio.create_task(model.joined([item])) for item in (1, 4, 4, 3, 2)]
        await soon()
        assert model.batches == [[1, 4, 4]], "all had arrived when the first batch was made; 3 more would be too many"
        model.open.set()
        assert await asyncio.gather(*calls) == [[3], [12], [12], [9], [6]]
        assert model.batches == [[1, 4, 4], [3, 2]]

    asyncio.run(run())


def test_a_large_piece_is_not_overtaken() -> None:
    """8 does not fit beside 5. A queue that put it at the end would compute every 2 before it."""

    async def run() -> None:
        model = Model(max_tokens=10)
        calls = [asyncio.create_task(model.joined([item])) for item in (5, 8, 2, 2, 2, 2, 2)]
        await asyncio.gather(*calls)
        assert model.batches == [[5], [8, 2], [2, 2, 2, 2]]

    asyncio.run(run())


def test_an_item_beyond_the_bound_is_computed_alone() -> None:
    async def run() -> None:
        model = Model(max_tokens=10)
        calls = [asyncio.create_task(model.joined([item])) for item in (2, 50, 2)]
        assert await asyncio.gather(*calls) == [[6], [150], [6]]
        assert model.batches == [[2], [50], [2]]

    asyncio.run(run())


def test_a_lone_piece_waits_for_others_as_long_as_it_is_told_and_a_full_batch_does_not() -> None:
    async def run() -> None:
        model = Model(max_tokens=10, wait_s=0.2)
        first = asyncio.create_task(model.joined([1]))
        await asyncio.sleep(0.01)
        assert model.batches == []
        second = asyncio.create_task(model.joined([2]))
        await asyncio.gather(first, second)
        assert model.batches == [[1, 2]]
        began = asyncio.get_running_loop().time()
        await model.joined([10])
        assert asyncio.get_running_loop().time() - began < 0.1

    asyncio.run(run())


def test_a_piece_whose_caller_is_gone_is_not_computed() -> None:
    async def run() -> None:
        model = Model(max_tokens=1)
        model.open.clear()
        calls = [asyncio.create_task(model.joined([item])) for item in (1, 2, 3)]
        await soon()
        calls[1].cancel()
        model.open.set()
        assert (await calls[0], await calls[2]) == ([3], [9])
        assert model.batches == [[1], [3]]

    asyncio.run(run())


def test_an_error_is_told_to_all_of_its_batch_and_the_next_batch_goes_on() -> None:
    async def run() -> None:
        model = Model(max_tokens=10)
        model.broken = True
        done = await asyncio.gather(model.joined([1]), model.joined([2]), return_exceptions=True)
        assert [str(error) for error in done] == ["the disk is gone"] * 2
        model.broken = False
        assert await model.joined([1]) == [3]

    asyncio.run(run())


@settings(max_examples=100, deadline=None)
@given(calls=st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=5), max_size=12), most=st.integers(1, 20))
def test_every_item_is_answered_once_in_order_and_no_batch_is_too_large(calls: list[list[int]], most: int) -> None:
    async def run() -> None:
        model = Model(most)
        answers = await asyncio.gather(*(model.joined(items) for items in calls))
        assert [list(part) for part in answers] == [[3 * item for item in items] for items in calls]
        assert [item for batch in model.batches for item in batch] == [item for items in calls for item in items]
        for batch in model.batches:
            assert sum(batch) <= most or batch in calls

    asyncio.run(run())
