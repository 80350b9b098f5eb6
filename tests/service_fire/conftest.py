"""A cluster and a service of light models, over handles and HTTP, and a load whose every answer is checked."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest

os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "60")  # 5 s is too short for a busy machine

import ray
from ray import serve
from service.conftest import free_port, start_ray

from reward_servers.client import RetryPolicy, RewardClient
from reward_servers.protocol import Score, ScoreFailure, ScoreRequest, ScoreResult
from reward_servers.serve import start_reward_servers, stop_reward_servers
from reward_servers.service_config import SCORER, DeploymentConfig, HttpConfig, ServiceConfig

from . import light_models
from .light_models import empathy_of

MODELS = light_models.__name__
CACHE_BYTES = 2 * 2**20  # about 3,000 answers: full soon
TOKEN = "a-token-of-the-tests"


def light_config(app_name: str, scorer: str, http: HttpConfig | None = None, **of_scorer: object) -> ServiceConfig:
    """`scorer` is the version, see light_models."""
    loader = f"{MODELS}:LightScorer"
    return ServiceConfig(
        app_name=app_name,
        start_timeout_s=300,
        tagger=DeploymentConfig(f"{MODELS}:LightTagger", num_cpus=0.1, cache_bytes=CACHE_BYTES),
        scorer=DeploymentConfig(loader, scorer, num_cpus=0.1, cache_bytes=CACHE_BYTES, **of_scorer),  # type: ignore[arg-type]
        http=http,
    )


@pytest.fixture(scope="package")
def cluster() -> Iterator[None]:
    here = Path(__file__)
    start_ray(os.pathsep.join((str(here.parents[2]), str(here.parents[1]))))
    yield
    serve.shutdown()
    ray.shutdown()


@pytest.fixture(scope="package")
def service(cluster: None) -> Iterator[ServiceConfig]:
    config = light_config("fire", "a-0.01", HttpConfig(port=free_port(), token=TOKEN))
    start_reward_servers(config)
    yield config
    stop_reward_servers(config.app_name)


def by_handle(config: ServiceConfig, **policy: float) -> RewardClient:
    return RewardClient.in_cluster(config.app_name, RetryPolicy(**policy))  # type: ignore[arg-type]


def by_http(config: ServiceConfig, **policy: float) -> RewardClient:
    assert config.http is not None
    url = f"http://127.0.0.1:{config.http.port}"
    return RewardClient.over_http(url, TOKEN, RetryPolicy(**policy))  # type: ignore[arg-type]


@dataclass
class Load:
    """Asks and asks, each reply a new one, and keeps when which answer came."""

    answers: list[tuple[float, ScoreRequest, ScoreResult]] = field(default_factory=list)
    asked: int = 0

    async def ask(self, client: RewardClient, count: int = 1) -> None:
        """One call of `count` replies."""
        requests = []
        for _ in range(count):
            self.asked += 1
            history = ({"role": "user", "content": f"I am number {self.asked}."},)
            requests.append(ScoreRequest(str(self.asked), history, f"Hello {self.asked}. How are you?"))  # type: ignore[arg-type]
        results = await client.score(requests)
        now = time.monotonic()
        self.answers += [(now, request, result) for request, result in zip(requests, results, strict=True)]

    @asynccontextmanager
    async def of(self, *clients: RewardClient, at_once: int = 3) -> AsyncIterator[None]:
        """`at_once` calls of each client under way inside the `with`; all are answered when it ends."""
        stop = asyncio.Event()

        async def keep_asking(client: RewardClient) -> None:
            while not stop.is_set():
                failures = len(self.failures)
                await self.ask(client)
                if len(self.failures) > failures:
                    await asyncio.sleep(0.1)  # a server that is gone refuses faster than any test can use

        tasks = [asyncio.create_task(keep_asking(client)) for client in clients for _ in range(at_once)]
        try:
            yield
        finally:
            stop.set()
            await asyncio.gather(*tasks)

    @property
    def failures(self) -> list[ScoreFailure]:
        return [result for _, _, result in self.answers if isinstance(result, ScoreFailure)]

    @property
    def scored(self) -> int:
        return len(self.answers) - len(self.failures)

    def check(self) -> None:
        """One answer for each request; each score is that of the version that it names."""
        assert len(self.answers) == self.asked
        for _, request, result in self.answers:
            assert result.request_id == request.id
            if isinstance(result, Score):
                assert result.empathy == empathy_of(result.model_versions[SCORER], request)

    def scored_since(self, moment: float) -> list[float]:
        """Seconds after `moment` at which each later score came."""
        return sorted(at - moment for at, _, result in self.answers if at > moment and isinstance(result, Score))

    def longest_gap_s(self, moment: float) -> float:
        """Longest time without a score since `moment`."""
        times = [0.0, *self.scored_since(moment)]
        return max((later - earlier for earlier, later in pairwise(times)), default=float("inf"))


async def until(condition: Callable[[], object], what: str, limit_s: float = 120.0) -> None:
    deadline = time.monotonic() + limit_s
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < deadline, f"{what} did not happen in {limit_s} s"
        await asyncio.sleep(0.1)


def serve_actors(name: str) -> list[int]:
    """Process ids of the living actors of this test's own cluster with `name` in their name."""
    from ray._private.state import actors

    return [actor["Pid"] for actor in actors().values() if actor["State"] == "ALIVE" and name in actor["Name"]]
