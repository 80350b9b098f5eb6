"""A real HTTP server in a thread, which judges as a test tells it to."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn
from fastapi import FastAPI
from judge_server import JudgeServer


@pytest.fixture
def judge_server() -> Iterator[JudgeServer]:
    scripted = JudgeServer()
    app = FastAPI()
    app.post("/v1/chat/completions", response_model=None)(scripted.answer)
    app.get("/v1/models")(lambda: {"data": [{"id": "judge"}]})
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + 20
    while not server.started:
        assert time.monotonic() < until, "the server of the tests did not start"
        time.sleep(0.01)
    scripted.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/v1"
    yield scripted
    server.should_exit = True
    thread.join(10)
