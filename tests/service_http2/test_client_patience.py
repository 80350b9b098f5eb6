"""A slow call is asked for twice, dead servers are not asked again and again, and no answer changes by either."""

from __future__ import annotations

import asyncio
import pickle
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reward_servers.client import RetryPolicy, RewardClient
from reward_servers.failures import RewardServerError
from reward_servers.patience import Circuit, CircuitOpenError, hedged
from reward_servers.protocol import EmpathyScore, FailureKind, Score, ScoreFailure, ScoreRequest, ScoreResult, TagResult

EMPATHY = EmpathyScore((3.0,) * 6)


class Servers:
    """A transport whose calls last as long as told and fail as told; afterwards they answer at once."""

    server = "servers of a test"

    def __init__(self, *script: float | FailureKind) -> None:
        self.script = list(script)
        self.calls: list[list[str]] = []
        self.cancelled = 0

    @asynccontextmanager
    async def session(self) -> AsyncIterator[None]:
        yield

    async def score(self, _: None, requests: Sequence[ScoreRequest], timeout_s: float) -> list[ScoreResult]:
        self.calls.append([request.id for request in requests])
        step = self.script.pop(0) if self.script else 0.0
        if isinstance(step, FailureKind):
            raise RewardServerError(step, "as told", self.server)
        try:
            await asyncio.sleep(step)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return [Score(r.id, (), (), (), EMPATHY, len(r.response)) for r in requests]

    async def tag(self, _: None, responses: Sequence[tuple[str, str]], timeout_s: float) -> list[TagResult]:
        raise NotImplementedError

    async def health(self, _: None, timeout_s: float) -> dict[str, str]:
        return {}


def requests(count: int) -> list[ScoreRequest]:
    return [ScoreRequest(f"r{i}", (), "a" * i) for i in range(count)]


def ask(servers: Servers, count: int = 1, **policy: float) -> list[ScoreResult]:
    settled = {"backoff_s": 0.0, "requests_per_call": 1, "concurrency": 4, **policy}
    return RewardClient(servers, RetryPolicy(**settled)).score_sync(requests(count))  # type: ignore[arg-type]


def qualities(results: Sequence[ScoreResult]) -> list[float]:
    return [result.quality for result in results if isinstance(result, Score)]


# --- hedging ----------------------------------------------------------------------------------------------------------


def test_a_straggler_is_asked_again_and_the_late_call_is_cancelled() -> None:
    servers = Servers(30.0)
    began = time.monotonic()
    assert qualities(ask(servers, hedge_after_s=0.05)) == [0]
    assert time.monotonic() - began < 25
    assert servers.calls == [["r0"], ["r0"]] and servers.cancelled == 1


def test_a_quick_call_is_made_once() -> None:
    servers = Servers()
    assert qualities(ask(servers, 3, hedge_after_s=5.0)) == [0, 1, 2]
    assert sorted(servers.calls) == [["r0"], ["r1"], ["r2"]]


def test_the_first_call_still_counts_when_the_second_fails() -> None:
    servers = Servers(0.3, FailureKind.UNAVAILABLE)
    assert qualities(ask(servers, hedge_after_s=0.02, retries=0)) == [0]


def test_no_second_call_without_a_free_slot() -> None:
    servers = Servers(0.2)
    assert qualities(ask(servers, hedge_after_s=0.02, concurrency=1)) == [0]
    assert servers.calls == [["r0"]]


def test_when_both_fail_the_first_error_is_told() -> None:
    async def fails(kind: FailureKind, after_s: float) -> None:
        await asyncio.sleep(after_s)
        raise RewardServerError(kind, "no", "server")

    async def run() -> None:
        await hedged(lambda: fails(FailureKind.TIMEOUT, 0.1), lambda: fails(FailureKind.INTERNAL, 0.0), 0.01)

    with pytest.raises(RewardServerError) as raised:
        asyncio.run(run())
    assert raised.value.kind is FailureKind.TIMEOUT


def test_a_cancelled_caller_leaves_no_call_behind() -> None:
    async def run() -> int:
        servers = Servers(30.0, 30.0)
        client = RewardClient(servers, RetryPolicy(hedge_after_s=0.01))
        asking = asyncio.create_task(client.score(requests(1)))
        while len(servers.calls) < 2:
            await asyncio.sleep(0.01)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await asyncio.sleep(0.01)
        return servers.cancelled

    assert asyncio.run(run()) == 2


# --- the circuit ------------------------------------------------------------------------------------------------------


