"""Every route, its limits, its errors and the document that describes them, in one process without Ray."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.testclient import TestClient

from dialogue.tactics import TACTICS
from reward_servers.failures import RewardServerError
from reward_servers.http_routes import ROUTES, Calls, answer
from reward_servers.openapi import openapi_document
from reward_servers.protocol import (
    EmpathyResult,
    EmpathyScore,
    FailureKind,
    QualityResult,
    QualityScore,
    Score,
    ScoreFailure,
    ScoreRequest,
    ScoreResult,
    TaggedReply,
    TagResult,
)
from reward_servers.service_config import SCORER, HttpConfig, LimitsConfig, ServiceConfig
from reward_servers.service_metrics import GatewayMetrics

TOKEN = "token-of-a-test"
CONFIG = ServiceConfig(
    http=HttpConfig(token=TOKEN, max_body_bytes=4000),
    limits=LimitsConfig(max_response_chars=100, max_requests_per_call=4),
)
EMPATHY = EmpathyScore((4.0, 3.0, 5.0, 2.0, 1.0, 1.0))  # better: 4 3 5 4 5 5, mean 26 / 6
ROW = tuple(0.5 for _ in TACTICS)
BAD = "BAD"
METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH")


def failure(name: str, text: str) -> ScoreFailure | None:
    """A reply `BAD timeout` fails by a time-out."""
    if not text.startswith(BAD):
        return None
    return ScoreFailure(name, FailureKind(text.removeprefix(BAD).strip()), "as told", SCORER, 1)


async def score(requests: Sequence[ScoreRequest], _: float) -> list[ScoreResult]:
    return [
        failure(r.id, r.response)
        or Score(r.id, (r.response,), ((TACTICS[0],),), (ROW,), EMPATHY, EMPATHY.aggregated, {SCORER: "1"})
        for r in requests
    ]


async def tag(responses: Sequence[tuple[str, str]], _: float) -> list[TagResult]:
    return [failure(name, text) or TaggedReply((text,), ((TACTICS[0],),), (ROW,)) for name, text in responses]


async def empathy(requests: Sequence[ScoreRequest], _: float) -> list[EmpathyResult]:
    return [failure(r.id, r.response) or EMPATHY for r in requests]


async def quality(requests: Sequence[ScoreRequest], _: float) -> list[QualityResult]:
    return [failure(r.id, r.response) or QualityScore(r.id, EMPATHY.aggregated, {SCORER: "1"}) for r in requests]


async def health(_: float) -> dict[str, str]:
    return {SCORER: "1"}


def client_of(config: ServiceConfig = CONFIG, token: str = TOKEN, **calls: Any) -> TestClient:
    metrics = GatewayMetrics("a")
    routes = Calls(**{"score": score, "tag": tag, "empathy": empathy, "quality": quality, "health": health, **calls})

    async def everything(request: Request) -> Response:
        return await answer(request, config, routes, metrics)

    app = Starlette(routes=[Route("/{path:path}", everything, methods=list(METHODS))])
    return TestClient(app, headers={"Authorization": f"Bearer {token}"} if token else {})


CLIENT = client_of()
DOCUMENT = openapi_document(CONFIG)
SEEKER = {"role": "user", "content": "I am tired."}
ONE = {"id": "a", "history": [SEEKER], "response": "Rest a little."}


def conforms(name: str, value: object) -> bool:
    schema = {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}
    return Draft202012Validator(schema).is_valid(value)


def test_an_error_of_the_servers_own_code_looks_as_the_document_says() -> None:
    async def broken(*_: Any) -> list[ScoreResult]:
        raise ZeroDivisionError("division by zero")

    said = client_of(score=broken).post("/v1/score", json={"requests": [ONE]})
    assert said.status_code == 500 and conforms("Error", said.json())
    assert said.json()["error"]["kind"] == "internal" and "ZeroDivisionError: division by" in said.text


# --- the document and the routes are one ----------------------------------------------------------------------------


def test_the_document_has_exactly_the_routes() -> None:
    described = {(verb.upper(), path) for path, verbs in DOCUMENT["paths"].items() for verb in verbs}
    assert described == set(ROUTES)


def test_every_schema_of_the_document_is_valid_and_used() -> None:
    schemas, text = DOCUMENT["components"]["schemas"], json.dumps(DOCUMENT)
    for name, schema in schemas.items():
        Draft202012Validator.check_schema(schema)
        assert f'"#/components/schemas/{name}"' in text


def test_the_document_is_served_with_the_limits_that_hold() -> None:
    served = CLIENT.get("/openapi.json").json()
    assert served == DOCUMENT
    call = served["components"]["schemas"]["ScoreCall"]["properties"]["requests"]
    assert (call["maxItems"], call["items"]["properties"]["response"]["maxLength"]) == (4, 100)
    assert served["security"] and "security" not in openapi_document(ServiceConfig(http=HttpConfig()))


@pytest.mark.parametrize(
    ("path", "item"),
    [
        ("/v1/score", ONE),
        ("/v1/empathy", ONE),
        ("/v1/quality", ONE),
        ("/v1/tactics", {"id": "a", "response": "Rest a little."}),
    ],
)
def test_answers_of_version_1_are_as_described(path: str, item: dict[str, Any]) -> None:
    body = {"requests": [item, {**item, "id": "b", "response": "BAD timeout"}, {"id": "c"}], "timeout_s": 3}
    response = CLIENT.post(path, json=body)
    described = DOCUMENT["paths"][path]["post"]
    asked = described["requestBody"]["content"]["application/json"]["schema"]["$ref"].rsplit("/")[-1]
    answered = described["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].rsplit("/")[-1]
    assert conforms(asked, {**body, "requests": [item]}) and not conforms(asked, body)
    assert response.status_code == 200 and conforms(answered, response.json())
    kinds = [result.get("failure", {}).get("kind") for result in response.json()["results"]]
    assert kinds == [None, "timeout", "invalid_request"]


def test_empathy_alone_has_the_six_dimensions_and_their_aggregate() -> None:
    [result] = CLIENT.post("/v1/empathy", json={"requests": [ONE]}).json()["results"]
    assert result["empathy"]["advice_giving"] == 2.0 and len(result["empathy"]) == 6
    assert result["aggregated_empathy"] == pytest.approx(26 / 6)


def test_quality_alone_is_one_number_and_says_whose() -> None:
    [result] = CLIENT.post("/v1/quality", json={"requests": [ONE]}).json()["results"]
    assert result == {"request_id": "a", "quality": pytest.approx(26 / 6), "model_versions": {SCORER: "1"}}


# --- OpenRLHF's call ------------------------------------------------------------------------------------------------


def chatml(text: str) -> str:
    return f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"


def test_get_reward_answers_as_openrlhf_reads_it() -> None:
    prompts = [chatml("I am tired."), chatml("I am cold.")]
    query = [prompts[0] + "Rest.<|im_end|>", prompts[1] + "Come in.<|im_end|>"]
    response = CLIENT.post("/get_reward", json={"query": query, "prompts": prompts, "labels": ["", None]})
    content = response.json()
    assert response.status_code == 200 and conforms("RewardAnswer", content)
    assert content["rewards"] == pytest.approx([26 / 6, 26 / 6])
    assert content["scores"] == pytest.approx([20 / 24, 20 / 24])  # (26 / 6 - 1) / 4
    assert content["extra_logs"]["distinct_tactics"] == [1.0, 1.0]
    assert CLIENT.post("/get_reward", json={"query": query}).json() == content, "older versions send no prompts"


@pytest.mark.parametrize(("kind", "status"), [("timeout", 504), ("overloaded", 503), ("internal", 500)])
def test_a_reply_without_a_score_fails_the_whole_call_for_openrlhf(kind: str, status: int) -> None:
    response = CLIENT.post("/get_reward", json={"query": [chatml("Hi.") + "Hello.", chatml("Hi.") + f"BAD {kind}"]})
    assert response.status_code == status and "rewards" not in response.json()
    assert "query[1]: as told (1 of 2 replies have no score)" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ({}, "query must be a list"),
        ({"query": "text"}, "query must be a list"),
        ({"query": [1]}, "query[0] must be a string"),
        ({"query": ["a"], "prompts": []}, "0 prompts for 1 queries"),
        ({"query": ["a"], "prompts": ["b"]}, "query[0] does not begin"),
        ({"query": ["\ud800"]}, "not valid Unicode"),
        ({"query": [], "images": []}, "unknown keys"),
    ],
)
def test_a_malformed_call_for_rewards_is_refused(body: dict[str, Any], complaint: str) -> None:
    response = CLIENT.post(
        "/get_reward", content=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
    )
    assert response.status_code == 400 and complaint in response.json()["error"]["message"]


# --- who may ask, and how much --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted({path for _, path in ROUTES}))
def test_no_route_answers_without_the_token(path: str) -> None:
    for header in ("", "Bearer", "Bearer x", "Basic x", f"bearer{TOKEN}", TOKEN, "Basic " + "A" * 5):
        response = client_of(token="").request("GET", path, headers={"Authorization": header} if header else {})
        assert response.status_code == 401 and conforms("Error", response.json())
        assert response.headers["www-authenticate"] == "Bearer"


def test_the_token_may_come_as_the_password_of_a_url() -> None:
    """What `requests` makes of http://rapport:<token>@host:8000, the only way to give OpenRLHF a token."""
    basic = base64.b64encode(f"rapport:{TOKEN}".encode()).decode()
    assert client_of(token="").get("/healthz", headers={"Authorization": f"Basic {basic}"}).status_code == 200
    wrong = base64.b64encode(b"rapport:wrong").decode()
    assert client_of(token="").get("/healthz", headers={"Authorization": f"Basic {wrong}"}).status_code == 401


