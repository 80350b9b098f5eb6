"""A model behind any OpenAI-compatible chat endpoint: vLLM, llama.cpp, a hosted one.

    POST <url>/chat/completions    bearer token if there is one; at most `concurrency` calls in flight
    GET  <url>/models              only where the model's name is not given and the server has a single one

A call that timed out, was refused or met a busy or broken server is made again, at most `retries` times, after a pause
with full jitter; a server's Retry-After is respected up to the longest pause. Any other refusal is final.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx

from evaluation.files import EvaluationDataError, shown
from evaluation.replies import Question, Reply, ReplyError, ReplyFailure, ReplyResult, Sampling
from reward_servers.client import RetryPolicy
from reward_servers.protocol import FailureKind

logger = logging.getLogger(__name__)

Pace = Callable[[], Awaitable[None]]

_TIMEOUTS = (408, 504)
_SHOWN = 200  # characters of a server's error
_QUIET_S = 10.0  # after a warning nothing is said of the same trouble: hundreds of questions meet it at once


class _CallError(Exception):
    """One call that gave no answer; `attempts` counts it and those before it."""

    def __init__(self, kind: FailureKind, message: str, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.retry_after_s = retry_after_s
        self.attempts = 1


@asynccontextmanager
async def open_endpoint(
    url: str,
    name: str | None = None,
    token: str = "",
    policy: RetryPolicy | None = None,
    pace: Pace | None = None,
    thinking: bool | None = None,
) -> AsyncIterator[ChatEndpoint]:
    """The model `name` at `url`, for example http://127.0.0.1:8000/v1; the server's only model if `name` is None.

    `pace`, if there is one, is awaited before each call, retries included. `thinking` is handed to the server as
    `chat_template_kwargs`, as vLLM takes it; None says nothing of it.

    Raises:
        EvaluationDataError: `url` is not an http(s) URL, or the server has several models and `name` is None.
        ReplyError: the server does not say which models it has.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise EvaluationDataError(f"{url!r} is not the address of a model; it should look like http://host:8000/v1")
    policy = policy or RetryPolicy(timeout_s=300.0)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    limits = httpx.Limits(max_connections=policy.concurrency)
    certificates = parts.scheme == "https"  # not read where none are checked: that takes a second
    async with httpx.AsyncClient(
        headers=headers, limits=limits, timeout=policy.timeout_s, verify=certificates
    ) as client:
        endpoint = ChatEndpoint(client, url.rstrip("/"), name or "", policy, pace, thinking)
        if name is None:
            endpoint.name = await endpoint.only_model()
        yield endpoint


