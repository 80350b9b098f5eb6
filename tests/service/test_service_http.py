"""The HTTP side: who may ask, what a body may be, how errors look; and what the client makes of strange servers."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from reward_servers.client import RetryPolicy, RewardClient, RewardServerError, check_url
from reward_servers.http_transport import ServerUrlError
from reward_servers.protocol import FailureKind, Score, ScoreFailure, ScoreRequest
from reward_servers.service_config import SCORER, TAGGER

from .conftest import TOKEN, Service

pytestmark = pytest.mark.timeout(600)  # the first test also starts Ray and Serve, slowly on a busy machine

ONE = {"id": "a", "history": [{"role": "user", "content": "I am tired."}], "response": "Rest a little."}
REQUEST = ScoreRequest("a", ({"role": "user", "content": "I am tired."},), "Rest a little.")


def post(service: Service, body: bytes, token: str = TOKEN, kind: str = "application/json") -> tuple[int, dict]:
    headers = {"Content-Type": kind, "Authorization": f"Bearer {token}"}
    return call(urllib.request.Request(f"{service.url}/v1/score", body, headers))


def call(request: urllib.request.Request) -> tuple[int, dict]:
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def test_a_score_over_http(service: Service) -> None:
    status, answer = post(service, json.dumps({"requests": [ONE]}).encode())
    assert status == 200
    [score] = answer["results"]
    assert score["request_id"] == "a" and score["sentences"] == ["Rest a little."]
    assert len(score["tactic_probabilities"][0]) == 10 and len(score["empathy"]) == 6
    assert score["quality"] == score["aggregated_empathy"]
    assert set(score["model_versions"]) == {TAGGER, SCORER}


@pytest.mark.parametrize("token", ["", "wrong", TOKEN + "x", "\u00e9"])
def test_without_the_token_nothing_is_answered(service: Service, token: str) -> None:
    status, answer = post(service, json.dumps({"requests": [ONE]}).encode(), token)
    assert status == 401 and "token" in answer["error"]["message"]
    with pytest.raises(RewardServerError, match="token"):
        check_url(service.url, token.replace("\u00e9", "e"))
    [failure] = RewardClient.over_http(service.url, "wrong").score_sync([REQUEST])
    assert isinstance(failure, ScoreFailure)
    assert (failure.kind, failure.attempts) == (FailureKind.INVALID_REQUEST, 1)


@pytest.mark.parametrize(
    ("body", "status", "complaint"),
    [
        (b"", 400, "not JSON"),
        (b"{", 400, "not JSON"),
        (b"\xff\xfe", 400, "not JSON"),
        (b"[" * 50_000, 400, "not JSON"),
        (b"[]", 400, "must be an object"),
        (b"{}", 400, "requests must be a list"),
        (b'{"requests": {}}', 400, "requests must be a list"),
        (b'{"requests": [], "file": "/etc/passwd"}', 400, "unknown keys"),
        (b'{"requests": [], "timeout_s": -1}', 400, "above 0"),
        (b'{"requests": [], "timeout_s": NaN}', 400, "finite number"),
        (b'{"requests": [], "timeout_s": 1' + b"0" * 400 + b"}", 400, "finite number"),
        (b'{"requests": [' + b",".join([b"{}"] * 65) + b"]}", 413, "over the limit of 64"),
        (b'{"requests": ["' + b"a" * 200_000 + b'"]}', 413, "over the limit of 200000 bytes"),
    ],
)
def test_a_bad_body_is_refused_as_a_whole(service: Service, body: bytes, status: int, complaint: str) -> None:
    got, answer = post(service, body)
    assert (got, answer["error"]["kind"]) == (status, "invalid_request")
    assert complaint in answer["error"]["message"]


def test_only_json_is_read(service: Service) -> None:
    assert post(service, json.dumps({"requests": [ONE]}).encode(), kind="application/x-pickle")[0] == 415


def test_an_unknown_route_names_the_known_ones(service: Service) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    status, answer = call(urllib.request.Request(f"{service.url}/v2/score", headers=headers))
    assert status == 404 and "/v1/score" in answer["error"]["message"]


def test_a_malformed_item_fails_alone(service: Service) -> None:
    items: list[object] = [
        ONE,
        "text",
        {"id": "b", "response": 3},
        {"id": "c", "response": "Hello.", "history": [{"role": "user"}]},
        {"id": "\ud800", "response": "Hello."},
        {**ONE, "id": "d", "path": "/etc/passwd"},
        {**ONE, "id": "e"},
    ]
    status, answer = post(service, json.dumps({"requests": items}).encode())
    results = answer["results"]
    assert status == 200
    assert [r["request_id"] for r in results] == ["a", "requests[1]", "b", "c", "requests[4]", "d", "e"]
    assert [r["failure"]["kind"] if "failure" in r else "score" for r in results] == [
        "score", *["invalid_request"] * 5, "score",
    ]  # fmt: skip


def test_check_url_needs_no_event_loop_and_returns_the_versions(service: Service) -> None:
    assert check_url(service.url, TOKEN) == {TAGGER: "seeded-tagger-1", SCORER: "seeded-scorer-1"}


# --- servers that are no reward servers ----------------------------------------------------------------------------


class StrangeServer(ThreadingHTTPServer):
    """Answers every request with the same status and body, after a pause."""

    status, body, pause_s, asked = 200, b"", 0.0, 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        server = self.server
        assert isinstance(server, StrangeServer)
        server.asked += 1
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        time.sleep(server.pause_s)
        self.send_response(server.status)
        self.send_header("Content-Length", str(len(server.body)))
        self.send_header("Location", "/elsewhere")
        self.end_headers()
        self.wfile.write(server.body)

    do_GET = do_POST  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def strange() -> Iterator[StrangeServer]:
    server = StrangeServer(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join(timeout=5)


NO_NUMBER = json.dumps({"results": [{"request_id": "a", "sentences": [], "sentence_tactics": [],
    "tactic_probabilities": [], "empathy": {}, "quality": float("nan"), "model_versions": {}}]}).encode()  # fmt: skip


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (200, b"<html>welcome</html>", FailureKind.INTERNAL),
        (200, b"", FailureKind.INTERNAL),
        (200, b'{"results": []}', FailureKind.INTERNAL),
        (200, b'{"results": [0.5]}', FailureKind.INTERNAL),
        (200, NO_NUMBER, FailureKind.INTERNAL),
        (301, b"", FailureKind.INVALID_REQUEST),
        (400, b"what?", FailureKind.INVALID_REQUEST),
        (403, b"", FailureKind.INVALID_REQUEST),
        (404, b"not found", FailureKind.UNAVAILABLE),
        (429, b"", FailureKind.OVERLOADED),
        (500, b"Internal Server Error", FailureKind.UNAVAILABLE),
        (500, b'{"error": {"kind": "internal", "message": "a bug"}}', FailureKind.INTERNAL),
        (502, b"", FailureKind.UNAVAILABLE),
        (503, b"Request dropped due to backpressure", FailureKind.OVERLOADED),
        (504, b"", FailureKind.TIMEOUT),
    ],
)
def test_an_answer_that_is_no_score_is_classified_once(
    strange: StrangeServer, status: int, body: bytes, kind: FailureKind
) -> None:
    strange.status, strange.body = status, body
    client = RewardClient.over_http(strange.url, policy=RetryPolicy(retries=1, backoff_s=0.0))
    [failure] = client.score_sync([REQUEST])
    assert isinstance(failure, ScoreFailure)
    assert (failure.kind, failure.server) == (kind, strange.url)
    assert failure.attempts == strange.asked == (2 if kind.retryable else 1)
    with pytest.raises(RewardServerError):
        check_url(strange.url)


def test_a_server_that_never_answers_is_a_timeout(strange: StrangeServer) -> None:
    strange.pause_s = 2.0
    client = RewardClient.over_http(strange.url, policy=RetryPolicy(timeout_s=0.3, retries=1, backoff_s=0.0))
    [failure] = client.score_sync([REQUEST])
    assert isinstance(failure, ScoreFailure) and failure.kind is FailureKind.TIMEOUT
    with pytest.raises(RewardServerError, match=r"within 0\.3 s"):
        check_url(strange.url, timeout_s=0.3)


def test_a_url_that_is_none_is_the_callers_error() -> None:
    for wrong in ("", "localhost:8000", "file:///etc/passwd", "http://"):
        with pytest.raises(ServerUrlError, match="should look like"):
            RewardClient.over_http(wrong)
        with pytest.raises(ValueError, match="should look like"):
            check_url(wrong)


def test_a_call_that_fails_as_a_whole_is_retried_as_two_halves(strange: StrangeServer) -> None:
    """4 requests: 1 call of 4, then 2 of 2, then 4 of 1."""
    strange.status = 502
    client = RewardClient.over_http(strange.url, policy=RetryPolicy(retries=2, backoff_s=0.0, requests_per_call=4))
    failures = client.score_sync([REQUEST] * 4)
    assert strange.asked == 1 + 2 + 4
    assert all(isinstance(f, ScoreFailure) and f.attempts == 3 for f in failures)
    assert not any(isinstance(f, Score) for f in failures)
