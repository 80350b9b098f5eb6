"""The client of the reward servers: a score or a `ScoreFailure` for every reply, in order, in bounded time.

    requests -> calls of `requests_per_call` -> at most `concurrency` in flight -> results in the order of the requests
                     ^                                     |
                     +---- what failed retryably, after a pause, at most `retries` times

Invariants
    Exactly one answer for each request, never an exception for a scoring failure, never a number for a failure.
    Scoring is idempotent, so a call whose replica died is simply made again.
    A call that failed as a whole is retried as two halves: a reply that kills its server ends up alone.
Errors of the caller (a request of the wrong type, no Ray in the process) are raised.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, TypeVar
from weakref import WeakKeyDictionary

from reward_servers.failures import RewardServerError
from reward_servers.http_transport import HttpTransport, check_url
from reward_servers.patience import Circuit, CircuitOpenError, hedged
from reward_servers.protocol import FailureKind, ScoreFailure, ScoreRequest, ScoreResult, TagResult

__all__ = ["RetryPolicy", "RewardClient", "RewardServerError", "check_url"]

logger = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")
_Call = Callable[[Sequence[T]], Awaitable[list[R]]]


@dataclass(frozen=True)
class RetryPolicy:
    """Bounds of a client.

    Attributes:
        timeout_s: longest one call may take.
        retries: further calls for a request whose failure is retryable.
        backoff_s: the pause before retry k is uniform in [0, min(backoff_s * 2**(k - 1), max_backoff_s)] ("full
            jitter": clients that failed together do not come back together).
        concurrency: calls of this client in flight, over all its users in one event loop.
        requests_per_call: replies sent together; small enough to spread over replicas, large enough to save calls.
        hedge_after_s: a call that takes longer is made once more, where a slot is free, and the first answer counts; so
            a call may take this much longer than `timeout_s`. 0 never. Worth it with several replicas: set it to what
            nearly all calls stay below.
        breaker_failures: after so many calls in a row that timed out or met no server, further ones fail at once for
            `breaker_pause_s`, instead of each waiting for its own time-out; then one call tries. 0 never.
    """

    timeout_s: float = 60.0
    retries: int = 4
    backoff_s: float = 0.5
    max_backoff_s: float = 10.0
    concurrency: int = 16
    requests_per_call: int = 8
    hedge_after_s: float = 0.0
    breaker_failures: int = 0
    breaker_pause_s: float = 5.0

    def __post_init__(self) -> None:
        if min(self.timeout_s, self.concurrency, self.requests_per_call) <= 0:
            raise ValueError(f"timeout_s, concurrency and requests_per_call must be above 0: {self}")
        if min(self.retries, self.backoff_s, self.max_backoff_s) < 0:
            raise ValueError(f"retries, backoff_s and max_backoff_s must be 0 or more: {self}")
        if min(self.hedge_after_s, self.breaker_failures, self.breaker_pause_s) < 0:
            raise ValueError(f"hedge_after_s, breaker_failures and breaker_pause_s must be 0 or more: {self}")

    def longest_pause_s(self, retry: int) -> float:
        """Upper end of the pause before retry `retry` (1, 2, ...)."""
        return min(self.backoff_s * 2 ** (retry - 1), self.max_backoff_s)


class Transport(Protocol):
    """A way to reach a gateway. Every method raises `RewardServerError` for whatever goes wrong."""

    server: str

    def session(self) -> AbstractAsyncContextManager[Any]: ...

    def score(
        self, session: Any, requests: Sequence[ScoreRequest], timeout_s: float
    ) -> Awaitable[list[ScoreResult]]: ...

    def tag(
        self, session: Any, responses: Sequence[tuple[str, str]], timeout_s: float
    ) -> Awaitable[list[TagResult]]: ...

    def health(self, session: Any, timeout_s: float) -> Awaitable[dict[str, str]]: ...


class RewardClient:
    """Asks the reward servers for scores. Safe to share between tasks, to use in several event loops, and to pickle."""

    def __init__(self, transport: Transport, policy: RetryPolicy) -> None:
        self._transport = transport
        self._policy = policy
        self._random = random.Random()  # its own: jitter must not advance a training run's generator
        self._circuit = Circuit(policy.breaker_failures, policy.breaker_pause_s)
        self._slots: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()

    @classmethod
    def in_cluster(cls, app_name: str, policy: RetryPolicy | None = None, caller: str = "") -> RewardClient:
        """A client of the application `app_name` in the Ray cluster of this process.

        The servers take turns between callers, by default between Ray jobs.
        """
        from reward_servers.handles import HandleTransport  # imports Ray, which a client over HTTP can do without

        return cls(HandleTransport(app_name, caller), policy or RetryPolicy())

    @classmethod
    def over_http(cls, url: str, token: str = "", policy: RetryPolicy | None = None, caller: str = "") -> RewardClient:
        """A client of the reward servers at `url`, for example http://10.0.0.7:8000; ValueError if it is no URL.

        The servers take turns between callers, by default between processes; the variable RAPPORT_CALLER names one.
        """
        return cls(HttpTransport(url, token, caller), policy or RetryPolicy())

    @property
    def server(self) -> str:
        """What this client talks to, for messages."""
        return self._transport.server

    async def score(self, requests: Sequence[ScoreRequest]) -> list[ScoreResult]:
        """One answer for each request, in order."""
        for request in requests:
            if not isinstance(request, ScoreRequest):
                raise TypeError(f"expected a ScoreRequest, got {request!r}")
        return await self._all([(request.id, request) for request in requests], self._transport.score)

    async def tag(self, responses: Sequence[str]) -> list[TagResult]:
        """Sentences and tactics of each reply, in order, without an empathy score; failures as in `score`.

        `request_id` of a failure is the place of the reply in `responses`.
        """
        named = [(str(i), (str(i), _text(response))) for i, response in enumerate(responses)]
        return await self._all(named, self._transport.tag)

    async def health(self) -> dict[str, str]:
        """Deployment name -> model version.

        Raises:
            RewardServerError: the servers are not healthy after all retries; the message says what to do.
        """
        async with self._transport.session() as session:
            for retry in range(1, self._policy.retries + 1):
                try:
                    return await self._transport.health(session, self._policy.timeout_s)
                except RewardServerError as error:
                    if not error.kind.retryable:
                        raise
                    await self._pause(retry, str(error))
            return await self._transport.health(session, self._policy.timeout_s)

    def score_sync(self, requests: Sequence[ScoreRequest]) -> list[ScoreResult]:
        """`score` for scripts; not inside an event loop."""
        return asyncio.run(self.score(requests))

    def tag_sync(self, responses: Sequence[str]) -> list[TagResult]:
        """`tag` for scripts; not inside an event loop."""
        return asyncio.run(self.tag(responses))

    def health_sync(self) -> dict[str, str]:
        """`health` for scripts; not inside an event loop."""
        return asyncio.run(self.health())

    async def _all(self, named: Sequence[tuple[str, T]], call: Any) -> list[R | ScoreFailure]:
        size = self._policy.requests_per_call
        async with self._transport.session() as session:
            one_call = partial(_call, call, session, self._policy.timeout_s)
            parts = [named[i : i + size] for i in range(0, len(named), size)]
            tasks = [asyncio.ensure_future(self._settle(part, one_call, attempt=1)) for part in parts]
            try:
                answers = await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
        return [result for part in answers for result in part]

    async def _settle(self, named: Sequence[tuple[str, T]], call: _Call[T, R], attempt: int) -> list[R | ScoreFailure]:
        """Call, and call again for what failed retryably; every item of `named` gets its answer."""
        results, whole = await self._attempt(named, call, attempt)
        again = [i for i, result in enumerate(results) if isinstance(result, ScoreFailure) and result.kind.retryable]
        if not again or attempt > self._policy.retries:
            return results
        await self._pause(attempt, f"{len(again)} of {len(named)} replies not scored; {_first_failure(results)}")
        for part in _halves(again) if whole else [again]:
            settled = await self._settle([named[i] for i in part], call, attempt + 1)
            for i, result in zip(part, settled, strict=True):
                results[i] = result
        return results

    async def _attempt(
        self, named: Sequence[tuple[str, T]], call: _Call[T, R], attempt: int
    ) -> tuple[list[R | ScoreFailure], bool]:
        """Results of one call, and whether it failed as a whole for a reason that one of its items may be."""
        async with self._slot():
            try:
                items = [item for _, item in named]
                results = await self._circuit.guard(partial(self._hedged, call, items), self.server)
                if len(results) != len(named):
                    message = f"{len(results)} answers to {len(named)} requests; are client and server of one version?"
                    raise RewardServerError(FailureKind.INTERNAL, message, self.server)
            except RewardServerError as error:
                failures = [ScoreFailure(name, error.kind, error.message, error.server, attempt) for name, _ in named]
                a_reply_may_be_why = error.kind is not FailureKind.OVERLOADED and not isinstance(
                    error, CircuitOpenError
                )
                return list(failures), a_reply_may_be_why
        return [replace(r, attempts=attempt) if isinstance(r, ScoreFailure) else r for r in results], False

    async def _hedged(self, call: _Call[T, R], items: list[T]) -> list[R]:
        """One call in the slot that is held; in a second slot, if one is free by then, the same call again."""
        after_s = self._policy.hedge_after_s
        if not after_s:
            return await call(items)

        async def spare() -> list[R]:
            if self._slot().locked():
                raise RewardServerError(FailureKind.OVERLOADED, "no slot for a second call", self.server)
            async with self._slot():
                return await call(items)

        return await hedged(partial(call, items), spare, after_s)

    async def _pause(self, retry: int, why: str) -> None:
        pause = self._random.uniform(0, self._policy.longest_pause_s(retry))
        logger.warning("%s; retry %d of %d in %.1f s", why, retry, self._policy.retries, pause)
        await asyncio.sleep(pause)

    def _slot(self) -> asyncio.Semaphore:
        return self._slots.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(self._policy.concurrency))

    def __reduce__(self) -> tuple[type[RewardClient], tuple[Transport, RetryPolicy]]:
        return RewardClient, (self._transport, self._policy)


async def _call(method: Any, session: Any, timeout_s: float, items: Sequence[Any]) -> list[Any]:
    return await method(session, items, timeout_s)


def _halves(places: list[int]) -> list[list[int]]:
    middle = len(places) // 2
    return [part for part in (places[:middle], places[middle:]) if part]


def _first_failure(results: Sequence[object]) -> str:
    failure = next(r for r in results if isinstance(r, ScoreFailure) and r.kind.retryable)
    return f"{failure.server}: {failure.message} ({failure.kind.value})"


def _text(response: object) -> str:
    if not isinstance(response, str):
        raise TypeError(f"expected the text of a reply, got {response!r}")
    return response
