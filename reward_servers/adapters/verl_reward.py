"""The reward servers as verl's custom reward function.

    reward.custom_reward_function.path=<this file> reward.custom_reward_function.name=compute_score
    reward.custom_reward_function.reward_kwargs.url=http://127.0.0.1:8000      # or the variable RAPPORT_REWARD_URL

verl gives a reward function the reply but not the prompt. So each row of the data set must carry the conversation once
more, as chat messages in `extra_info["history"]`; system messages are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from dialogue.conversation import Message
from dialogue.tactics import tactics_of_counts
from dialogue.thinking import strip_thinking
from reward_servers.adapters.from_environment import AdapterError, all_scored, client_at
from reward_servers.protocol import ScoreRequest


async def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: object,
    extra_info: Mapping[str, Any] | None = None,
    url: str = "",
    token: str = "",
    **_: Any,
) -> dict[str, float]:
    """The quality of one reply as `score`, with the six dimensions and the number of tactics for verl's metrics.

    Raises:
        AdapterError: `extra_info` has no history, or nothing names the servers.
        RewardServerError: the reply could not be scored after all retries.
    """
    reply = strip_thinking(solution_str)
    request = ScoreRequest(f"a reply of {data_source!r}", _history(extra_info), reply)
    [score] = all_scored(await client_at(url, token).score([request]))
    tactics = len(tactics_of_counts(score.tactic_counts))
    return {"score": score.quality, **score.empathy.as_dict(), "distinct_tactics": float(tactics)}


def _history(extra_info: Mapping[str, Any] | None) -> tuple[Message, ...]:
    messages: Iterable[Any] | None = (extra_info or {}).get("history")
    if messages is None:
        raise AdapterError(
            'extra_info has no "history": give each row of the data set its conversation there, '
            'as a list of {"role", "content"}'
        )
    return tuple(
        {"role": str(message["role"]), "content": str(message["content"])}
        for message in messages
        if message["role"] != "system"
    )
