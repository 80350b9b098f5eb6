"""The reward servers as the synchronous loop sees them: started with the run, or reached at `servers.url`."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Sequence
from contextlib import ExitStack
from typing import Any, TypeVar

from reward_servers.client import RetryPolicy, RewardClient
from reward_servers.protocol import ScoreFailure, ScoreRequest, ScoreResult
from rl.config import RunConfig, ServersConfig
from rl.scoring import ScoringError
from rl.types import TurnTactics

Answer = TypeVar("Answer")


class BlockingScorer:
    """A `RewardClient` behind plain calls, on an event loop in a thread of its own so that connections are kept."""

    def __init__(self, client: RewardClient, wait_s: float) -> None:
        self._client = client
        self._wait_s = wait_s
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="reward-client", daemon=True)
        self._thread.start()

    def score(self, requests: Sequence[ScoreRequest]) -> list[ScoreResult]:
        """One answer per request, in order; see `RewardClient.score`."""
        return self._wait(self._client.score(requests)) if requests else []

    def tag(self, replies: Sequence[str]) -> list[TurnTactics]:
        """Tactics of each sentence of each reply.

        Raises:
            ScoringError: a reply could not be tagged.
        """
        tagged = self._wait(self._client.tag(replies)) if replies else []
        for text, result in zip(replies, tagged, strict=True):
            if isinstance(result, ScoreFailure):
                raise ScoringError(f"the turn {text[:60]!r} could not be tagged: {result.server}: {result.message}")
        return [result.sentence_tactics for result in tagged if not isinstance(result, ScoreFailure)]

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)

    def _wait(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=self._wait_s)


def start_scorer(config: RunConfig, on_exit: ExitStack) -> BlockingScorer:
    """Start the reward servers in this run's cluster, or connect to those at `servers.url`."""
    servers = config.servers
    policy = RetryPolicy(timeout_s=servers.timeout_s, retries=servers.retries)
    if servers.url:
        client = RewardClient.over_http(servers.url, servers.token, policy)
    else:
        client = _start_servers(servers, policy, on_exit)
    # the client bounds its own waits; this last bound only catches a fault in the client itself
    scorer = BlockingScorer(client, wait_s=4 * servers.timeout_s * (servers.retries + 1))
    on_exit.callback(scorer.close)
    return scorer


def _start_servers(servers: ServersConfig, policy: RetryPolicy, on_exit: ExitStack) -> RewardClient:
    from reward_servers.serve import start_reward_servers, stop_reward_servers
    from reward_servers.service_config import SCORER_LOADER, TAGGER_LOADER, DeploymentConfig, ServiceConfig

    service = ServiceConfig(
        tagger=DeploymentConfig(TAGGER_LOADER, replicas=servers.replicas),
        scorer=DeploymentConfig(SCORER_LOADER, replicas=servers.replicas),
    )
    client = start_reward_servers(service, policy)
    on_exit.callback(stop_reward_servers, service.app_name)
    return client
