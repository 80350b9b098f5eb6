"""How a failure of the reward servers travels: as an exception inside a process, as a value between processes.

A failure is classified once, where it is first seen. What is first seen inside a model replica and touches one item is
an `ItemFailure` in that item's place; what touches a whole call is a `RewardServerError`. The client turns both into
`ScoreFailure`. This module imports neither Ray nor a model, so that a check of a URL does not have to.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from reward_servers.protocol import FailureKind


class RewardServerError(RuntimeError):
    """A call to a reward server failed as a whole.

    Attributes:
        kind: why.
        message: for a person: what happened, the root cause, what to do.
        server: the deployment or URL that failed.
    """

    def __init__(self, kind: FailureKind, message: str, server: str) -> None:
        super().__init__(kind, message, server)
        self.kind = kind
        self.message = message
        self.server = server

    def __str__(self) -> str:
        return f"{self.server}: {self.message} ({self.kind.value})"


class UnfitItemError(ValueError):
    """An item that a model refuses whatever its state, such as a reply too long for its context: the caller's fault."""


@dataclass(frozen=True, slots=True)
class ItemFailure:
    """What stands in the place of one item's prediction when there is none."""

    kind: FailureKind
    message: str
    server: str


def root_cause(error: BaseException) -> str:
    """The innermost exception of a chain as `Type: first line`, which is what a person has to know."""
    innermost = list(_chain(error))[-1]
    lines = str(innermost).strip().splitlines()
    return f"{type(innermost).__name__}: {lines[0]}" if lines else type(innermost).__name__


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        hidden = None if link.__suppress_context__ else link.__context__
        link = link.__cause__ or hidden


def gateway_timeout_s(timeout_s: float) -> float:
    """How long of a call's time-out the gateway may wait for its model servers, s.

    The rest, a tenth but at least a second where that is not more than half, is for the way back: the gateway can then
    still say which model server was late, also on a busy machine.
    """
    return timeout_s - max(0.1 * timeout_s, min(1.0, 0.5 * timeout_s))
