"""A third model server says what `quality` is; the application asks it beside the tagger and the scorer."""

from __future__ import annotations

from reward_servers.client import RewardClient
from reward_servers.protocol import FailureKind, Score, ScoreFailure, ScoreRequest
from reward_servers.serve import start_reward_servers, stop_reward_servers
from reward_servers.service_config import QUALITY, DeploymentConfig, ServiceConfig

from .conftest import MODELS
from .service_models import POISON

HISTORY = ({"role": "user", "content": "The bus left without me."},)


def test_quality_comes_from_its_own_deployment_and_fails_alone(cluster: None) -> None:
    small = {"num_cpus": 0.25, "max_batch_size": 8}
    config = ServiceConfig(
        app_name="test-quality",
        start_timeout_s=300,
        tagger=DeploymentConfig(f"{MODELS}:SeededTagger", **small),  # type: ignore[arg-type]
        scorer=DeploymentConfig(f"{MODELS}:SeededScorer", **small),  # type: ignore[arg-type]
        quality=DeploymentConfig(f"{MODELS}:WordCount", **small),  # type: ignore[arg-type]
    )
    start_reward_servers(config)
    try:
        client = RewardClient.in_cluster(config.app_name)
        texts = ("Where were you going?", "Oh dear.", f"{POISON} in the quality")
        good, short, bad = client.score_sync([ScoreRequest(t, HISTORY, t) for t in texts])  # type: ignore[arg-type]
        assert isinstance(good, Score) and isinstance(short, Score)
        assert (good.quality, short.quality) == (4.0, 2.0)
        assert good.quality != good.empathy.aggregated and good.model_versions[QUALITY] == "word-count-1"
        assert isinstance(bad, ScoreFailure) and bad.kind is FailureKind.INTERNAL
    finally:
        stop_reward_servers(config.app_name)
