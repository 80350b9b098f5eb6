"""What a command's --model means: an address is a chat endpoint, anything else a Hugging Face folder."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from evaluation.chat_endpoint import open_endpoint
from evaluation.local_model import LocalModel
from evaluation.replies import ReplyModel

TOKEN_VARIABLE = "RAPPORT_MODEL_TOKEN"
CACHE_FOLDER = "reply-cache"  # beside the result


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """A folder or URL, the model's name at that URL if it has several, and the bearer token if it asks for one."""

    place: str
    name: str | None = None
    token: str = ""


@asynccontextmanager
async def open_model(choice: ModelChoice) -> AsyncIterator[ReplyModel]:
    """The chosen model, ready to reply; errors as `open_endpoint` and `LocalModel`."""
    if "://" in choice.place:
        async with open_endpoint(choice.place, choice.name, choice.token) as endpoint:
            yield endpoint
    else:
        yield LocalModel(Path(choice.place))
