"""What the service's own machinery costs and how it scales, with a scorer that takes a fixed time for each batch.

    python benchmarks/service_scaling.py                       # 1, 2 and 4 replicas, 0.2 s a batch of 8 replies
    python benchmarks/service_scaling.py --pause 0.1 --batches 80 --replicas 1 2

The scorer sleeps, so replicas do not compete for cores, and what is measured is the scheduler: batching, turns,
routing, transport. Everything comes from one run:
    direct    the scorer called in this process, batch after batch: the most that one replica can do
    handle    RewardClient.in_cluster at 1, 2, 4 replicas, kept busy; as a ratio to that many times one replica
    http      RewardClient.over_http at the first number of replicas, with a token
    alone     one call of one reply at a time: what a call takes beyond the scorer's pause, p50 and p99
Left out on purpose: real models (benchmarks/reward_service.py has them), several machines, GPUs.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import ray
from ray import serve

from dialogue.tactics import TACTICS, Tactic
from reward_servers.batching import ITEM_TOKENS, estimated_tokens
from reward_servers.client import RetryPolicy, RewardClient
from reward_servers.protocol import EmpathyScore, Score, ScoreRequest
from reward_servers.serve import start_reward_servers, stop_reward_servers
from reward_servers.service_config import DeploymentConfig, HttpConfig, ServiceConfig

TOKEN = "benchmark"
BATCH = 8  # replies
TOKENS = 32  # of each of them, as the service estimates
BATCHES_ASKED = 6  # in flight for each replica: enough that the line is never empty
LONE_CALLS = 60
HERE = "benchmarks.service_scaling"


class PausingScorer:
    """Takes a fixed time for a batch of any size. The folder's name is that time in seconds."""

    version = "pausing"

    def __init__(self, pause_s: float) -> None:
        self._pause_s = pause_s

    @classmethod
    def load(cls, folder: Path | None = None) -> PausingScorer:
        return cls(float(folder.name) if folder else 0.0)

    def score(self, requests: Sequence[ScoreRequest]) -> list[EmpathyScore]:
        time.sleep(self._pause_s)
        return [EmpathyScore((3.0,) * 6)] * len(requests)


class InstantTagger:
    """Finds nothing, at once."""

    version = "instant"

    @classmethod
    def load(cls, folder: Path | None = None) -> InstantTagger:
        return cls()

    def tag(self, replies: Sequence[Sequence[str]]) -> list[list[tuple[float, ...]]]:
        return [[(0.0,) * len(TACTICS) for _ in reply] for reply in replies]

    def decide(self, probabilities: Sequence[Sequence[float]]) -> tuple[tuple[Tactic, ...], ...]:
        return tuple(() for _ in probabilities)


@dataclass(frozen=True, slots=True)
class Rate:
    """Replies per second, and the seconds that each call took."""

    per_s: float
    seconds: Sequence[float]

    def __str__(self) -> str:
        p50, p99 = np.percentile(self.seconds, (50, 99))
        return f"{self.per_s:7.1f} replies/s   call p50 {1000 * p50:6.1f} ms   p99 {1000 * p99:6.1f} ms"


class Asker:
    """Makes calls whose replies nobody has asked about before, all of one size."""

    def __init__(self) -> None:
        self._asked = 0

    def requests(self, count: int) -> list[ScoreRequest]:
        first, self._asked = self._asked, self._asked + count
        made = [
            ScoreRequest(str(i), (), f"Reply {i}.".ljust(4 * (TOKENS - ITEM_TOKENS), "o"))
            for i in range(first, first + count)
        ]
        assert all(estimated_tokens(request.response) == TOKENS for request in made)
        return made

    async def rate(self, client: RewardClient, calls: int, at_once: int, replies: int) -> Rate:
        """`calls` calls of `replies` replies, `at_once` in flight."""
        left = iter(range(at_once))
        seconds: list[float] = []

        async def ask() -> None:
            for _ in left:
                began = time.perf_counter()
                results = await client.score(self.requests(replies))
                seconds.append(time.perf_counter() - began)
                if not all(isinstance(result, Score) for result in results):
                    raise SystemExit(f"a reply was not scored: {results}")

        await asyncio.gather(*(ask() for _ in range(at_once)))  # unmeasured: the first calls open connections
        left, seconds = iter(range(calls)), []
        began = time.perf_counter()
        await asyncio.gather(*(ask() for _ in range(at_once)))
        return Rate(calls * replies / (time.perf_counter() - began), seconds)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def config_of(replicas: int, pause_s: float, port: int) -> ServiceConfig:
    model = DeploymentConfig(f"{HERE}:InstantTagger", num_cpus=0.1)
    scorer = DeploymentConfig(
        f"{HERE}:PausingScorer", f"{pause_s}", replicas=replicas, num_cpus=0.1, max_batch_tokens=BATCH * TOKENS
    )
    http = HttpConfig(port=port, token=TOKEN)
    return ServiceConfig(app_name="benchmark-scaling", tagger=model, scorer=scorer, http=http, start_timeout_s=400)


