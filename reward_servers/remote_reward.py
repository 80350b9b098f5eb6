"""`POST /get_reward` as OpenRLHF's remote reward model and trainers derived from it call it.

    {"query": [prompt and reply, ...], "prompts": [prompt, ...], "labels": [...]}
      -> {"rewards": [...], "scores": [...], "extra_logs": {name: [...]}}

Older versions send `query` alone. `labels` are not used. `rewards` is the quality Q of each reply, `scores` the same
moved to [0, 1] and kept there, which dynamic sampling filters by. The form has no place for the failure of one reply,
so one that cannot be scored fails the whole call with a status that says why: OpenRLHF asks again, and then stops.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dialogue.tactics import tactics_of_counts
from reward_servers.chat_text import read_exchange
from reward_servers.failures import RewardServerError
from reward_servers.protocol import Dimension, ScoreFailure, ScoreRequest, ScoreResult
from reward_servers.wire import WireError, body_list, body_texts

_OTHERS = ("prompts", "labels")
_LOWEST, _HIGHEST = 1.0, 5.0


def decode_queries(body: dict[str, Any]) -> list[ScoreRequest]:
    """The replies of a call; `id` is the place in `query`.

    Raises:
        WireError: a key is missing or unknown, the lists differ in length, or a text cannot be read.
    """
    queries = body_texts(body_list(body, "query", others=_OTHERS), "query")
    prompts: Sequence[str | None] = [None] * len(queries)
    if body.get("prompts") is not None:
        prompts = body_texts(body["prompts"], "prompts")
    if len(prompts) != len(queries):
        raise WireError(f"{len(prompts)} prompts for {len(queries)} queries")
    requests = []
    for i, (query, prompt) in enumerate(zip(queries, prompts, strict=True)):
        exchange = read_exchange(query, prompt, f"query[{i}]")
        requests.append(ScoreRequest(f"query[{i}]", exchange.history, exchange.response))
    return requests


def encode_rewards(results: Sequence[ScoreResult]) -> dict[str, Any]:
    """The answer of a call whose replies all have a score.

    Raises:
        RewardServerError: one has none; of several, one that will not go away by asking again.
    """
    failures = [result for result in results if isinstance(result, ScoreFailure)]
    if failures:
        first = min(failures, key=lambda failure: failure.kind.retryable)
        message = f"{first.request_id}: {first.message} ({len(failures)} of {len(results)} replies have no score)"
        raise RewardServerError(first.kind, message, first.server)
    scores = [result for result in results if not isinstance(result, ScoreFailure)]
    rewards = [score.quality for score in scores]
    logs: dict[str, list[float]] = {
        dimension.value: [score.empathy.dimensions[k] for score in scores] for k, dimension in enumerate(Dimension)
    }
    logs["distinct_tactics"] = [float(len(tactics_of_counts(score.tactic_counts))) for score in scores]
    return {
        "rewards": rewards,
        "scores": [min(1.0, max(0.0, (reward - _LOWEST) / (_HIGHEST - _LOWEST))) for reward in rewards],
        "extra_logs": logs,
    }
