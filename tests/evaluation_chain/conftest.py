"""A real HTTP server whose answers the tests decide."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn
from chain_cases import AnsweringEndpoint
from fastapi import FastAPI


@pytest.fixture(scope="session")
def _answering_server() -> Iterator[AnsweringEndpoint]:
    endpoint = AnsweringEndpoint()
    app = FastAPI()
    app.post("/v1/chat/completions", response_model=None)(endpoint.respond)
    app.get("/v1/models")(lambda: {"data": [{"id": "org/clever"}]})
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + 30
    while not server.started:
        assert time.monotonic() < until, "the server of the tests did not start"
        time.sleep(0.01)
    endpoint.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/v1"
    yield endpoint
    server.should_exit = True
    thread.join(10)


@pytest.fixture
def answering(_answering_server: AnsweringEndpoint) -> AnsweringEndpoint:
    """The server, as new."""
    _answering_server.calls = []
    _answering_server.answer = AnsweringEndpoint().answer
    return _answering_server
