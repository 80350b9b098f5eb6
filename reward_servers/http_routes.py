"""What the gateway does with an HTTP request: who may ask, how much, and how every error looks.

An answer is a JSON object, but for `/metrics`. The routes of version 1 answer 200 with `results`, one for each request
in order, failures among them; every status but 200 has `{"error": {"kind", "message"}}` with a kind of `FailureKind`.
`openapi.py` describes all routes. No pickles, no paths, no URLs are read from a request.
"""

from __future__ import annotations

import base64
import hmac
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from reward_servers.failures import RewardServerError, root_cause
from reward_servers.openapi import openapi_document
from reward_servers.protocol import (
    EmpathyResult,
    FailureKind,
    QualityResult,
    ScoreFailure,
    ScoreRequest,
    ScoreResult,
    TagResult,
)
from reward_servers.remote_reward import decode_queries, encode_rewards
from reward_servers.service_config import GATEWAY, HttpConfig, ServiceConfig
from reward_servers.service_metrics import CONTENT_TYPE, UNKNOWN_ROUTE, GatewayMetrics
from reward_servers.wire import (
    WireError,
    body_list,
    body_seconds,
    decode_request,
    decode_response,
    encode_empathy,
    encode_quality,
    encode_result,
    encode_tags,
    parse_body,
    request_id_of,
)

logger = logging.getLogger("ray.serve")

_STATUS = {
    FailureKind.TIMEOUT: 504,
    FailureKind.UNAVAILABLE: 503,
    FailureKind.OVERLOADED: 503,
    FailureKind.INVALID_REQUEST: 400,
    FailureKind.INTERNAL: 500,
}


class _RefusedError(Exception):
    """A request that gets no further than the border."""

    def __init__(self, status: int, message: str, **headers: str) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


@dataclass(frozen=True, slots=True)
class Calls:
    """What the routes call: the methods of the gateway that handles call too."""

    score: Callable[[Sequence[ScoreRequest], float], Awaitable[list[ScoreResult]]]
    tag: Callable[[Sequence[tuple[str, str]], float], Awaitable[list[TagResult]]]
    empathy: Callable[[Sequence[ScoreRequest], float], Awaitable[list[EmpathyResult]]]
    quality: Callable[[Sequence[ScoreRequest], float], Awaitable[list[QualityResult]]]
    health: Callable[[float], Awaitable[dict[str, str]]]


async def answer(request: Request, config: ServiceConfig, calls: Calls, metrics: GatewayMetrics) -> Response:
    """Answer one HTTP request and count it; an error in the server's own code is logged and answered as one."""
    began = perf_counter()
    path = request.url.path
    response = await _settle(request, config, calls, metrics)
    metrics.count_request(path if path in _PATHS else UNKNOWN_ROUTE, response.status_code, began)
    return response


async def _settle(request: Request, config: ServiceConfig, calls: Calls, metrics: GatewayMetrics) -> Response:
    try:
        _authorize(request, _http(config))
        handler = _route(request)
        return await handler(request, config, calls, metrics)
    except _RefusedError as refused:
        return _error(refused.status, FailureKind.INVALID_REQUEST, refused.message, refused.headers)
    except WireError as error:
        return _error(400, FailureKind.INVALID_REQUEST, str(error))
    except RewardServerError as error:
        return _error(_STATUS[error.kind], error.kind, str(error))
    except ClientDisconnect:
        return _error(400, FailureKind.INVALID_REQUEST, "the caller left before the body was whole")
    except Exception as error:  # the border: what is written in the document holds for our own faults too
        logger.exception("%s failed", request.url.path)
        message = f"an error in the server's own code, please report it: {root_cause(error)}"
        return _error(500, FailureKind.INTERNAL, message)


# --- routes --------------------------------------------------------------------------------------------------------

_Handler = Callable[[Request, ServiceConfig, Calls, GatewayMetrics], Awaitable[Response]]


async def _score(request: Request, config: ServiceConfig, calls: Calls, _: GatewayMetrics) -> Response:
    return await _answer_items(request, config, decode_request, calls.score, encode_result)


