"""At most so many calls a minute, evenly spread: what hosted judges ask of their callers."""

from __future__ import annotations

import asyncio
import time

from evaluation.files import EvaluationDataError


class Pace:
    """`await pace()` before each call, retries included. Calls begin at least 60 / `per_minute` seconds apart.

    Even spacing keeps to the limit in every window of a minute, wherever the server counts it from.
    """

    def __init__(self, per_minute: float) -> None:
        if not per_minute > 0:
            raise EvaluationDataError(f"calls per minute is {per_minute}, but must be above 0")
        self._apart_s = 60.0 / per_minute
        self._next = 0.0

    async def __call__(self) -> None:
        """Return when the next call may begin."""
        now = time.monotonic()
        begin = max(now, self._next)
        self._next = begin + self._apart_s  # reserved before the wait: callers queue in the order they came
        if begin > now:
            await asyncio.sleep(begin - now)
