"""Calls to the reward servers over HTTP: one classification for status codes, refused connections and bad answers."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from http.client import HTTPException
from typing import Any, TypeVar
from urllib.parse import urlsplit

import aiohttp

from reward_servers.callers import CALLER_HEADER, caller_of_process
from reward_servers.failures import RewardServerError, gateway_timeout_s
from reward_servers.protocol import FailureKind, ScoreRequest, ScoreResult, TagResult
from reward_servers.wire import WireError, body_list, decode_result, decode_tags, encode_request, parse_body

R = TypeVar("R")
_LONGEST_ERROR_BODY = 64 * 1024


class ServerUrlError(ValueError):
    """What was given as the address of reward servers is none."""


class HttpTransport:
    """Calls the HTTP routes of `reward_servers.serve` at `url`, for example http://10.0.0.7:8000."""

    def __init__(self, url: str, token: str, caller: str = "") -> None:
        """`caller` is the name under which the calls take turns with those of others; else this process's."""
        self.server = checked_url(url)
        self._token = token
        self._caller = caller

    @asynccontextmanager
    async def session(self) -> AsyncIterator[aiohttp.ClientSession]:
        """One connection pool for one operation of the client: a pool belongs to one event loop."""
        headers = {**_headers(self._token), CALLER_HEADER: self._caller or caller_of_process()}
        async with aiohttp.ClientSession(headers=headers) as session:
            yield session

    async def score(
        self, session: aiohttp.ClientSession, requests: Sequence[ScoreRequest], timeout_s: float
    ) -> list[ScoreResult]:
        items = [encode_request(request) for request in requests]
        body = {"requests": items, "timeout_s": gateway_timeout_s(timeout_s)}
        return self._results(await self._call(session, "POST", "/v1/score", body, timeout_s), decode_result)

    async def tag(
        self, session: aiohttp.ClientSession, responses: Sequence[tuple[str, str]], timeout_s: float
    ) -> list[TagResult]:
        items = [{"id": name, "response": text} for name, text in responses]
        body = {"requests": items, "timeout_s": gateway_timeout_s(timeout_s)}
        return self._results(await self._call(session, "POST", "/v1/tactics", body, timeout_s), decode_tags)

    async def health(self, session: aiohttp.ClientSession, timeout_s: float) -> dict[str, str]:
        return _versions(await self._call(session, "GET", "/healthz", None, timeout_s), self.server)

    async def _call(
        self, session: aiohttp.ClientSession, verb: str, path: str, body: object, timeout_s: float
    ) -> bytes:
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        try:
            async with session.request(
                verb, self.server + path, json=body, timeout=timeout, allow_redirects=False
            ) as response:
                raw = await response.read()
        except TimeoutError as error:
            raise RewardServerError(FailureKind.TIMEOUT, f"no answer within {timeout_s:g} s", self.server) from error
        except (aiohttp.ClientError, OSError) as error:
            raise RewardServerError(FailureKind.UNAVAILABLE, _unreachable(error), self.server) from error
        if response.status != 200:
            raise classify_status(response.status, raw, self.server)
        return raw

    def _results(self, raw: bytes, decode: Callable[[object, str], R]) -> list[R]:
        try:
            return [decode(entry, f"results[{i}]") for i, entry in enumerate(body_list(parse_body(raw), "results"))]
        except WireError as error:
            raise _malformed(error, self.server) from error


def check_url(url: str, token: str = "", timeout_s: float = 5.0) -> dict[str, str]:
    """Ask a reward server over HTTP whether it is healthy; plain and synchronous, needs no Ray and no event loop.

    Returns:
        Deployment name -> version of the model it serves.

    Raises:
        RewardServerError: it is not, or not reachable, or refuses the token. The message says what to do.
        ValueError: `url` is not an http(s) URL.
    """
    server = checked_url(url)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect())
    request = urllib.request.Request(f"{server}/healthz", headers=_headers(token))
    try:
        with opener.open(request, timeout=timeout_s) as response:
            raw = response.read()
    except urllib.error.HTTPError as error:
        raise classify_status(error.code, error.read(_LONGEST_ERROR_BODY), server) from error
    except TimeoutError as error:
        raise RewardServerError(FailureKind.TIMEOUT, f"no answer within {timeout_s:g} s", server) from error
    except (OSError, HTTPException) as error:
        raise RewardServerError(FailureKind.UNAVAILABLE, _unreachable(error), server) from error
    return _versions(raw, server)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the token to another host."""

    def redirect_request(self, *_args: Any, **_kwargs: Any) -> None:
        return None


def checked_url(url: str) -> str:
    """The URL without its closing slash; ServerUrlError when it is not one."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ServerUrlError(f"{url!r} is not the address of a reward server; it should look like http://host:8000")
    return url.rstrip("/")


def classify_status(status: int, raw: bytes, server: str) -> RewardServerError:
    """What an answer that is not 200 means.

    The gateway's own errors say their kind. One that does not comes from what stands before the gateway: Serve's proxy
    or a load balancer. There a 5xx means that no gateway answered, so it is worth a retry.
    """
    said = _own_error(raw)
    if said is not None:
        kind, message = said
        return RewardServerError(kind, message + _hint(status), server)
    text = raw[:200].decode(errors="replace").strip()
    return RewardServerError(_foreign_kind(status, text), f"HTTP {status}: {text or 'no body'}{_hint(status)}", server)


def _own_error(raw: bytes) -> tuple[FailureKind, str] | None:
    try:
        detail = json.loads(raw)["error"]
        return FailureKind(detail["kind"]), str(detail["message"])
    except (ValueError, KeyError, TypeError):
        return None


def _foreign_kind(status: int, text: str) -> FailureKind:
    if status == 429 or (status == 503 and "backpressure" in text.lower()):
        return FailureKind.OVERLOADED
    if status in (408, 504):
        return FailureKind.TIMEOUT
    if status == 404 or status >= 500:
        return FailureKind.UNAVAILABLE
    return FailureKind.INVALID_REQUEST


def _hint(status: int) -> str:
    hints = {
        401: "; set the token that the server was started with",
        404: "; no reward servers answer there: check the URL, and that they are running",
        413: "; send fewer or shorter requests in a call, or raise http.max_body_bytes",
    }
    return hints.get(status, "")


def _unreachable(error: BaseException) -> str:
    text = str(getattr(error, "reason", error)) or type(error).__name__
    return f"cannot be reached: {text}. Is it running, and is the URL right?"


def _versions(raw: bytes, server: str) -> dict[str, str]:
    try:
        versions = parse_body(raw).get("models")
    except WireError as error:
        raise _malformed(error, server) from error
    if not isinstance(versions, dict) or not all(isinstance(version, str) for version in versions.values()):
        raise _malformed(WireError("no `models` object of names and versions"), server)
    return versions


def _malformed(error: WireError, server: str) -> RewardServerError:
    message = f"answered something else than a reward server of this version does: {error}. Check the URL"
    return RewardServerError(FailureKind.INTERNAL, message, server)


def _headers(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}