async def _tactics(request: Request, config: ServiceConfig, calls: Calls, _: GatewayMetrics) -> Response:
    return await _answer_items(request, config, decode_response, calls.tag, encode_tags)


async def _empathy(request: Request, config: ServiceConfig, calls: Calls, _: GatewayMetrics) -> Response:
    return await _answer_items(request, config, decode_request, calls.empathy, encode_empathy)


async def _quality(request: Request, config: ServiceConfig, calls: Calls, _: GatewayMetrics) -> Response:
    return await _answer_items(request, config, decode_request, calls.quality, encode_quality)


async def _get_reward(request: Request, config: ServiceConfig, calls: Calls, _: GatewayMetrics) -> Response:
    requests = decode_queries(parse_body(await _read_json(request, _http(config))))
    _check_count(len(requests), config)
    return JSONResponse(encode_rewards(await calls.score(requests, config.call_timeout_s)))


async def _healthz(_: Request, config: ServiceConfig, calls: Calls, __: GatewayMetrics) -> Response:
    return JSONResponse({"status": "ok", "models": await calls.health(config.call_timeout_s)})


async def _metrics(_: Request, __: ServiceConfig, ___: Calls, metrics: GatewayMetrics) -> Response:
    return Response(metrics.text(), media_type=CONTENT_TYPE)


async def _openapi(_: Request, config: ServiceConfig, __: Calls, ___: GatewayMetrics) -> Response:
    return JSONResponse(openapi_document(config))


ROUTES: dict[tuple[str, str], _Handler] = {
    ("POST", "/v1/score"): _score,
    ("POST", "/v1/tactics"): _tactics,
    ("POST", "/v1/empathy"): _empathy,
    ("POST", "/v1/quality"): _quality,
    ("POST", "/get_reward"): _get_reward,
    ("GET", "/healthz"): _healthz,
    ("GET", "/metrics"): _metrics,
    ("GET", "/openapi.json"): _openapi,
}
_PATHS = {path: method for method, path in ROUTES}


def _route(request: Request) -> _Handler:
    method, path = request.method, request.url.path
    if path not in _PATHS:
        known = ", ".join(f"{verb} {known}" for verb, known in ROUTES)
        raise _RefusedError(404, f"no {method} {path[:80]!r} here; there are {known}")
    if method != _PATHS[path]:
        raise _RefusedError(405, f"{path} answers {_PATHS[path]}, not {method[:20]!r}", allow=_PATHS[path])
    return ROUTES[method, path]


# --- the border ----------------------------------------------------------------------------------------------------


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
    _check_count(len(entries), config)
    decoded = [_decoded(entry, f"requests[{i}]", decode) for i, entry in enumerate(entries)]
    answers = iter(await call([item for item in decoded if not isinstance(item, ScoreFailure)], timeout_s))
    results = [item if isinstance(item, ScoreFailure) else next(answers) for item in decoded]
    return JSONResponse({"results": [encode(result) for result in results]})


def _check_count(count: int, config: ServiceConfig) -> None:
    most = config.limits.max_requests_per_call
    if count > most:
        raise _RefusedError(413, f"{count} requests in one call, over the limit of {most}")


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
    given = request.headers.get("authorization", "").encode("latin-1", "replace")
    if http.token and not hmac.compare_digest(_token_of(given), http.token.encode()):
        raise _RefusedError(
            401, "the token is missing or wrong: send `Authorization: Bearer <token>`", www_authenticate="Bearer"
        )


def _token_of(header: bytes) -> bytes:
    """The bearer token, or the password of `http://any:<token>@host/`: callers like OpenRLHF only take a URL."""
    scheme, _, value = header.partition(b" ")
    match scheme.lower():
        case b"bearer":
            return value.strip()
        case b"basic":
            try:
                return base64.b64decode(value.strip(), validate=True).partition(b":")[2]
            except ValueError:
                return b""
        case _:
            return b""


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


def _error(status: int, kind: FailureKind, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": {"kind": kind.value, "message": message}}, status_code=status, headers=headers)
