"""What a command's --model means: an address is a chat endpoint, anything else a Hugging Face folder."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from evaluation.chat_endpoint import open_endpoint
from evaluation.judge.pace import Pace
from evaluation.local_model import LocalModel
from evaluation.replies import ReplyModel
from reward_servers.client import RetryPolicy

TOKEN_VARIABLE = "RAPPORT_MODEL_TOKEN"
CACHE_FOLDER = "reply-cache"  # beside the result
ENDPOINT_TIMEOUT_S = 300.0  # of one call: a long answer of a large model takes minutes


class Engine(StrEnum):
    """What runs the model of a folder: one question at a time, or many at once."""

    TRANSFORMERS = "transformers"
    VLLM = "vllm"


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """A folder or URL, the model's name at that URL if it has several, and the bearer token if it asks for one.

    `thinking` switches a model's thinking block on or off where its chat template can; None leaves it as it is.
    `concurrency` bounds the calls of a URL in flight, `calls_per_minute` how many begin in a minute; None: no limit.
    """

    place: str
    name: str | None = None
    token: str = ""
    engine: Engine = Engine.TRANSFORMERS
    thinking: bool | None = None
    concurrency: int = 16
    calls_per_minute: float | None = None

    @property
    def is_endpoint(self) -> bool:
        return "://" in self.place

    @property
    def address(self) -> str:
        """What tells this model from another one of the same short name: its folder, or its URL and name there."""
        if self.is_endpoint:
            return f"{self.place} {self.name or ''}".rstrip()
        return str(Path(self.place).resolve())


def endpoint_choice(address: str, token: str = "") -> ModelChoice:
    """From `http://host:8000/v1/name`: what stands after `/v1/` is the model's name, which may have slashes.

    Without a name it is the server's only model.
    """
    url, version, name = address.partition("/v1/")
    return ModelChoice(url + version.rstrip("/"), name.strip("/") or None, token)


@asynccontextmanager
async def open_model(choice: ModelChoice) -> AsyncIterator[ReplyModel]:
    """The chosen model, ready to reply; errors as `open_endpoint`, `LocalModel` and `VllmModel`."""
    if choice.is_endpoint:
        policy = RetryPolicy(timeout_s=ENDPOINT_TIMEOUT_S, concurrency=choice.concurrency)
        pace = None if choice.calls_per_minute is None else Pace(choice.calls_per_minute)
        async with open_endpoint(choice.place, choice.name, choice.token, policy, pace, choice.thinking) as endpoint:
            yield endpoint
    elif choice.engine is Engine.TRANSFORMERS:
        yield LocalModel(Path(choice.place), choice.thinking)
    else:
        from evaluation.vllm_model import open_vllm  # vLLM takes seconds to import

        async with open_vllm(Path(choice.place), choice.thinking) as model:
            yield model
