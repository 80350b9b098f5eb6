"""A real HTTP server that answers as a chat endpoint does, or fails as it is told to."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from chat_server import serving_chat
from scripted_endpoint import Endpoint


@pytest.fixture(scope="session")
def _server() -> Iterator[Endpoint]:
    endpoint = Endpoint()
    with serving_chat(endpoint.answer, lambda: endpoint.models) as endpoint.url:
        yield endpoint


@pytest.fixture
def endpoint(_server: Endpoint) -> Endpoint:
    """The server, as new."""
    fresh = Endpoint(_server.url)
    for name in ("script", "calls", "tokens", "models", "open_calls", "most_open", "pause_s"):
        setattr(_server, name, getattr(fresh, name))
    return _server
