"""A chat endpoint that answers with an echo, or fails as it is told to."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response


@dataclass
class Endpoint:
    """`script` is what the next calls meet: a status, a delay in seconds, or a body; after it, echoes."""

    url: str = ""
    script: list[int | float | object] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    models: list[str] = field(default_factory=lambda: ["tiny"])
    open_calls: int = 0
    most_open: int = 0
    pause_s: float = 0.0

    async def answer(self, request: Request) -> Response:
        body = await request.json()
        self.calls.append(body)
        self.tokens.append(request.headers.get("authorization", ""))
        self.open_calls += 1
        self.most_open = max(self.most_open, self.open_calls)
        try:
            await asyncio.sleep(self.pause_s)
            return await self._next(body)
        finally:
            self.open_calls -= 1

    async def _next(self, body: dict[str, Any]) -> Response:
        step = self.script.pop(0) if self.script else None
        if isinstance(step, int):
            return JSONResponse({"error": "as told"}, step, headers={"Retry-After": "0"})
        if isinstance(step, float):
            await asyncio.sleep(step)
        elif step is not None:
            return step if isinstance(step, Response) else JSONResponse(step)
        said = f"you said {body['messages'][-1]['content']}"
        return JSONResponse({"choices": [{"message": {"role": "assistant", "content": said}}]})
