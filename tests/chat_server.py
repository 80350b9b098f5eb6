"""A real HTTP server in a thread, for tests that need an OpenAI-compatible endpoint."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI

START_S = 30


@contextmanager
def serving_chat(answer: Callable[..., Any], models: Callable[[], list[str]]) -> Iterator[str]:
    """`answer` takes the calls of /v1/chat/completions as a FastAPI route; yields the URL that ends in /v1."""
    app = FastAPI()
    app.post("/v1/chat/completions", response_model=None)(answer)
    app.get("/v1/models")(lambda: {"data": [{"id": name} for name in models()]})
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + START_S
    while not server.started:
        assert time.monotonic() < until, "the server of the tests did not start"
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/v1"
    finally:
        server.should_exit = True
        thread.join(10)
