"""Callers take turns: a flood of one waits behind itself and not before another's work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reward_servers.callers import CALLER_VARIABLE, CallsOfEach, caller_of_process, shortened
from reward_servers.failures import RewardServerError
from reward_servers.fair_queue import FairQueue, LineFullError
from reward_servers.protocol import FailureKind


class Server:
    """Notes who is served, in order; each piece takes one step, a call of `step` ends those being served."""

    def __init__(self, capacity: float, max_waiting: int = 1000) -> None:
        self.queue = FairQueue(capacity, max_waiting)
        self.served: list[str] = []
        self.now: dict[str, float] = {}
        self._ends: list[asyncio.Event] = []
        self.tasks: list[asyncio.Task[None]] = []

    def ask(self, caller: str, cost: float = 1.0) -> asyncio.Task[None]:
        self.tasks.append(asyncio.create_task(self._serve(caller, cost)))
        return self.tasks[-1]

    async def _serve(self, caller: str, cost: float) -> None:
        async with self.queue.take(caller, cost):
            self.served.append(caller)
            self.now[caller] = self.now.get(caller, 0.0) + cost
            end = asyncio.Event()
            self._ends.append(end)
            await end.wait()
            self.now[caller] -= cost

    async def step(self) -> None:
        ends, self._ends = self._ends, []
        for end in ends:
            end.set()
        await soon()

    async def until_done(self) -> None:
        while not all(task.done() for task in self.tasks):
            await self.step()


async def soon() -> None:
    for _ in range(8):
        await asyncio.sleep(0)


def run(scenario: Callable[[], object]) -> None:
    asyncio.run(scenario())  # type: ignore[arg-type]


def test_a_flood_of_one_caller_does_not_starve_another() -> None:
    """A wants a hundred pieces. B comes later with three: they are served in turn with A's, not after all of them."""

    async def scenario() -> None:
        server = Server(capacity=1)
        for _ in range(100):
            server.ask("A")
        await soon()
        for _ in range(3):
            server.ask("B")
        await server.until_done()
        assert "".join(server.served[:8]) == "ABABABAA"
        assert server.served.count("A") == 100

    run(scenario)


def test_turns_are_by_cost_and_not_by_number() -> None:
    """A's pieces cost 4 each, B's 1: A gets one for each four of B."""

    async def scenario() -> None:
        server = Server(capacity=4)
        for _ in range(8):
            server.ask("A", 4)
        for _ in range(32):
            server.ask("B", 1)
        await server.until_done()
        first = server.served[:20]
        assert abs(4 * first.count("A") - first.count("B")) <= 8
        assert sorted(server.served) == ["A"] * 8 + ["B"] * 32

    run(scenario)


def test_being_away_earns_no_credit() -> None:
    async def scenario() -> None:
        server = Server(capacity=1)
        server.ask("B")
        await server.until_done()
        for _ in range(50):
            server.ask("A")
        for _ in range(20):
            await server.step()
        for _ in range(10):
            server.ask("B")
        before = len(server.served)
        await server.until_done()
        assert server.served[before : before + 8].count("B") in (3, 4, 5), "in turns, not ten at once"

    run(scenario)


def test_one_caller_alone_has_all_of_it_in_its_own_order() -> None:
    async def scenario() -> None:
        queue, order = FairQueue(3, 10), []

        async def piece(i: int) -> None:
            async with queue.take("A", 1):
                order.append(i)
                await asyncio.sleep(0)

        await asyncio.gather(*(piece(i) for i in range(10)))
        assert order == list(range(10)) and queue.waiting == 0

    run(scenario)


def test_something_too_large_is_admitted_alone() -> None:
    async def scenario() -> None:
        server = Server(capacity=2)
        server.ask("A", 1)
        large = server.ask("B", 50)
        server.ask("A", 1)
        await soon()
        assert server.served == ["A"], "B waits at the head: nobody passes it, or it would never find the place empty"
        await server.step()
        assert server.served == ["A", "B"]
        await server.step()
        assert large.done() and server.served == ["A", "B", "A"]
        await server.until_done()

    run(scenario)


def test_only_the_caller_with_too_much_in_line_is_refused() -> None:
    async def scenario() -> None:
        server = Server(capacity=1, max_waiting=2)
        for _ in range(3):
            server.queue.check("A")
            server.ask("A")
            await soon()
        with pytest.raises(LineFullError, match="2 pieces of the caller 'A'"):
            server.queue.check("A")
        server.queue.check("B")
        await server.until_done()
        server.queue.check("A")

    run(scenario)


def test_who_gives_up_waiting_leaves_no_trace() -> None:
    async def scenario() -> None:
        server = Server(capacity=1)
        held, waits, other = server.ask("A"), server.ask("B"), server.ask("C")
        await soon()
        waits.cancel()
        await soon()
        assert server.queue.waiting == 1
        held.cancel()  # while it is served
        await soon()
        assert server.served == ["A", "C"] and not other.done()
        await server.until_done()
        assert server.queue._callers == {}, "callers with nothing here are forgotten"
        assert server.queue._admitted == 0

    run(scenario)


@settings(max_examples=100, deadline=None)
@given(
    pieces=st.lists(st.tuples(st.sampled_from("ABC"), st.sampled_from([0.5, 1.0, 3.0, 9.0])), max_size=40),
    cancelled=st.sets(st.integers(0, 39), max_size=6),
)
def test_capacity_holds_and_everything_is_served_whatever_comes(
    pieces: list[tuple[str, float]], cancelled: set[int]
) -> None:
    async def scenario() -> None:
        server = Server(capacity=4)
        tasks = [server.ask(*piece) for piece in pieces]
        for i in cancelled:
            if i < len(tasks):
                tasks[i].cancel()
        while not all(task.done() for task in tasks):
            assert sum(server.now.values()) <= 4 or sum(cost > 0 for cost in server.now.values()) == 1
            await server.step()
        assert len(server.served) == len(pieces) - len([i for i in cancelled if i < len(pieces)])
        assert server.queue._callers == {} and server.queue._holders == 0

    run(scenario)


# --- calls ----------------------------------------------------------------------------------------------------------


def test_one_caller_may_not_hold_every_call_of_a_gateway() -> None:
    calls = CallsOfEach(2)
    with calls.call_of("A"), calls.call_of("A"), calls.call_of("B"):
        with pytest.raises(RewardServerError, match="'A' has 2 calls open") as refused, calls.call_of("A"):
            pass
        assert refused.value.kind is FailureKind.OVERLOADED
    with calls.call_of("A"):
        assert calls._open == {"A": 1}


def test_the_processes_of_a_trainer_can_be_one_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    own = caller_of_process()
    assert own and own == caller_of_process()
    monkeypatch.setenv(CALLER_VARIABLE, "run-7")
    assert caller_of_process() == "run-7"
    assert len(shortened("x" * 10_000)) == 100
