"""A real HTTP server in a thread, which judges as a test tells it to."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from chat_server import serving_chat
from judge_server import JudgeServer


@pytest.fixture
def judge_server() -> Iterator[JudgeServer]:
    scripted = JudgeServer()
    with serving_chat(scripted.answer, lambda: ["judge"]) as scripted.url:
        yield scripted
