"""What the reward service costs over calling its models directly: replies scored per second, in one run.

    python benchmarks/reward_service.py                  # the shipped tagger and scorer
    python benchmarks/reward_service.py --replies 1024 --replicas 2

Three ways, on the same made-up replies and the same weights, one computing thread per process:
    direct   split, tag and score in this process, one after the other
    handle   RewardClient.in_cluster, 64 replies in flight
    http     RewardClient.over_http, 64 replies in flight, with a token
All three must give bitwise the same scores, or the script ends with an error; replicas keep no answers, or HTTP, which
comes last, would be answered from what the handle asked. The service runs the tagger and the
scorer in two processes at once, so with two free cores it can beat `direct`. Left out: several machines, GPUs.
"""

from __future__ import annotations

import argparse
import random
import socket
import time
from collections.abc import Callable

import ray
import torch
from ray import serve

from dialogue.conversation import Message
from dialogue.sentences import split_sentences
from reward_servers.client import RetryPolicy, RewardClient
from reward_servers.model_server import load_model
from reward_servers.protocol import Score, ScoreRequest, ScoreResult
from reward_servers.serve import start_reward_servers, stop_reward_servers
from reward_servers.service_config import SCORER_LOADER, TAGGER_LOADER, DeploymentConfig, HttpConfig, ServiceConfig

IN_FLIGHT = 64
PER_CALL = 8
TOKEN = "benchmark"
SENTENCES = (
    "That sounds like a very long week.",
    "I am sorry you had to carry this alone.",
    "What would feel like a small relief tonight?",
    "It makes sense that you are angry with him.",
    "You kept going even when nobody noticed.",
    "Maybe you could write down what you want to tell her before you call.",
    "Many people feel this way after a move.",
    "I wonder if part of you is also relieved.",
)


def made_up_requests(count: int) -> list[ScoreRequest]:
    """`count` different replies of two to five sentences."""
    rng = random.Random(0)
    history: tuple[Message, ...] = (
        {"role": "user", "content": "I moved for this job and now I dread every morning. I have nobody here to call."},
    )
    return [
        ScoreRequest(str(i), history, f"{' '.join(rng.sample(SENTENCES, rng.randint(2, 5)))} Number {i}.")
        for i in range(count)
    ]


def direct_scores(config: ServiceConfig) -> Callable[[list[ScoreRequest]], list[Score]]:
    """The models of the service, called in this process."""
    torch.set_num_threads(1)
    tagger, scorer = load_model(config.tagger), load_model(config.scorer)
    versions = {"tactic-tagger": tagger.version, "empathy-scorer": scorer.version}

    def score(requests: list[ScoreRequest]) -> list[Score]:
        sentences = [tuple(split_sentences(request.response)) for request in requests]
        tagged = tagger.tag(sentences)
        rows = [tuple(tuple(float(p) for p in row) for row in probabilities) for probabilities in tagged]
        decisions = [tagger.decide(probabilities) for probabilities in tagged]
        return [
            Score(request.id, cut, tactics, row, empathy, empathy.aggregated, versions)
            for request, cut, tactics, row, empathy in zip(
                requests, sentences, decisions, rows, scorer.score(requests), strict=True
            )
        ]

    return score


def measure(name: str, score: Callable[[list[ScoreRequest]], list], requests: list[ScoreRequest]) -> list[ScoreResult]:
    """Score everything once; print the rate. The first 64 are asked before, unmeasured."""
    score(requests[:IN_FLIGHT])
    began = time.perf_counter()
    results = score(requests)
    seconds = time.perf_counter() - began
    print(f"{name:8s} {len(requests) / seconds:8.1f} replies/s  ({seconds:.2f} s)", flush=True)
    return results


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replies", type=int, default=512)
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--tagger", default=TAGGER_LOADER, help="import path of a tagger class")
    parser.add_argument("--scorer", default=SCORER_LOADER, help="import path of a scorer class")
    arguments = parser.parse_args()
    config = ServiceConfig(
        app_name="benchmark-rewards",
        tagger=DeploymentConfig(arguments.tagger, replicas=arguments.replicas, num_cpus=0.5, cache_bytes=0),
        scorer=DeploymentConfig(arguments.scorer, replicas=arguments.replicas, num_cpus=0.5, cache_bytes=0),
        http=HttpConfig(port=free_port(), token=TOKEN),
    )
    requests = made_up_requests(arguments.replies)
    policy = RetryPolicy(concurrency=IN_FLIGHT // PER_CALL, requests_per_call=PER_CALL)
    wanted = measure("direct", direct_scores(config), requests)
    ray.init(address="local", num_cpus=8, include_dashboard=False, log_to_driver=False)
    try:
        client = start_reward_servers(config, policy)
        over_http = RewardClient.over_http(f"http://127.0.0.1:{config.http.port if config.http else 0}", TOKEN, policy)
        for name, each in (("handle", client), ("http", over_http)):
            if measure(name, each.score_sync, requests) != wanted:
                raise SystemExit(f"{name}: the scores are not those of the models called directly")
        stop_reward_servers(config.app_name)
    finally:
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main()