def test_without_a_configured_token_none_is_asked_for() -> None:
    assert client_of(ServiceConfig(http=HttpConfig()), token="").get("/healthz").json()["models"] == {SCORER: "1"}


def test_a_wrong_method_and_an_unknown_path_say_what_is_right() -> None:
    wrong = CLIENT.get("/v1/score")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    unknown = CLIENT.get("/v2/score")
    assert unknown.status_code == 404 and "POST /get_reward" in unknown.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/score", "/v1/tactics", "/v1/empathy", "/v1/quality"])
def test_too_much_is_refused_whole(path: str) -> None:
    many = CLIENT.post(path, json={"requests": [{}] * 5})
    assert many.status_code == 413 and "over the limit of 4" in many.json()["error"]["message"]
    large = CLIENT.post(path, content=b" " * 4001, headers={"Content-Type": "application/json"})
    assert large.status_code == 413 and "4000 bytes" in large.json()["error"]["message"]


def test_rewards_have_the_same_limits() -> None:
    assert CLIENT.post("/get_reward", json={"query": [chatml("a") + "b"] * 5}).status_code == 413


def test_a_service_that_is_ill_says_so() -> None:
    async def ill(_: float) -> dict[str, str]:
        raise RewardServerError(FailureKind.UNAVAILABLE, "a replica died", SCORER)

    response = client_of(health=ill).get("/healthz")
    assert response.status_code == 503 and response.json()["error"]["kind"] == "unavailable"


