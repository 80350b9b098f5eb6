"""Calls through Ray Serve handles: a time-out on each, and every way to fail classified once."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import ray
from ray import serve
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle

from reward_servers.callers import CALLER_VARIABLE
from reward_servers.failures import RewardServerError, gateway_timeout_s, root_cause
from reward_servers.protocol import FailureKind, ScoreRequest, ScoreResult, TagResult


async def ask(method: DeploymentHandle, *args: Any, server: str, timeout_s: float) -> Any:
    """Call a deployment's method and wait for its answer, at most `timeout_s` seconds.

    When the time is over the call is cancelled, so that work which has not begun is dropped.

    Raises:
        RewardServerError: the call failed, whatever the reason.
        asyncio.CancelledError: the task that asks was cancelled itself.
    """
    try:
        response = method.remote(*args)
    except (RayServeException, RayError) as error:
        raise classify(error, server) from error
    try:
        async with asyncio.timeout(timeout_s):
            return await response
    except asyncio.CancelledError as error:
        response.cancel()
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        message = "the call was dropped: the application is being shut down or replaced"
        raise RewardServerError(FailureKind.UNAVAILABLE, message, server) from error
    except TimeoutError as error:
        response.cancel()
        raise RewardServerError(FailureKind.TIMEOUT, late(timeout_s), server) from error
    except Exception as error:
        raise classify(error, server) from error


def late(timeout_s: float) -> str:
    """What is told of a server that did not answer in time."""
    return (
        f"no answer within {timeout_s:g} s; it is overloaded or hangs. "
        "Look at its replicas in `serve status`, raise the time-out or add replicas"
    )


def classify(error: BaseException, server: str) -> RewardServerError:
    """What an exception of a handle call means for the caller."""
    cause = error
    while isinstance(cause, RayTaskError) and isinstance(cause.cause, BaseException):
        cause = cause.cause
    if isinstance(cause, RewardServerError):
        return cause
    if isinstance(cause, TimeoutError):
        return RewardServerError(FailureKind.TIMEOUT, f"a call inside it timed out: {root_cause(cause)}", server)
    if isinstance(cause, BackPressureError):
        message = f"its queue is full: {cause.message} Send less at a time, or add replicas"
        return RewardServerError(FailureKind.OVERLOADED, message, server)
    if isinstance(cause, ActorDiedError | OutOfMemoryError):
        message = f"a replica died while it held the call (killed, out of memory or lost node): {root_cause(cause)}"
        return RewardServerError(FailureKind.UNAVAILABLE, message, server)
    if isinstance(cause, RayServeException | RayError) and not isinstance(cause, RayTaskError):
        message = f"it cannot be reached: {root_cause(cause)}. Is it running? `serve status` says"
        return RewardServerError(FailureKind.UNAVAILABLE, message, server)
    message = f"an error in the server's own code, please report it: {root_cause(cause)}"
    return RewardServerError(FailureKind.INTERNAL, message, server)


class HandleTransport:
    """Calls the gateway of an application in the Ray cluster this process is connected to.

    The application is looked up at the first call, so a client may be made, or sent to another process, before it runs.
    """

    def __init__(self, app_name: str, caller: str = "") -> None:
        """`caller` is the name under which the calls take turns with those of others; else the Ray job's."""
        self.server = f"Ray Serve application {app_name!r}"
        self._app_name = app_name
        self._caller = caller
        self._handle: DeploymentHandle | None = None

    @asynccontextmanager
    async def session(self) -> AsyncIterator[None]:
        """Nothing to open: handles keep their own connections."""
        yield

    async def score(self, _: None, requests: Sequence[ScoreRequest], timeout_s: float) -> list[ScoreResult]:
        gateway = await self._gateway(timeout_s)
        share = gateway_timeout_s(timeout_s)
        return await self._ask(gateway.score, list(requests), share, self._name(), timeout_s=timeout_s)

    async def tag(self, _: None, responses: Sequence[tuple[str, str]], timeout_s: float) -> list[TagResult]:
        gateway = await self._gateway(timeout_s)
        share = gateway_timeout_s(timeout_s)
        return await self._ask(gateway.tag, list(responses), share, self._name(), timeout_s=timeout_s)

    async def health(self, _: None, timeout_s: float) -> dict[str, str]:
        gateway = await self._gateway(timeout_s)
        return await self._ask(gateway.health, gateway_timeout_s(timeout_s), timeout_s=timeout_s)

    async def _ask(self, method: DeploymentHandle, *args: Any, timeout_s: float) -> Any:
        return await ask(method, *args, server=self.server, timeout_s=timeout_s)

    def _name(self) -> str:
        named = self._caller or os.environ.get(CALLER_VARIABLE, "")
        return named or f"job {ray.get_runtime_context().get_job_id()}"

    async def _gateway(self, timeout_s: float) -> DeploymentHandle:
        if self._handle is not None:
            return self._handle
        if not ray.is_initialized():
            raise RuntimeError("no Ray in this process: call ray.init() before scoring through a cluster's handles")
        try:
            async with asyncio.timeout(timeout_s):
                self._handle = await asyncio.to_thread(serve.get_app_handle, self._app_name)
        except TimeoutError as error:
            raise RewardServerError(
                FailureKind.TIMEOUT, f"Serve did not answer in {timeout_s:g} s", self.server
            ) from error
        except (RayServeException, RayError) as error:
            message = f"it is not running in this cluster; start_reward_servers starts it ({root_cause(error)})"
            raise RewardServerError(FailureKind.UNAVAILABLE, message, self.server) from error
        return self._handle

    def __reduce__(self) -> tuple[type[HandleTransport], tuple[str, str]]:
        return HandleTransport, (self._app_name, self._caller)
