"""What the gateway does with an HTTP request: who may ask, how much, and how every error looks.

An answer is always a JSON object. 200 has `results`, one for each request in order, failures among them; every other
status has `{"error": {"kind", "message"}}` with a kind of `FailureKind`. No pickles, no paths, no URLs are read.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from reward_servers.failures import RewardServerError
from reward_servers.protocol import FailureKind, ScoreFailure, ScoreRequest, ScoreResult, TagResult
from reward_servers.service_config import GATEWAY, HttpConfig, ServiceConfig
from reward_servers.wire import (
    WireError,
    body_list,
    body_seconds,
    decode_request,
    decode_response,
    encode_result,
    encode_tags,
    parse_body,
    request_id_of,
)

_ROUTES = ("POST /v1/score", "POST /v1/tactics", "GET /healthz")

_STATUS = {
    FailureKind.TIMEOUT: 504,
    FailureKind.UNAVAILABLE: 503,
    FailureKind.OVERLOADED: 503,
    FailureKind.INVALID_REQUEST: 400,
    FailureKind.INTERNAL: 500,
}


class _RefusedError(Exception):
    """A request that gets no further than the border."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message


@dataclass(frozen=True, slots=True)
class Calls:
    """What the routes call: the methods of the gateway that handles call too."""

    score: Callable[[Sequence[ScoreRequest], float], Awaitable[list[ScoreResult]]]
    tag: Callable[[Sequence[tuple[str, str]], float], Awaitable[list[TagResult]]]
    health: Callable[[float], Awaitable[dict[str, str]]]


async def answer(request: Request, config: ServiceConfig, calls: Calls) -> Response:
    """Answer one HTTP request; raises only for errors in the server's own code.

    POST /v1/score    `{"requests": [{"id", "history", "response"}], "timeout_s"?}` -> `{"results": [...]}`
    POST /v1/tactics  `{"requests": [{"id", "response"}], "timeout_s"?}` -> `{"results": [...]}`
    GET  /healthz     `{"status": "ok", "models": {deployment: version}}`
    """
    try:
        _authorize(request, _http(config))
        match (request.method, request.url.path):
            case ("POST", "/v1/score"):
                return await _answer_items(request, config, decode_request, calls.score, encode_result)
            case ("POST", "/v1/tactics"):
                return await _answer_items(request, config, decode_response, calls.tag, encode_tags)
            case ("GET", "/healthz"):
                return JSONResponse({"status": "ok", "models": await calls.health(config.call_timeout_s)})
            case (method, path):
                raise _RefusedError(404, f"no {method} {path[:80]!r} here; there are {', '.join(_ROUTES)}")
    except _RefusedError as refused:
        return _error(refused.status, FailureKind.INVALID_REQUEST, refused.message)
    except WireError as error:
        return _error(400, FailureKind.INVALID_REQUEST, str(error))
    except RewardServerError as error:
        return _error(_STATUS[error.kind], error.kind, str(error))


async def _answer_items(
    request: Request,
    config: ServiceConfig,
    decode: Callable[[object, str], Any],
    call: Callable[[Any, float], Awaitable[list[Any]]],
    encode: Callable[[Any], dict[str, Any]],
) -> Response:
    body = parse_body(await _read_json(request, _http(config)))
    entries = body_list(body, "requests", others=("timeout_s",))
    timeout_s = body_seconds(body, "timeout_s", config.call_timeout_s)
    most = config.limits.max_requests_per_call
    if len(entries) > most:
        raise _RefusedError(413, f"{len(entries)} requests in one call, over the limit of {most}")
    decoded = [_decoded(entry, f"requests[{i}]", decode) for i, entry in enumerate(entries)]
    answers = iter(await call([item for item in decoded if not isinstance(item, ScoreFailure)], timeout_s))
    results = [item if isinstance(item, ScoreFailure) else next(answers) for item in decoded]
    return JSONResponse({"results": [encode(result) for result in results]})


def _decoded(entry: object, place: str, decode: Callable[[object, str], Any]) -> Any:
    """The item, or its failure: one malformed item does not take the others of its call with it."""
    try:
        return decode(entry, place)
    except WireError as error:
        name = request_id_of(entry, place)
        return ScoreFailure(name, FailureKind.INVALID_REQUEST, str(error), GATEWAY, attempts=1)


def _http(config: ServiceConfig) -> HttpConfig:
    assert config.http is not None, "HTTP requests only come where HTTP is configured"
    return config.http


def _authorize(request: Request, http: HttpConfig) -> None:
    expected = f"Bearer {http.token}".encode()
    given = request.headers.get("authorization", "").encode("latin-1", "replace")
    if http.token and not hmac.compare_digest(given, expected):
        raise _RefusedError(401, "the token is missing or wrong: send `Authorization: Bearer <token>`")


async def _read_json(request: Request, http: HttpConfig) -> bytes:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise _RefusedError(415, "send JSON, with `Content-Type: application/json`")
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > http.max_body_bytes:
            raise _RefusedError(413, f"the body is over the limit of {http.max_body_bytes} bytes")
        parts.append(part)
    return b"".join(parts)


def _error(status: int, kind: FailureKind, message: str) -> JSONResponse:
    return JSONResponse({"error": {"kind": kind.value, "message": message}}, status_code=status)