class ChatEndpoint:
    """See `open_endpoint`, which makes one. Belongs to one event loop."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        url: str,
        name: str,
        policy: RetryPolicy,
        pace: Pace | None = None,
        thinking: bool | None = None,
    ) -> None:
        self.name = name
        told = {"chat_template_kwargs": {"enable_thinking": thinking}}
        self._extra: dict[str, Any] = {} if thinking is None else told
        self._client = client
        self._url = url
        self._policy = policy
        self._pace = pace
        self._slots = asyncio.Semaphore(policy.concurrency)
        self._random = random.Random()
        self._told_at: dict[str, float] = {}

    @property
    def identity(self) -> str:
        return f"{self._url} {self.name} {self._extra or ''}".rstrip()

    async def reply(self, question: Question, sampling: Sampling) -> ReplyResult:
        body = {
            "model": self.name,
            "messages": list(question.messages),
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "seed": sampling.seed,
            **self._extra,
        }
        try:
            return Reply(question.id, _content(await self._settle("POST", "/chat/completions", body)))
        except _CallError as error:
            return ReplyFailure(question.id, error.kind, error.message, error.attempts)

    async def only_model(self) -> str:
        """The name of the single model that the server has; errors as `open_endpoint`."""
        try:
            models = (await self._settle("GET", "/models", None)).get("data")
        except _CallError as error:
            raise ReplyError(f"{self._url}/models: {error.message} ({error.kind.value})") from error
        entries = models if isinstance(models, list) else []
        names = [str(entry["id"]) for entry in entries if isinstance(entry, dict) and "id" in entry]
        if len(names) != 1:
            found = ", ".join(names) or "none"
            raise EvaluationDataError(
                f"{self._url} has these models: {found}; say which one with --model-name, or --judge-name for a judge"
            )
        return names[0]

    async def _settle(self, verb: str, path: str, body: object) -> dict[str, Any]:
        """The object that was answered; raises the `_CallError` of the last call."""
        retries = self._policy.retries
        for attempt in range(1, retries + 2):
            try:
                async with self._slots:
                    if self._pace is not None:
                        await self._pace()
                    return await self._call(verb, path, body)
            except _CallError as error:
                error.attempts = attempt
                if not error.kind.retryable or attempt > retries:
                    raise
                await self._pause(attempt, error)
        raise AssertionError("the last attempt returns or raises")

    async def _call(self, verb: str, path: str, body: object) -> dict[str, Any]:
        timeout_s = self._policy.timeout_s
        try:
            async with asyncio.timeout(timeout_s):  # of the whole call: httpx bounds each read alone
                response = await self._client.request(verb, self._url + path, json=body)
        except (TimeoutError, httpx.TimeoutException) as error:
            raise _CallError(FailureKind.TIMEOUT, f"no answer within {timeout_s:g} s") from error
        except httpx.HTTPError as error:
            why = str(error) or type(error).__name__
            message = f"cannot be reached: {why}. Is it running, and is the URL right?"
            raise _CallError(FailureKind.UNAVAILABLE, message) from error
        if response.status_code != 200:
            raise _refused(response)
        return _object(response)

    async def _pause(self, attempt: int, error: _CallError) -> None:
        longest = self._policy.longest_pause_s(attempt)
        asked = min(error.retry_after_s, self._policy.max_backoff_s)
        pause = max(asked, self._random.uniform(0, longest))
        if self._is_news(error.message):
            why = f"{self._url}: {error.message}"
            logger.warning("%s; calls are made again, at most %d times each", why, self._policy.retries)
        await asyncio.sleep(pause)

    def _is_news(self, trouble: str) -> bool:
        now = time.monotonic()
        news = now - self._told_at.get(trouble, -math.inf) > _QUIET_S
        if news:
            self._told_at[trouble] = now
        return news


def _refused(response: httpx.Response) -> _CallError:
    status = response.status_code
    hints = {401: "; is the token right?", 403: "; is the token right?", 404: "; are URL and model name right?"}
    message = f"HTTP {status}: {response.text[:_SHOWN].strip() or 'no body'}{hints.get(status, '')}"
    return _CallError(_kind(status), message, _seconds(response.headers.get("Retry-After", "")))


def _kind(status: int) -> FailureKind:
    if status in _TIMEOUTS:
        return FailureKind.TIMEOUT
    if status == 429:
        return FailureKind.OVERLOADED
    return FailureKind.UNAVAILABLE if status >= 500 else FailureKind.INVALID_REQUEST


def _seconds(text: str) -> float:
    """Retry-After in seconds; 0 where it is absent or a date."""
    return float(text) if text.isascii() and text.isdigit() else 0.0


def _object(response: httpx.Response) -> dict[str, Any]:
    try:
        answer = response.json()
    except (ValueError, RecursionError) as error:
        raise _CallError(FailureKind.INTERNAL, f"answered no JSON: {shown(response.text)}") from error
    if not isinstance(answer, dict):
        raise _CallError(FailureKind.INTERNAL, f"answered {shown(answer)}; expected an object")
    return answer


def _content(answer: dict[str, Any]) -> str:
    """The text of the first choice. A null content is an empty reply: the model's tokens all went elsewhere."""
    try:
        content = answer["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError) as error:
        raise _CallError(FailureKind.INTERNAL, f"no choices[0].message.content in {shown(answer)}") from error
    if content is not None and not isinstance(content, str):
        raise _CallError(FailureKind.INTERNAL, f"content is {shown(content)}; expected a text")
    return (content or "").encode("utf-8", errors="replace").decode()  # no half of a surrogate pair
