"""A chat endpoint that judges as it is told to: by a function from the question to an answer."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response

from reward_servers.protocol import Dimension


@dataclass(frozen=True)
class Asked:
    """One question: which conversation (by the number in its text), whether the order is reversed, and the seed."""

    number: int
    is_reversed: bool
    seed: int


@dataclass
class JudgeServer:
    """`judge` gives the text of an answer, or a status to refuse the call with."""

    url: str = ""
    judge: Callable[[Asked], str | int] = lambda _: 500
    asked: list[Asked] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    open_calls: int = 0
    most_open: int = 0
    pause_s: float = 0.0

    async def answer(self, request: Request) -> Response:
        body = await request.json()
        asked = _asked(body)
        self.asked.append(asked)
        self.times.append(time.monotonic())
        self.tokens.add(request.headers.get("authorization", ""))
        self.open_calls += 1
        self.most_open = max(self.most_open, self.open_calls)
        await asyncio.sleep(self.pause_s)
        self.open_calls -= 1
        said = self.judge(asked)
        if isinstance(said, int):
            return JSONResponse({"error": "as told"}, said, headers={"Retry-After": "0"})
        return JSONResponse({"choices": [{"message": {"role": "assistant", "content": said}}]})


def as_json(ratings: Sequence[int]) -> str:
    return json.dumps({dimension.value: int(x) for dimension, x in zip(Dimension, ratings, strict=True)})


def _asked(body: dict[str, Any]) -> Asked:
    system, user = (message["content"] for message in body["messages"])
    first = system.index(f"- {Dimension.VALIDATING_EMOTIONS.value}:")
    last = system.index(f"- {Dimension.DISMISSING_EMOTIONS.value}:")
    number = re.search(r"case (\d+)", user)
    assert number is not None
    return Asked(int(number[1]), last < first, body["seed"])
