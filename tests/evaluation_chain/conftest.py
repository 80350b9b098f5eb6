"""A real HTTP server whose answers the tests decide."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from chain_cases import AnsweringEndpoint
from chat_server import serving_chat


@pytest.fixture(scope="session")
def _answering_server() -> Iterator[AnsweringEndpoint]:
    endpoint = AnsweringEndpoint()
    with serving_chat(endpoint.respond, lambda: ["org/clever"]) as endpoint.url:
        yield endpoint


@pytest.fixture
def answering(_answering_server: AnsweringEndpoint) -> AnsweringEndpoint:
    """The server, as new."""
    _answering_server.calls = []
    _answering_server.answer = AnsweringEndpoint().answer
    return _answering_server