def test_dead_servers_are_not_asked_once_more_for_each_reply() -> None:
    """Without a circuit 20 replies would make 20 calls; three in a row open it for longer than this test lasts."""
    servers = Servers(*[FailureKind.TIMEOUT] * 100)
    results = ask(servers, 20, concurrency=1, retries=0, breaker_failures=3, breaker_pause_s=60)
    assert len(servers.calls) == 3
    failures = [result for result in results if isinstance(result, ScoreFailure)]
    assert len(failures) == 20
    assert [failure.kind for failure in failures[:4]] == [FailureKind.TIMEOUT] * 3 + [FailureKind.UNAVAILABLE]
    assert "the last 3 calls met no living server; the last: as told" in failures[-1].message


def test_after_the_pause_one_call_tries_and_closes_the_circuit() -> None:
    servers = Servers(*[FailureKind.UNAVAILABLE] * 2)
    results = ask(servers, 6, retries=8, backoff_s=0.1, breaker_failures=2, breaker_pause_s=0.05)
    assert sorted(qualities(results)) == [0, 1, 2, 3, 4, 5]


def test_a_try_that_fails_opens_the_circuit_again() -> None:
    async def run() -> None:
        circuit = Circuit(failures=1, pause_s=0.05)

        async def dead() -> None:
            raise RewardServerError(FailureKind.TIMEOUT, "late", "server")

        for expected in (RewardServerError, CircuitOpenError):
            with pytest.raises(expected):
                await circuit.guard(dead, "server")
        await asyncio.sleep(0.06)
        with pytest.raises(RewardServerError, match="late"):
            await circuit.guard(dead, "server")
        with pytest.raises(CircuitOpenError):
            await circuit.guard(dead, "server")

    asyncio.run(run())


def test_only_one_call_tries_a_half_open_circuit_and_a_cancelled_one_lets_the_next_try() -> None:
    async def run() -> None:
        circuit, hold = Circuit(failures=1, pause_s=0.0), asyncio.Event()

        async def dead() -> str:
            raise RewardServerError(FailureKind.TIMEOUT, "late", "server")

        async def slow() -> str:
            await hold.wait()
            return "answered"

        with pytest.raises(RewardServerError):
            await circuit.guard(dead, "server")
        trying = asyncio.create_task(circuit.guard(slow, "server"))
        await asyncio.sleep(0)
        with pytest.raises(CircuitOpenError):
            await circuit.guard(slow, "server")
        trying.cancel()
        await asyncio.gather(trying, return_exceptions=True)
        hold.set()
        assert await circuit.guard(slow, "server") == "answered"
        assert await circuit.guard(slow, "server") == "answered"

    asyncio.run(run())


@pytest.mark.parametrize("kind", [FailureKind.OVERLOADED, FailureKind.INVALID_REQUEST, FailureKind.INTERNAL])
def test_a_server_that_refuses_is_alive(kind: FailureKind) -> None:
    servers = Servers(*[kind] * 5)
    ask(servers, 10, concurrency=1, retries=0, breaker_failures=2, breaker_pause_s=60)
    assert len(servers.calls) == 10


def test_an_open_circuit_crosses_processes_as_it_is() -> None:
    error = pickle.loads(pickle.dumps(CircuitOpenError(FailureKind.UNAVAILABLE, "not asked", "server")))
    assert (type(error), error.kind, str(error)) == (
        CircuitOpenError,
        FailureKind.UNAVAILABLE,
        "server: not asked (unavailable)",
    )


# --- nothing changes by them ------------------------------------------------------------------------------------------

STEPS = st.sampled_from([0.0, 0.03, FailureKind.TIMEOUT, FailureKind.UNAVAILABLE, FailureKind.INTERNAL])


@settings(max_examples=40, deadline=None)
@given(
    script=st.lists(STEPS, max_size=8),
    count=st.integers(0, 6),
    per_call=st.integers(1, 4),
    hedge_after_s=st.sampled_from([0.0, 0.01]),
    breaker=st.sampled_from([0, 1, 3]),
)
def test_every_request_gets_its_own_score_or_a_failure(
    script: list[float | FailureKind], count: int, per_call: int, hedge_after_s: float, breaker: int
) -> None:
    policy = {"requests_per_call": per_call, "hedge_after_s": hedge_after_s, "breaker_failures": breaker}
    results = ask(Servers(*script), count, retries=2, breaker_pause_s=0.0, **policy)
    assert [result.request_id for result in results] == [f"r{i}" for i in range(count)]
    for i, result in enumerate(results):
        assert isinstance(result, ScoreFailure) or result.quality == i
    if not any(isinstance(step, FailureKind) for step in script):
        assert len(qualities(results)) == count


@pytest.mark.parametrize("policy", [{"hedge_after_s": -1}, {"breaker_failures": -1}, {"breaker_pause_s": -1}])
def test_an_impossible_policy_is_refused(policy: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="0 or more"):
        RetryPolicy(**policy)  # type: ignore[arg-type]
