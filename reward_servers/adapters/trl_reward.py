"""The reward servers as a reward function of TRL's trainers.

    from reward_servers.adapters.trl_reward import reward          # servers at the variable RAPPORT_REWARD_URL
    trainer = GRPOTrainer(model, reward_funcs=reward, ...)

Works for conversational data sets (lists of messages) and for plain ones (strings).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dialogue.conversation import Message
from dialogue.thinking import strip_thinking
from reward_servers.adapters.from_environment import AdapterError, all_scored, client_at
from reward_servers.chat_text import read_exchange
from reward_servers.protocol import ScoreRequest

Text = str | Sequence[Message]


def reward(prompts: Sequence[Text], completions: Sequence[Text], **_: Any) -> list[float]:
    """The quality of each completion, from 1 (worst) to 5 (best), in order. Other columns of the batch are not used.

    Raises:
        AdapterError: a completion does not fit to its prompt, or nothing names the servers.
        RewardServerError: a completion could not be scored after all retries.
    """
    if len(prompts) != len(completions):
        raise AdapterError(f"{len(prompts)} prompts for {len(completions)} completions")
    requests = [_request(i, *pair) for i, pair in enumerate(zip(prompts, completions, strict=True))]
    return [score.quality for score in all_scored(client_at().score_sync(requests))]


def _request(i: int, prompt: Text, completion: Text) -> ScoreRequest:
    name = f"completion {i}"
    if isinstance(prompt, str) and isinstance(completion, str):
        exchange = read_exchange(prompt + completion, prompt, name)
        return ScoreRequest(name, exchange.history, exchange.response)
    if isinstance(prompt, str) or isinstance(completion, str):
        raise AdapterError(f"{name}: prompt and completion must both be texts or both be messages")
    said = [_text(message, name) for message in completion if message["role"] == "assistant"]
    if len(said) != 1:
        raise AdapterError(f"{name} has {len(said)} messages of the assistant; one reply is scored at a time")
    history = tuple(Message(role=m["role"], content=_text(m, name)) for m in prompt if m["role"] != "system")
    return ScoreRequest(name, history, strip_thinking(said[0]))


def _text(message: Message, name: str) -> str:
    content: object = message["content"]
    if not isinstance(content, str):
        raise AdapterError(f"{name}: the content of a message is {content!r:.60}, but must be a text")
    return content
