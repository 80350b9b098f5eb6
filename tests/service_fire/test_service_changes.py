"""A service that is changed while it is used: updated without a failed request, scaled by its queue, shared fairly."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace

import pytest
from ray import serve

from reward_servers.client import RetryPolicy, RewardClient
from reward_servers.protocol import Score, ScoreRequest
from reward_servers.serve import start_reward_servers, stop_reward_servers
from reward_servers.service_config import SCORER, ScalingConfig, ServiceConfig, ServiceConfigError
from reward_servers.serving import update_service

from .conftest import Load, by_handle, by_http, light_config, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.mark.parametrize("version", ["b-0.01", "a-0.01"])
def test_a_rolling_update_fails_no_request(service: ServiceConfig, version: str) -> None:
    """Over handles and HTTP, without a single retry; the second case is the way back."""
    updated = replace(service, scorer=replace(service.scorer, folder=version))
    load, said = Load(), list[str]()

    async def update_under_load() -> int:
        async with load.of(by_handle(service, retries=0), by_http(service, retries=0)):
            await until(lambda: len(load.answers) >= 20, "the load")
            await asyncio.to_thread(update_service, updated, said.append)
            done = load.asked
            await until(lambda: len(load.answers) >= done + 40, "answers after the update")
        return done

    done = asyncio.run(update_under_load())
    load.check()
    assert load.failures == [] and said[-1].startswith("updated")
    versions = [result.model_versions[SCORER] for _, _, result in load.answers if isinstance(result, Score)]
    assert versions[0] != version and versions[-1] == version
    print(f"\n{done} of {load.asked} replies asked during the update, none failed")


def test_an_update_of_servers_that_do_not_run_starts_none(service: ServiceConfig) -> None:
    with pytest.raises(ServiceConfigError, match="start them without --update"):
        update_service(replace(service, app_name="another"), print)
    assert service.http is not None
    with pytest.raises(ServiceConfigError, match="cannot move"):
        update_service(replace(service, http=replace(service.http, port=1)), print)
    assert set(serve.status().applications) == {service.app_name}


@pytest.fixture(scope="module")
def slow(cluster: None) -> Iterator[ServiceConfig]:
    """One reply a batch (two would have more than 16 tokens), 0.1 s each; a replica holds two calls."""
    scaling = ScalingConfig(max_replicas=2, target_calls=1, look_back_s=10.5, upscale_delay_s=1, downscale_delay_s=5)
    config = light_config("slow", "s-0.1", max_batch_tokens=16, max_ongoing_calls=2, scaling=scaling)
    start_reward_servers(config)
    yield config
    stop_reward_servers(config.app_name)


def test_a_flood_of_one_caller_does_not_starve_another(slow: ServiceConfig) -> None:
    """Sixty calls of one, then one of another: that one is not answered after the sixty."""

    async def flood_and_ask() -> list[str]:
        order: list[str] = []
        policy = RetryPolicy(requests_per_call=1, concurrency=64)
        clients = {caller: RewardClient.in_cluster(slow.app_name, policy, caller) for caller in ("flood", "quiet")}

        async def ask(caller: str, i: int) -> None:
            [result] = await clients[caller].score([ScoreRequest(str(i), (), f"{caller} {i}.")])
            assert isinstance(result, Score), result
            order.append(caller)

        flood = [asyncio.create_task(ask("flood", i)) for i in range(60)]
        await until(lambda: order, "the first answer")
        await asyncio.gather(ask("quiet", 0), *flood)
        return order

    order = asyncio.run(flood_and_ask())
    assert order.count("flood") == 60
    assert order.index("quiet") < 30


def test_replicas_come_with_the_queue_and_go_without_it(slow: ServiceConfig) -> None:
    load = Load()

    async def load_and_rest() -> None:
        async with load.of(by_handle(slow, retries=0), at_once=12):
            await until(lambda: replicas(slow) == 2, "a second replica", 240)
            answered = len(load.answers)
            await until(lambda: len(load.answers) >= answered + 40, "answers of both")
        await until(lambda: replicas(slow) == 1, "one replica again", 240)
        await load.ask(by_handle(slow, retries=0))

    asyncio.run(load_and_rest())
    load.check()
    assert load.failures == []


def replicas(config: ServiceConfig) -> int:
    states = serve.status().applications[config.app_name].deployments[SCORER].replica_states
    return sum(count for state, count in states.items() if state == "RUNNING")
