"""What comes out of the service is what the models say: bitwise, in order, one answer for each request."""

from __future__ import annotations

import asyncio
import pickle

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dialogue.conversation import Message
from reward_servers.client import RewardClient
from reward_servers.protocol import FailureKind, Score, ScoreFailure, ScoreRequest, TaggedReply
from reward_servers.serve import SCORER, TAGGER, start_reward_servers

from .conftest import TOKEN, Reference, Service
from .service_models import NOT_A_NUMBER, POISON

pytestmark = pytest.mark.timeout(600)  # the first test also starts Ray and Serve, slowly on a busy machine

SEEKER: Message = {"role": "user", "content": "My sister stopped talking to me after the wedding."}
REPLIES = (
    "That must hurt. Do you know what happened between you?",
    "I hear how much you miss her.",
    "",
    "You could write her a letter. Some people find that easier than a call. What do you think?",
    "It makes sense that you feel torn… Anyone would.",
    "\u4f60\u597d\uff0c\u6211\u5728\u8fd9\u91cc\u3002 \U0001f90d",
)


def ask(i: int, response: str, *history: Message) -> ScoreRequest:
    return ScoreRequest(f"request-{i}", history, response)


VALID = [ask(i, REPLIES[i % len(REPLIES)], *((SEEKER,) if i % 3 else ())) for i in range(12)]
INVALID = {
    "over the limit of 500": ask(20, "so long " * 100, SEEKER),
    "history[0].role is 'system'": ask(21, "Hello.", {"role": "system", "content": "Be kind."}, SEEKER),
    "must be the user's": ask(22, "Hello.", SEEKER, {"role": "assistant", "content": "I am here."}),
    "not valid Unicode": ask(23, "half \ud83d of a pair", SEEKER),
}
BAD_FOR_THE_MODEL = {"this reply cannot be read": ask(30, f"{POISON}."), "not finite": ask(31, f"{NOT_A_NUMBER}.")}
EVERYTHING = [*VALID, *INVALID.values(), *BAD_FOR_THE_MODEL.values()]


def test_scores_are_bitwise_those_of_the_models_called_directly(service: Service, reference: Reference) -> None:
    assert asyncio.run(service.client().score(VALID)) == [reference.of(request) for request in VALID]


def test_http_gives_the_same_bits_as_the_handle(service: Service, reference: Reference) -> None:
    client = RewardClient.over_http(service.url, TOKEN)
    assert client.score_sync(VALID) == [reference.of(request) for request in VALID]


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    requests=st.lists(st.sampled_from(EVERYTHING), max_size=24),
    per_call=st.integers(1, 24),
    over_http=st.booleans(),
)
def test_every_request_gets_its_own_answer_whatever_it_is_sent_with(
    service: Service, reference: Reference, requests: list[ScoreRequest], per_call: int, over_http: bool
) -> None:
    client = service.client(requests_per_call=per_call)
    if over_http:
        client = RewardClient.over_http(service.url, TOKEN, client._policy)
    results = client.score_sync(requests)
    assert [result.request_id for result in results] == [request.id for request in requests]
    for request, result in zip(requests, results, strict=True):
        if request in VALID:
            assert result == reference.of(request)
        else:
            assert isinstance(result, ScoreFailure)
            assert result.kind is (FailureKind.INVALID_REQUEST if int(request.id[8:]) < 30 else FailureKind.INTERNAL)
            assert result.attempts == 1


@pytest.mark.parametrize("complaint", [*INVALID, *BAD_FOR_THE_MODEL])
def test_a_failure_says_what_is_wrong(service: Service, complaint: str) -> None:
    [failure] = service.client().score_sync([{**INVALID, **BAD_FOR_THE_MODEL}[complaint]])
    assert isinstance(failure, ScoreFailure)
    assert complaint in failure.message


def test_an_empty_reply_has_no_sentences_and_still_an_empathy_score(service: Service) -> None:
    [score] = service.client().score_sync([ask(0, "", SEEKER)])
    assert isinstance(score, Score)
    assert score.sentences == score.sentence_tactics == score.tactic_probabilities == ()
    assert score.quality == score.empathy.aggregated


def test_nothing_asked_nothing_answered(service: Service) -> None:
    assert service.client().score_sync([]) == []
    assert service.client().tag_sync([]) == []


@pytest.mark.parametrize("over_http", [False, True])
def test_tagging_alone_gives_the_tactics_of_the_score(service: Service, reference: Reference, over_http: bool) -> None:
    client = RewardClient.over_http(service.url, TOKEN) if over_http else service.client()
    results = client.tag_sync([*REPLIES, "too long " * 100, f"{POISON} is only poison to the scorer."])
    for reply, result in zip(REPLIES, results[: len(REPLIES)], strict=True):
        score = reference.of(ask(0, reply))
        assert result == TaggedReply(score.sentences, score.sentence_tactics, score.tactic_probabilities)
    assert isinstance(results[-2], ScoreFailure) and results[-2].request_id == str(len(REPLIES))
    assert isinstance(results[-1], TaggedReply)


def test_health_names_the_versions(service: Service) -> None:
    versions = {TAGGER: "seeded-tagger-1", SCORER: "seeded-scorer-1"}
    assert service.client().health_sync() == versions
    assert RewardClient.over_http(service.url, TOKEN).health_sync() == versions


def test_a_client_can_be_sent_to_another_process(service: Service, reference: Reference) -> None:
    client = pickle.loads(pickle.dumps(service.client()))
    assert client.score_sync(VALID[:1]) == [reference.of(VALID[0])]


def test_starting_again_changes_nothing(service: Service, reference: Reference) -> None:
    client = start_reward_servers(service.config)
    assert client.score_sync(VALID[:1]) == [reference.of(VALID[0])]


@pytest.mark.parametrize("wrong", ["text", {"id": "a"}, None])
def test_a_request_of_the_wrong_type_is_the_callers_error(service: Service, wrong: object) -> None:
    with pytest.raises(TypeError, match="ScoreRequest"):
        service.client().score_sync([wrong])  # type: ignore[list-item]
