"""Kill what serves, under load: no wrong score, no request without an answer, and it comes back by itself."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest
from ray import serve
from ray.serve.schema import ApplicationStatus

from reward_servers.client import RewardClient
from reward_servers.service_config import GATEWAY, SCORER, ServiceConfig

from .conftest import Load, by_handle, by_http, serve_actors, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PROXY = "SERVE_PROXY_ACTOR"
CONTROLLER = "SERVE_CONTROLLER_ACTOR"
WARM = 20  # answers before the kill
PATIENT = {"timeout_s": 20.0, "retries": 30, "max_backoff_s": 3.0}


async def kill_under_load(service: ServiceConfig, name: str, *clients: RewardClient) -> tuple[Load, float]:
    """The load and the moment of the kill; goes on until every client's calls are answered again and a new one runs."""
    load = Load()
    async with load.of(*clients):
        await until(lambda: load.scored >= WARM, "the load")
        [victim] = serve_actors(name)
        killed = time.monotonic()
        os.kill(victim, signal.SIGKILL)
        await until(lambda: [pid for pid in serve_actors(name) if pid != victim], f"another {name}")
        back = load.scored
        await until(lambda: load.scored >= back + 2 * WARM, "scores after the kill")
    load.check()
    return load, killed


@pytest.mark.parametrize("victim", [f"#{SCORER}#", f"#{GATEWAY}#", PROXY, CONTROLLER])
def test_a_patient_client_loses_nothing(service: ServiceConfig, victim: str) -> None:
    clients = by_handle(service, **PATIENT), by_http(service, **PATIENT)
    load, killed = asyncio.run(kill_under_load(service, victim, *clients))
    print(f"\nkilled {victim}: {load.asked} scored, longest time without a score {load.longest_gap_s(killed):.1f} s")
    assert load.failures == []


def test_a_client_that_does_not_retry_is_told_of_every_reply_that_was_lost(service: ServiceConfig) -> None:
    load, _ = asyncio.run(kill_under_load(service, PROXY, by_http(service, timeout_s=20, retries=0)))
    assert load.failures, "what was under way is lost, and said to be"
    assert all(failure.kind.retryable and failure.message for failure in load.failures)


def test_handles_do_not_notice_that_the_controller_is_gone_and_it_manages_again(service: ServiceConfig) -> None:
    """Without retries: calls by handle do not pass the controller. Then a replica is killed, and replaced."""
    load, killed = asyncio.run(kill_under_load(service, CONTROLLER, by_handle(service, timeout_s=20, retries=0)))
    assert load.failures == []
    asyncio.run(until(lambda: _status(service) is ApplicationStatus.RUNNING, "the controller's answer"))
    print(f"\nthe controller answers {time.monotonic() - killed:.1f} s after it was killed")
    load, _ = asyncio.run(kill_under_load(service, f"#{SCORER}#", by_handle(service, **PATIENT)))
    assert load.failures == []


def _status(service: ServiceConfig) -> ApplicationStatus:
    return serve.status().applications[service.app_name].status
