"""What the adapters refuse before a server is asked; tests/service_http2/test_running_service.py has the scores."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from reward_servers.adapters import trl_reward, verl_reward
from reward_servers.adapters.from_environment import URL_VARIABLE, AdapterError, all_scored, client_at
from reward_servers.failures import RewardServerError
from reward_servers.protocol import TOKEN_VARIABLE, FailureKind, ScoreFailure, ScoreRequest
from reward_servers.wire import WireError

SEEKER = {"role": "user", "content": "I am tired."}
SAID = [{"role": "assistant", "content": "Rest."}]


@pytest.fixture(autouse=True)
def _nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(URL_VARIABLE, "http://127.0.0.1:9")


def test_the_variable_that_names_the_servers_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(URL_VARIABLE)
    with pytest.raises(AdapterError, match=URL_VARIABLE):
        client_at()
    assert client_at("http://127.0.0.1:8000").server == "http://127.0.0.1:8000"


def test_one_client_serves_all_calls_to_a_server() -> None:
    assert client_at() is client_at()


@pytest.mark.parametrize(
    ("prompts", "completions", "complaint"),
    [
        (["a"], [], "1 prompts for 0 completions"),
        (["a"], [SAID], "both be texts or both be messages"),
        ([[SEEKER]], ["Rest."], "both be texts or both be messages"),
        ([[SEEKER]], [[*SAID, {"role": "tool", "content": "x"}, *SAID]], "2 messages of the assistant"),
        ([[SEEKER]], [[]], "0 messages of the assistant"),
        ([[SEEKER]], [[{"role": "assistant", "content": [{"type": "text", "text": "Rest."}]}]], "must be a text"),
    ],
)
def test_trl_is_told_what_does_not_fit(prompts: Any, completions: Any, complaint: str) -> None:
    with pytest.raises(AdapterError, match=complaint):
        trl_reward.reward(prompts, completions)


def test_other_keys_of_trls_messages_do_not_reach_the_servers() -> None:
    prompt: Any = [{**SEEKER, "name": "Ann"}]
    said: Any = SAID
    request = trl_reward._request(0, prompt, said)
    assert request == ScoreRequest("completion 0", ({"role": "user", "content": "I am tired."},), "Rest.")


def test_an_explicit_token_wins_and_the_variables_stands_in_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, "outside")
    assert client_at(token="inside") is client_at(token="inside") is not client_at()
    assert client_at() is client_at(token="outside")


def test_a_prompt_of_an_unknown_template_is_refused_in_trl() -> None:
    with pytest.raises(WireError, match="completion 0"):
        trl_reward.reward(["[INST] I am tired. [/INST]"], ["Rest."])


@pytest.mark.parametrize("extra_info", [None, {}, {"index": 3}])
def test_verl_is_told_where_the_conversation_must_be(extra_info: dict[str, Any] | None) -> None:
    with pytest.raises(AdapterError, match="history"):
        asyncio.run(verl_reward.compute_score("talk", "Rest.", "", extra_info))


def test_a_failure_is_raised_with_its_kind_and_its_reply() -> None:
    failure = ScoreFailure("completion 4", FailureKind.TIMEOUT, "late", "empathy-scorer", 5)
    with pytest.raises(RewardServerError, match="completion 4 after 5 calls: late") as raised:
        all_scored([failure])
    assert raised.value.kind is FailureKind.TIMEOUT
