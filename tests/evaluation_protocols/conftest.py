"""A real HTTP server that answers as a chat endpoint does, or fails as it is told to."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn
from fastapi import FastAPI
from scripted_endpoint import Endpoint


@pytest.fixture(scope="session")
def _server() -> Iterator[Endpoint]:
    endpoint = Endpoint()
    app = FastAPI()
    app.post("/v1/chat/completions", response_model=None)(endpoint.answer)
    app.get("/v1/models")(lambda: {"data": [{"id": name} for name in endpoint.models]})
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + 10
    while not server.started:
        assert time.monotonic() < until, "the server of the tests did not start"
        time.sleep(0.01)
    endpoint.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/v1"
    yield endpoint
    server.should_exit = True
    thread.join(10)


@pytest.fixture
def endpoint(_server: Endpoint) -> Endpoint:
    """The server, as new."""
    fresh = Endpoint(_server.url)
    for name in ("script", "calls", "tokens", "models", "open_calls", "most_open", "pause_s"):
        setattr(_server, name, getattr(fresh, name))
    return _server
