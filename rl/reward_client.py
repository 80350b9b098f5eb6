"""The reward servers as the synchronous loop sees them: started with the run, or reached at `servers.url`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack

from reward_servers.client import RetryPolicy, RewardClient
from reward_servers.protocol import TOKEN_VARIABLE, ScoreFailure, ScoreRequest, ScoreResult
from rl.config import RunConfig, ServersConfig
from rl.scoring import ScoringError
from rl.types import TurnTactics


class BlockingScorer:
    """A `RewardClient` behind plain calls. The client bounds every wait and every retry."""

    def __init__(self, client: RewardClient) -> None:
        self._client = client

    def score(self, requests: Sequence[ScoreRequest]) -> list[ScoreResult]:
        """One answer per request, in order; see `RewardClient.score`."""
        return self._client.score_sync(requests) if requests else []

    def versions(self) -> dict[str, str]:
        """Model -> version, as `Score.model_versions` has them; raises what `RewardClient.health` does."""
        return self._client.health_sync()

    def tag(self, replies: Sequence[str]) -> list[TurnTactics]:
        """Tactics of each sentence of each reply.

        Raises:
            ScoringError: a reply could not be tagged.
        """
        tactics = []
        for text, result in zip(replies, self._client.tag_sync(replies) if replies else [], strict=True):
            if isinstance(result, ScoreFailure):
                raise ScoringError(f"the turn {text[:60]!r} could not be tagged: {result.server}: {result.message}")
            tactics.append(result.sentence_tactics)
        return tactics


def token_of(servers: ServersConfig) -> str:
    """What the servers at `url` are shown: `servers.token`, or else the environment's."""
    return servers.token or os.environ.get(TOKEN_VARIABLE, "")


def start_scorer(config: RunConfig, on_exit: ExitStack) -> BlockingScorer:
    """Start the reward servers in this run's cluster, or connect to those at `servers.url`."""
    servers = config.servers
    policy = RetryPolicy(timeout_s=servers.timeout_s, retries=servers.retries)
    if servers.url:
        return BlockingScorer(RewardClient.over_http(servers.url, token_of(servers), policy))
    return BlockingScorer(_start_servers(servers, policy, on_exit))


def _start_servers(servers: ServersConfig, policy: RetryPolicy, on_exit: ExitStack) -> RewardClient:
    from reward_servers.serve import start_reward_servers, stop_reward_servers
    from reward_servers.service_config import SCORER_LOADER, DeploymentConfig, ServiceConfig, tagger_deployment

    service = ServiceConfig(
        tagger=tagger_deployment(servers.tagger, servers.replicas),
        scorer=DeploymentConfig(SCORER_LOADER, replicas=servers.replicas),
    )
    client = start_reward_servers(service, policy)
    on_exit.callback(stop_reward_servers, service.app_name)
    return client
