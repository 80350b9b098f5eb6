"""Who asks: the name under which a caller's calls take turns with those of others.

The name is told, not proved: it shares the servers fairly among trainers that mean well, and keeps nobody out.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from reward_servers.failures import RewardServerError
from reward_servers.protocol import FailureKind
from reward_servers.service_config import GATEWAY

CALLER_VARIABLE = "RAPPORT_CALLER"
CALLER_HEADER = "X-Rapport-Caller"
_LONGEST = 100


def caller_of_process() -> str:
    """`RAPPORT_CALLER`, with which the processes of one trainer can be one caller; else this process on its machine."""
    return os.environ.get(CALLER_VARIABLE, "") or f"{socket.gethostname()}:{os.getpid()}"


def shortened(name: str) -> str:
    """A name that came from outside, within a bound."""
    return name[:_LONGEST]


class CallsOfEach:
    """How many calls each caller has open at a gateway; no one may hold so many that others find no place."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: dict[str, int] = {}

    @contextmanager
    def call_of(self, caller: str) -> Iterator[None]:
        """Count a call as open inside the `with`.

        Raises:
            RewardServerError: the caller has as many open as it may (OVERLOADED).
        """
        count = self._open.get(caller, 0)
        if count >= self._most:
            message = f"the caller {caller!r} has {count} calls open, as many as one may; send less at a time"
            raise RewardServerError(FailureKind.OVERLOADED, message, GATEWAY)
        self._open[caller] = count + 1
        try:
            yield
        finally:
            self._open[caller] -= 1
            if not self._open[caller]:
                del self._open[caller]
