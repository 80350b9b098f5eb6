"""What the adapters share: a client of the reward servers that the environment names, and no number for a failure."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache

from reward_servers.client import RetryPolicy, RewardClient
from reward_servers.failures import RewardServerError
from reward_servers.protocol import TOKEN_VARIABLE, Score, ScoreFailure, ScoreResult

URL_VARIABLE = "RAPPORT_REWARD_URL"
# Trainers that call for one reply at a time have a batch of calls open: the servers batch them again.
_POLICY = RetryPolicy(concurrency=64)


class AdapterError(ValueError):
    """A trainer's call that cannot be scored as it stands. The message says what to change."""


def client_at(url: str = "", token: str = "") -> RewardClient:
    """A client of the servers at `url`, else of those at RAPPORT_REWARD_URL, with the token given in the same way.

    Raises:
        AdapterError: neither names a server.
        ValueError: what is named is no URL.
    """
    url = url or os.environ.get(URL_VARIABLE, "")
    if not url:
        raise AdapterError(f"which reward servers? Set {URL_VARIABLE}, for example to http://127.0.0.1:8000")
    return _client(url, token or os.environ.get(TOKEN_VARIABLE, ""))


@cache
def _client(url: str, token: str) -> RewardClient:
    """One for all calls, so that its bound on calls in flight holds for all of them together."""
    return RewardClient.over_http(url, token, _POLICY)


def all_scored(results: Sequence[ScoreResult]) -> list[Score]:
    """The scores.

    Raises:
        RewardServerError: one of the replies has none. A trainer would take any number for a judgement of the reply.
    """
    for result in results:
        if isinstance(result, ScoreFailure):
            message = f"no score for {result.request_id} after {result.attempts} calls: {result.message}"
            raise RewardServerError(result.kind, message, result.server)
    return [result for result in results if isinstance(result, Score)]
