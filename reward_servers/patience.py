"""Two ways for a client not to wait in vain: ask a second replica when one is slow, and stop asking dead servers.

Both are off unless a `RetryPolicy` turns them on. Neither makes up an answer: a hedge is the same idempotent call made
twice, and a call that an open circuit refuses is a failure like any other, retried after a pause.

    circuit   closed --`failures` calls in a row failed--> open --`pause_s` later--> half open: one call tries
                 ^                                          ^                            |        |
                 +------------ it was answered -------------|----------------------------+        |
                                                            +-------- it failed ------------------+
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from reward_servers.failures import RewardServerError
from reward_servers.protocol import FailureKind

T = TypeVar("T")
_SIGNS_OF_DEATH = (FailureKind.TIMEOUT, FailureKind.UNAVAILABLE)


async def hedged(call: Callable[[], Awaitable[T]], spare: Callable[[], Awaitable[T]], after_s: float) -> T:
    """The answer of `call`, or of `spare` begun when `call` took longer than `after_s`, whichever succeeds first.

    Both on one replica cost nothing: there, equal work in flight is joined. The one that is late is cancelled.

    Raises:
        Exception: both failed: the first call's error.
    """
    tasks = [asyncio.ensure_future(call())]
    try:
        await asyncio.wait(tasks, timeout=after_s)
        if tasks[0].done():
            return await tasks[0]
        tasks.append(asyncio.ensure_future(spare()))
        pending = set(tasks)
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if task.exception() is None:
                    return task.result()
        return await tasks[0]  # both failed: raises
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Circuit:
    """Counts calls in a row that met no living server. Not for several threads."""

    def __init__(self, failures: int, pause_s: float) -> None:
        """`failures` = 0 never opens."""
        self._most = failures
        self._pause_s = pause_s
        self._in_a_row = 0
        self._open_until = 0.0
        self._tries = False  # the one call of a half-open circuit is under way
        self._last = ""

    async def guard(self, call: Callable[[], Awaitable[T]], server: str) -> T:
        """Make the call unless the circuit is open.

        Raises:
            CircuitOpenError: it is open; no call was made.
            RewardServerError: the call's own.
        """
        tries = bool(self._most) and self._in_a_row >= self._most
        if tries:
            if self._tries or time.monotonic() < self._open_until:
                message = f"not asked: the last {self._in_a_row} calls met no living server; the last: {self._last}"
                raise CircuitOpenError(FailureKind.UNAVAILABLE, message, server)
            self._tries = True
        try:
            answer = await call()
        except RewardServerError as error:
            self._count(error)
            raise
        finally:
            if tries:
                self._tries = False
        self._in_a_row = 0
        return answer

    def _count(self, error: RewardServerError) -> None:
        """A server that refuses or is overloaded is alive."""
        if error.kind not in _SIGNS_OF_DEATH:
            self._in_a_row = 0
            return
        self._in_a_row += 1
        self._last = error.message
        self._open_until = time.monotonic() + self._pause_s


class CircuitOpenError(RewardServerError):
    """A call that was not made, because those before it met no living server."""
