"""What goes wrong: every request still gets one answer in bounded time, and the answer says what happened."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable

import pytest
from ray import serve

from reward_servers.client import RetryPolicy, RewardClient, RewardServerError, check_url
from reward_servers.protocol import FailureKind, Score, ScoreFailure, ScoreRequest
from reward_servers.serve import ServiceStartError, start_reward_servers
from reward_servers.service_config import GATEWAY, SCORER, DeploymentConfig, ServiceConfig

from . import service_broken
from .conftest import TOKEN, Reference, Service, free_port
from .service_models import GATE

pytestmark = pytest.mark.timeout(600)  # the first test also starts Ray and Serve, slowly on a busy machine

HISTORY = ({"role": "user", "content": "I failed the exam again."},)


def ask(i: int, response: str) -> ScoreRequest:
    return ScoreRequest(f"request-{i}", HISTORY, response)  # type: ignore[arg-type]


HELD = ask(99, f"{GATE}. You worked so hard for it.")


async def until(condition: Callable[[], object], what: str, limit_s: float = 90.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen in {limit_s} s"
        await asyncio.sleep(0.02)


def running_replicas(service: Service, deployment: str) -> int:
    status = serve.status().applications[service.config.app_name].deployments[deployment]
    return sum(n for state, n in status.replica_states.items() if state.value == "RUNNING")


def test_killing_the_replica_that_holds_a_request_loses_and_changes_nothing(
    service: Service, reference: Reference
) -> None:
    requests = [HELD, *(ask(i, f"That is reply number {i}. Shall we look at it together?") for i in range(40))]

    async def kill_mid_request() -> list[object]:
        client = service.client(timeout_s=60, retries=6, requests_per_call=4, concurrency=6)  # fits into the queue of 8
        scoring = asyncio.create_task(client.score(requests))
        await until(service.held, "the scorer holding a reply")
        [victim] = service.held()
        assert not scoring.done()
        os.kill(victim, signal.SIGKILL)
        service.open_gate()
        results = await scoring
        assert set(service.held()) > {victim}, "another replica took the reply that the dead one held"
        return list(results)

    began = time.monotonic()
    results = asyncio.run(kill_mid_request())
    print(f"41 replies scored, {time.monotonic() - began:.1f} s with a killed replica")
    assert results == [reference.of(request) for request in requests]


def test_a_scorer_that_hangs_is_a_timeout_of_the_scorer_in_bounded_time(service: Service) -> None:
    client = service.client(timeout_s=5.0, retries=1, backoff_s=0.1)
    began = time.monotonic()
    [failure] = client.score_sync([HELD])
    assert time.monotonic() - began < 60, "the gate stays shut; only the time-outs end this"
    assert isinstance(failure, ScoreFailure)
    assert (failure.kind, failure.server, failure.attempts) == (FailureKind.TIMEOUT, SCORER, 2)
    assert "within 4 s" in failure.message


def test_the_tagger_still_answers_while_the_scorer_hangs(service: Service) -> None:
    async def tag_while_held() -> object:
        held = asyncio.create_task(service.client(timeout_s=30).score([HELD]))
        await until(service.held, "the scorer holding a reply")
        [tagged] = await service.client(timeout_s=10).tag(["How are you now?"])
        assert not held.done()
        service.open_gate()
        [score] = await held
        assert isinstance(score, Score)
        return tagged

    assert not isinstance(asyncio.run(tag_while_held()), ScoreFailure)


def test_overload_is_told_after_the_retries_and_what_was_accepted_is_scored(service: Service) -> None:
    """The scorer holds 8 calls and lets 8 wait; of 32 at once at least 16 are turned away."""

    async def flood() -> list[object]:
        client = service.client(timeout_s=30, retries=1, backoff_s=0.1, requests_per_call=1, concurrency=64)
        requests = [HELD, *(ask(i, "I am here.") for i in range(31))]
        calls = [asyncio.create_task(client.score([request])) for request in requests]
        await until(lambda: sum(call.done() for call in calls) >= 8, "eight replies turned away twice")
        service.open_gate()
        return [result for call in calls for result in await call]

    results = asyncio.run(flood())
    failures = [result for result in results if isinstance(result, ScoreFailure)]
    assert len(results) == 32 and len(failures) >= 8
    assert len(results) - len(failures) >= 8
    for failure in failures:
        assert (failure.kind, failure.server, failure.attempts) == (FailureKind.OVERLOADED, SCORER, 2)
        assert "queue is full" in failure.message


def test_a_flood_of_one_caller_turns_only_that_caller_away(service: Service, reference: Reference) -> None:
    """The flood fills its own line behind the scorer; another caller still finds a place and is answered."""

    async def flood_and_ask() -> tuple[list[object], object]:
        policy = RetryPolicy(timeout_s=30, retries=0, requests_per_call=1, concurrency=64)
        flooding = RewardClient.in_cluster(service.config.app_name, policy, caller="flood")
        other = RewardClient.in_cluster(service.config.app_name, policy, caller="other")
        requests = [HELD, *(ask(i, "I am here.") for i in range(31))]
        flood = [asyncio.create_task(flooding.score([request])) for request in requests]
        await until(lambda: sum(call.done() for call in flood) >= 8, "the flood's line being full")
        quiet = asyncio.create_task(other.score([ask(50, "And I am another.")]))
        await until(lambda: sum(call.done() for call in flood) >= 12, "more of the flood being turned away")
        assert not quiet.done(), "it waits, and is not turned away"
        service.open_gate()
        return [result for call in flood for result in await call], (await quiet)[0]

    flooded, quiet = asyncio.run(flood_and_ask())
    assert quiet == reference.of(ask(50, "And I am another."))
    failures = [result for result in flooded if isinstance(result, ScoreFailure)]
    assert {failure.kind for failure in failures} == {FailureKind.OVERLOADED}
    assert "'flood'" in failures[0].message and 8 <= len(failures) <= 16


def test_waiting_through_an_overload_loses_nothing(service: Service, reference: Reference) -> None:
    requests = [ask(i, f"Reply {i}.") for i in range(64)]
    client = service.client(timeout_s=30, retries=8, requests_per_call=1, concurrency=64)
    assert client.score_sync(requests) == [reference.of(request) for request in requests]


def test_an_absent_application_is_unavailable_and_the_message_says_how_to_start_it(service: Service) -> None:
    client = RewardClient.in_cluster("no-such-app", RetryPolicy(retries=2, backoff_s=0.01))
    [failure] = client.score_sync([HELD])
    assert isinstance(failure, ScoreFailure)
    assert (failure.kind, failure.attempts) == (FailureKind.UNAVAILABLE, 3)
    assert "no-such-app" in failure.server and "start_reward_servers" in failure.message


def test_a_killed_gateway_is_replaced_and_its_callers_answered(service: Service, reference: Reference) -> None:
    async def kill_gateway() -> list[object]:
        client = service.client(timeout_s=60, retries=6, requests_per_call=2)
        [gateway] = [actor for actor in _serve_actors() if f"#{GATEWAY}#" in actor["name"]]
        scoring = asyncio.create_task(client.score([HELD, ask(0, "First."), ask(1, "Second.")]))
        await until(service.held, "the scorer holding a reply")
        os.kill(gateway["pid"], signal.SIGKILL)
        service.open_gate()
        return list(await scoring)

    assert asyncio.run(kill_gateway()) == [reference.of(r) for r in (HELD, ask(0, "First."), ask(1, "Second."))]


def _serve_actors() -> list[dict]:
    from ray._private.state import actors

    return [{"name": actor["Name"], "pid": actor["Pid"]} for actor in actors().values() if actor["State"] == "ALIVE"]


def test_a_model_that_does_not_load_is_told_with_its_root_cause(service: Service) -> None:
    broken = DeploymentConfig(f"{service_broken.__name__}:BrokenModel", "/nowhere", num_cpus=0.1)
    config = ServiceConfig(app_name="broken", tagger=broken, scorer=broken, start_timeout_s=120)
    try:
        with pytest.raises(ServiceStartError, match="no weights in /nowhere"):
            start_reward_servers(config)
    finally:
        serve.delete("broken")


@pytest.mark.slow
def test_a_service_too_large_for_the_cluster_says_what_is_missing(service: Service) -> None:
    large = DeploymentConfig(f"{service_broken.__name__}:BrokenModel", num_cpus=1000)
    config = ServiceConfig(app_name="too-large", tagger=large, scorer=large, start_timeout_s=3)
    try:
        with pytest.raises(ServiceStartError, match=r"need 2000\.1 CPUs"):
            start_reward_servers(config)
    finally:
        serve.delete("too-large")


def test_a_refused_url_is_unavailable_with_and_without_ray() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    [failure] = RewardClient.over_http(url, TOKEN, RetryPolicy(retries=1, backoff_s=0.01)).score_sync([HELD])
    assert isinstance(failure, ScoreFailure)
    assert (failure.kind, failure.server, failure.attempts) == (FailureKind.UNAVAILABLE, url, 2)
    with pytest.raises(RewardServerError, match="Is it running, and is the URL right") as refused:
        check_url(url, TOKEN, timeout_s=2)
    assert refused.value.kind is FailureKind.UNAVAILABLE