def direct(asker: Asker, pause_s: float, batches: int) -> Rate:
    scorer = PausingScorer(pause_s)
    seconds = []
    for _ in range(batches):
        began = time.perf_counter()
        scorer.score(asker.requests(BATCH))
        seconds.append(time.perf_counter() - began)
    return Rate(batches * BATCH / sum(seconds), seconds)


def measure(asker: Asker, config: ServiceConfig, batches: int, with_http: bool) -> dict[str, Rate]:
    """Rates by name for one number of replicas; prints each."""
    replicas, policy = config.scorer.replicas, RetryPolicy(requests_per_call=BATCH, concurrency=64)
    assert config.http is not None
    clients = {"handle": start_reward_servers(config, policy)}
    if with_http:
        clients["http"] = RewardClient.over_http(f"http://127.0.0.1:{config.http.port}", TOKEN, policy)
    rates = {}
    for name, client in clients.items():
        busy = asker.rate(client, batches * replicas, BATCHES_ASKED * replicas, BATCH)
        rates[name] = asyncio.run(busy)
        print(f"{name:7s} {replicas} replicas, kept busy   {rates[name]}", flush=True)
        if with_http:
            rates[f"{name} alone"] = asyncio.run(asker.rate(client, LONE_CALLS, 1, 1))
            print(f"{name:7s} one reply at a time     {rates[f'{name} alone']}", flush=True)
    stop_reward_servers(config.app_name)
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--pause", type=float, default=0.2, help="seconds that the scorer takes for a batch")
    parser.add_argument("--batches", type=int, default=40, help="for each replica")
    arguments = parser.parse_args()
    asker, port = Asker(), free_port()
    alone = direct(asker, arguments.pause, arguments.batches)
    print(f"direct  in this process          {alone}", flush=True)
    root = str(Path(__file__).resolve().parents[1])
    environment = {"env_vars": {"PYTHONPATH": os.pathsep.join((root, os.environ.get("PYTHONPATH", "")))}}
    ray.init(address="local", num_cpus=8, include_dashboard=False, log_to_driver=False, runtime_env=environment)
    try:
        rates: dict[int, dict[str, Rate]] = {}
        for replicas in arguments.replicas:
            config = config_of(replicas, arguments.pause, port)
            rates[replicas] = measure(asker, config, arguments.batches, with_http=not rates)
    finally:
        serve.shutdown()
        ray.shutdown()
    report(alone, rates, arguments.pause)


def report(alone: Rate, rates: dict[int, dict[str, Rate]], pause_s: float) -> None:
    """The ratios."""
    fewest, first = next(iter(rates.items()))
    for replicas, each in rates.items():
        linear = each["handle"].per_s / (first["handle"].per_s * replicas / fewest)
        print(f"{replicas} replicas: {linear:.2f} of linear, {each['handle'].per_s / alone.per_s:.2f} x direct")
    print(f"http over handle, kept busy: {first['http'].per_s / first['handle'].per_s:.2f} x the replies per second")
    for name in ("handle", "http"):
        beyond = 1000 * (float(np.median(first[f"{name} alone"].seconds)) - pause_s)
        print(f"a lone call by {name}: {beyond:.1f} ms beyond the scorer's {1000 * pause_s:.0f} ms (p50)")


if __name__ == "__main__":
    main()
