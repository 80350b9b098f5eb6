"""An hour's load in minutes: the processes of the service take no more and no more memory.

An hour of a trainer is here 60,000 replies: a GRPO step of 64 prompts with 8 replies each every 30 s. They go in calls
of 16, half by handle and half over HTTP, each reply a new one, so that the kept answers are full long before the end.
"""

from __future__ import annotations

import asyncio
import time

import psutil
import pytest

from reward_servers.service_config import ServiceConfig

from .conftest import Load, by_handle, by_http, serve_actors

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

REPLIES = 60_000
PER_CALL = 16
PARTS = 10
SETTLED = 4  # parts after which nothing may grow
ROOM = 1.05  # allocators breathe


def resident_mib(config: ServiceConfig) -> dict[str, float]:
    """MiB of each process: the replicas of the application, the HTTP proxy, the controller."""
    named = {"proxy": "SERVE_PROXY_ACTOR", "controller": "SERVE_CONTROLLER_ACTOR"}
    named |= {name: f"{config.app_name}#{name}#" for name in ("gateway", "tactic-tagger", "empathy-scorer")}
    return {
        name: sum(psutil.Process(pid).memory_info().rss for pid in serve_actors(pattern)) / 2**20
        for name, pattern in named.items()
    }


def test_memory_levels_off(service: ServiceConfig) -> None:
    load, taken = Load(), [resident_mib(service)]
    policy = {"requests_per_call": PER_CALL, "concurrency": 4, "timeout_s": 60}
    clients = by_handle(service, **policy), by_http(service, **policy)

    async def part() -> None:
        share = REPLIES // PARTS // 2
        await asyncio.gather(*(load.ask(client, share) for client in clients))
        assert load.failures == []
        load.answers.clear()

    began = time.monotonic()
    for _ in range(PARTS):
        asyncio.run(part())
        taken.append(resident_mib(service))
        print(f"\n{load.asked} replies, {time.monotonic() - began:.0f} s, MiB: {rounded(taken[-1])}", end="")
    for name, most in taken[SETTLED].items():
        assert taken[-1][name] < ROOM * most, f"{name} grew from {most:.0f} to {taken[-1][name]:.0f} MiB"


def rounded(sizes: dict[str, float]) -> str:
    return ", ".join(f"{name} {size:.0f}" for name, size in sizes.items())
