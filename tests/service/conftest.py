"""One Ray cluster and one running application for the tests of this folder."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 would starve the replicas beside other work
os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "60")  # 5 s is too short for a busy machine

import ray
from ray import serve

from dialogue.sentences import split_sentences
from reward_servers.client import RetryPolicy, RewardClient
from reward_servers.protocol import Score, ScoreRequest
from reward_servers.serve import SCORER, TAGGER, start_reward_servers, stop_reward_servers
from reward_servers.service_config import DeploymentConfig, HttpConfig, LimitsConfig, ServiceConfig

from . import service_models

TOKEN = "a-token-of-the-tests"
MODELS = service_models.__name__


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@dataclass(frozen=True)
class Service:
    """The running application."""

    config: ServiceConfig
    gate: Path  # folder of the scorer, see service_models.GATE

    @property
    def url(self) -> str:
        assert self.config.http is not None
        return f"http://127.0.0.1:{self.config.http.port}"

    def client(self, **policy: float) -> RewardClient:
        return RewardClient.in_cluster(self.config.app_name, RetryPolicy(**policy))  # type: ignore[arg-type]

    def held(self) -> list[int]:
        """Process ids of the scorer replicas that hold a reply at the gate."""
        return [int(path.name.removeprefix("held-")) for path in self.gate.glob("held-*")]

    def open_gate(self) -> None:
        (self.gate / "open").touch()

    def close_gate(self) -> None:
        for path in self.gate.iterdir():
            path.unlink()


class Reference:
    """The same models called directly, in the process of the test."""

    def __init__(self) -> None:
        self.tagger = service_models.SeededTagger.load()
        self.scorer = service_models.SeededScorer.load()
        self.score = cache(self._score)

    def _score(self, request_id: str, history: tuple[tuple[str, str], ...], response: str) -> Score:
        messages = tuple({"role": role, "content": content} for role, content in history)
        sentences = tuple(split_sentences(response))
        rows = self.tagger.tag([sentences])[0] if sentences else ()
        [empathy] = self.scorer.score([ScoreRequest(request_id, messages, response)])  # type: ignore[arg-type]
        probabilities = tuple(tuple(float(p) for p in row) for row in rows)
        versions = {TAGGER: self.tagger.version, SCORER: self.scorer.version}
        tactics = self.tagger.decide(rows)  # type: ignore[arg-type]
        return Score(request_id, sentences, tactics, probabilities, empathy, empathy.aggregated, versions)

    def of(self, request: ScoreRequest) -> Score:
        return self.score(request.id, tuple((m["role"], m["content"]) for m in request.history), request.response)


@pytest.fixture(scope="package")
def reference() -> Reference:
    return Reference()


def start_ray(python_path: str) -> None:
    """Start a cluster of our own. Ray gives its node 30 s, which a busy machine may exceed: then start it again."""
    ray.shutdown()  # another folder's tests may have left theirs connected
    for attempt in range(3):
        try:
            ray.init(
                address="local",
                num_cpus=8,
                include_dashboard=False,
                log_to_driver=False,
                namespace="test-service",
                runtime_env={"env_vars": {"PYTHONPATH": python_path}},
            )
            return
        except Exception as error:
            if attempt == 2 or "timed out during startup" not in str(error):
                raise
            ray.shutdown()


@pytest.fixture(scope="package")
def cluster() -> Iterator[None]:
    here = Path(__file__)
    paths = os.pathsep.join((str(here.parents[2]), str(here.parents[MODELS.count(".")])))  # the workers import both
    start_ray(paths)
    yield
    serve.shutdown()
    ray.shutdown()


@pytest.fixture(scope="package")
def _running(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    gate = tmp_path_factory.mktemp("gate")
    config = ServiceConfig(
        app_name="test-rewards",
        start_timeout_s=300,
        tagger=DeploymentConfig(f"{MODELS}:SeededTagger", num_cpus=0.5),
        scorer=DeploymentConfig(
            f"{MODELS}:SeededScorer",
            str(gate),
            num_cpus=0.5,
            max_ongoing_calls=8,
            max_queued_calls=8,
            max_batch_tokens=256,
            cache_bytes=0,  # the tests of faults hold the same reply at the gate again and again
        ),
        http=HttpConfig(port=free_port(), token=TOKEN, max_body_bytes=200_000),
        limits=LimitsConfig(max_response_chars=500, max_requests_per_call=64),
    )
    start_reward_servers(config)
    yield Service(config, gate)
    stop_reward_servers(config.app_name)


@pytest.fixture
def service(_running: Service) -> Iterator[Service]:
    """The running application with an empty gate folder; no test leaves a reply waiting for the next one."""
    _running.close_gate()
    yield _running
    if _running.held():
        _running.open_gate()
        [score] = _running.client().score_sync([ScoreRequest("after", (), "The model thread is free again.")])
        assert isinstance(score, Score), score