# --- counters -------------------------------------------------------------------------------------------------------


def samples(client: TestClient) -> dict[tuple[str, ...], float]:
    page = client.get("/metrics")
    assert page.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, *(value for name, value in sorted(sample.labels.items()) if name != "gateway")): sample.value
        for family in text_string_to_metric_families(page.text)
        for sample in family.samples
    }


def test_requests_are_counted_by_route_and_status_and_made_up_paths_make_no_series() -> None:
    client = client_of()
    client.post("/v1/score", json={"requests": [ONE]})
    client.post("/v1/score", json={})
    for i in range(3):
        client.get(f"/made-up-{i}")
    counted = samples(client)
    assert counted["rapport_reward_http_requests_total", "/v1/score", "200"] == 1
    assert counted["rapport_reward_http_requests_total", "/v1/score", "400"] == 1
    assert counted["rapport_reward_http_requests_total", "other", "404"] == 3
    assert counted["rapport_reward_http_request_seconds_count", "/v1/score"] == 2
    assert not [key for key in counted if "made-up" in str(key)]


def test_what_the_model_servers_did_is_counted() -> None:
    metrics = GatewayMetrics("a")
    metrics.count_model(SCORER, [EMPATHY] * 5, kept=2, joined=1)
    metrics.count_replies("score", [EMPATHY, ScoreFailure("a", FailureKind.TIMEOUT, "late", SCORER, 1)])
    text = metrics.text().decode()
    for how, count in (("computed", 2.0), ("kept", 2.0), ("joined", 1.0), ("failed", 0.0)):
        line = f'rapport_reward_model_items_total{{deployment="{SCORER}",gateway="a",how="{how}"}} {count}'
        assert line in text
    assert 'rapport_reward_replies_total{gateway="a",outcome="timeout",work="score"} 1.0' in text


# --- hostile callers ------------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
KEYS = st.sampled_from(["requests", "query", "prompts", "labels", "timeout_s", "id", "response", "history", "x"])


@settings(max_examples=150, deadline=None)
@given(
    method=st.sampled_from(METHODS),
    path=st.sampled_from(sorted({path for _, path in ROUTES})),
    body=st.binary(max_size=60) | st.dictionaries(KEYS, JSON | st.lists(st.dictionaries(KEYS, JSON), max_size=3)),
)
def test_whatever_is_sent_the_answer_is_of_the_document(method: str, path: str, body: object) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = CLIENT.request(method, path, content=content, headers={"Content-Type": "application/json"})
    assert response.status_code in (200, 400, 405, 413)
    if response.status_code != 200:
        assert conforms("Error", response.json())
