"""Identical work is done once, and nobody can tell from the answers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reward_servers.failures import ItemFailure
from reward_servers.once import Shared, WorkOnce, key_of
from reward_servers.protocol import FailureKind

ENTRY = 10  # bytes of every answer here


class Model:
    """Doubles a word; fails on `bad` as often as `failures` says; waits until `open` is set."""

    def __init__(self, failures: int = 0, batch_size: int = 3, max_bytes: int = 10**6) -> None:
        self.computed: list[str] = []
        self.batches: list[int] = []
        self.open = asyncio.Event()
        self.open.set()
        self.failures = failures
        self.once: WorkOnce[str, str | ItemFailure] = WorkOnce(
            self.compute,
            lambda word: key_of("v1", word),
            lambda answer: isinstance(answer, str),
            lambda _: ENTRY,
            lambda _: 1,
            batch_size,
            max_bytes,
        )

    async def compute(self, words: list[str]) -> Sequence[str | ItemFailure]:
        self.computed += words
        self.batches.append(len(words))
        await self.open.wait()
        return [self.answer(word) for word in words]

    def answer(self, word: str) -> str | ItemFailure:
        if word == "bad" and self.failures:
            self.failures -= 1
            return ItemFailure(FailureKind.INTERNAL, "no", "model")
        return word * 2


async def soon() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_what_was_computed_is_given_again() -> None:
    async def run() -> None:
        model = Model()
        assert await model.once(["a", "b", "a"]) == Shared(("aa", "bb", "aa"), kept=0, joined=1)
        assert await model.once(["b", "c"]) == Shared(("bb", "cc"), kept=1, joined=0)
        assert model.computed == ["a", "b", "c"]

    asyncio.run(run())


def test_what_is_being_computed_is_joined() -> None:
    async def run() -> None:
        model = Model()
        model.open.clear()
        first = asyncio.create_task(model.once(["a", "b"]))
        await soon()
        second = asyncio.create_task(model.once(["b", "c"]))
        await soon()
        assert model.once.in_flight == 3
        model.open.set()
        assert await first == Shared(("aa", "bb"), kept=0, joined=0)
        assert await second == Shared(("bb", "cc"), kept=0, joined=1)
        assert model.computed == ["a", "b", "c"] and model.once.in_flight == 0

    asyncio.run(run())


def test_a_failure_reaches_all_that_waited_for_it_and_is_not_kept() -> None:
    async def run() -> None:
        model = Model(failures=1)
        model.open.clear()
        both = [asyncio.create_task(model.once(["bad"])) for _ in range(2)]
        await soon()
        model.open.set()
        for shared in await asyncio.gather(*both):
            assert isinstance(shared.answers[0], ItemFailure)
        assert model.once.kept_bytes == 0
        assert (await model.once(["bad"])).answers == ("badbad",)

    asyncio.run(run())


def test_an_error_of_the_model_is_raised_to_each_caller_and_forgotten() -> None:
    async def run() -> None:
        model = Model()

        async def broken(words: list[str]) -> Sequence[str]:
            raise OSError("the disk is gone")

        model.once._compute = broken
        done = await asyncio.gather(model.once(["a"]), model.once(["a", "b"]), return_exceptions=True)
        assert [type(error) for error in done] == [OSError, OSError]
        assert model.once.in_flight == 0
        model.once._compute = model.compute
        assert (await model.once(["a"])).answers == ("aa",)

    asyncio.run(run())


def test_a_cancelled_call_does_not_take_the_work_from_another() -> None:
    async def run() -> None:
        model = Model()
        model.open.clear()
        first = asyncio.create_task(model.once(["a"]))
        await soon()
        second = asyncio.create_task(model.once(["a"]))
        await soon()
        first.cancel()
        await soon()
        model.open.set()
        assert (await second).answers == ("aa",)
        assert first.cancelled() and model.computed == ["a"]

    asyncio.run(run())


def test_work_that_nobody_waits_for_is_cancelled_and_begun_anew_when_asked_again() -> None:
    async def run() -> None:
        model = Model()
        model.open.clear()
        calls = [asyncio.create_task(model.once(["a"])) for _ in range(3)]
        await soon()
        for call in calls:
            call.cancel()
        await soon()
        assert model.once.in_flight == 0
        again = asyncio.create_task(model.once(["a"]))
        await soon()
        model.open.set()
        assert (await again).answers == ("aa",) and model.computed == ["a", "a"]

    asyncio.run(run())


def test_no_batch_is_larger_than_allowed() -> None:
    async def run() -> None:
        model = Model(batch_size=3)
        await model.once([str(i) for i in range(8)])
        assert sorted(model.batches) == [2, 3, 3]

    asyncio.run(run())


@pytest.mark.parametrize(("max_bytes", "kept"), [(0, 0), (ENTRY - 1, 0), (2 * ENTRY, 2 * ENTRY), (25, 20)])
def test_kept_answers_stay_within_their_bytes(max_bytes: int, kept: int) -> None:
    async def run() -> None:
        model = Model(max_bytes=max_bytes)
        for word in "abcde":
            assert (await model.once([word])).answers == (word * 2,)
        assert model.once.kept_bytes == kept
        if kept:
            assert (await model.once(["e"])).kept == 1, "the youngest stays"
            assert (await model.once(["a"])).kept == 0, "the oldest made room"

    asyncio.run(run())


def test_a_key_is_of_the_version_and_of_where_one_part_ends() -> None:
    assert key_of("v1", "a", "b") == key_of("v1", "a", "b")
    assert len({key_of("v1", "a", "b"), key_of("v2", "a", "b"), key_of("v1", "ab"), key_of("v1", ["a", "b"])}) == 4


@settings(max_examples=60, deadline=None)
@given(
    calls=st.lists(st.lists(st.sampled_from(["a", "b", "c", "d", ""]), max_size=6), max_size=8),
    batch_size=st.integers(1, 4),
    max_bytes=st.sampled_from([0, ENTRY, 3 * ENTRY, 10**6]),
    at_once=st.booleans(),
)
def test_answers_are_the_same_with_and_without_sharing(
    calls: list[list[str]], batch_size: int, max_bytes: int, at_once: bool
) -> None:
    async def run() -> list[tuple[object, ...]]:
        model = Model(batch_size=batch_size, max_bytes=max_bytes)
        if at_once:
            shared = await asyncio.gather(*(model.once(words) for words in calls))
        else:
            shared = [await model.once(words) for words in calls]
        assert len(model.computed) + sum(s.kept + s.joined for s in shared) == sum(map(len, calls))
        return [s.answers for s in shared]

    assert asyncio.run(run()) == [tuple(word * 2 for word in words) for words in calls]
