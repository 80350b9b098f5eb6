"""A ranker whose scores can be computed by hand, alone and behind the HTTP border of the reward servers."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from reward_servers.protocol import EmpathyScore, FailureKind, Score, ScoreFailure, ScoreRequest, ScoreResult
from reward_servers.wire import encode_result


class LengthRanker:
    """Longer is better by 0.1 a character; a reply that says "fail" cannot be scored.

    `asked`: every reply it was asked for. `now`: the version that scores; `versions` tells the one of the beginning.
    """

    def __init__(self, version: str = "1") -> None:
        self.began = self.now = version
        self.asked: list[str] = []

    def versions(self) -> dict[str, str]:
        return {"length": self.began}

    def score(self, requests: Sequence[ScoreRequest]) -> list[ScoreResult]:
        return [self._one(request) for request in requests]

    def _one(self, request: ScoreRequest) -> ScoreResult:
        assert request.history[-1]["role"] == "user"
        self.asked.append(request.response)
        if "fail" in request.response:
            return ScoreFailure(request.id, FailureKind.INTERNAL, "it broke", "scorer", 1)
        even = EmpathyScore((3.0,) * 6)
        return Score(request.id, (), (), (), even, len(request.response) / 10, {"length": self.now})


class RankingServer(ThreadingHTTPServer):
    """A `LengthRanker` at a URL. It scores so many replies; who asks for more waits until `go_on` is set, in vain."""

    daemon_threads = True

    def __init__(self, answers: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.ranker = LengthRanker()
        self.answers = answers
        self.stalled, self.go_on = threading.Event(), threading.Event()
        self.turn = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: RankingServer

    def do_GET(self) -> None:
        self._answer({"status": "ok", "models": self.server.ranker.versions()})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        asked = [ScoreRequest(each["id"], tuple(each["history"]), each["response"]) for each in body["requests"]]
        server = self.server
        with server.turn:
            waits = len(server.ranker.asked) >= server.answers
        if waits:
            server.stalled.set()
            server.go_on.wait(60)
            return  # to nobody: the caller was killed
        with server.turn:
            results = server.ranker.score(asked)
        self._answer({"results": [encode_result(result) for result in results]})

    def _answer(self, value: Any) -> None:
        raw = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@contextmanager
def ranking_server(answers: int) -> Iterator[RankingServer]:
    with RankingServer(answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server
        finally:
            server.go_on.set()
            server.shutdown()
