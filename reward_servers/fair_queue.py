"""Turns at something that several callers want at once: who has had the least goes next.

    check() -> LineFullError                      (the caller already has `max_waiting` in line: its own doing)
    take()  -> waiting -> admitted -> the `with` ends -> done
                   └────> cancelled, its place is free

Invariants
    What is admitted costs at most `capacity` together; something larger is admitted alone.
    Of the callers that wait, the one that was given the least is next; what one caller wants keeps its order.
    Being away earns no credit: who comes back begins level with the others ("start-time fair queueing",
    Goyal, Vin and Cheng, SIGCOMM 1996, with one level and equal weights).
    A caller that neither waits nor holds anything is forgotten.
So one that floods the line waits behind itself: another's next piece waits for what is admitted, and then for at most
one piece of each other caller. All of it runs in one event loop, so there is no lock.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


class LineFullError(RuntimeError):
    """A caller has as much in line as it may. The others are not touched."""


@dataclass(eq=False, slots=True)
class _Place:
    cost: float
    turn: asyncio.Future[None]


@dataclass(eq=False, slots=True)
class _Caller:
    """`given` is the cost of what it was given, counted from the level at which it came."""

    given: float
    line: deque[_Place] = field(default_factory=deque)
    held: int = 0


class FairQueue:
    """Turns by cost. Belongs to one event loop.

    Args:
        capacity: cost that may be admitted at a time.
        max_waiting: pieces of one caller, from which on `check` refuses it.
    """

    def __init__(self, capacity: float, max_waiting: int) -> None:
        self._capacity = capacity
        self._max_waiting = max_waiting
        self._admitted = 0.0
        self._holders = 0
        self._level = 0.0  # what the caller that was served last had been given before
        self._callers: dict[str, _Caller] = {}

    @property
    def waiting(self) -> int:
        """Places in line, of all callers."""
        return sum(len(caller.line) for caller in self._callers.values())

    def check(self, name: str) -> None:
        """Whether `name` may line up with more work; asked once for work of several pieces.

        Raises:
            LineFullError: it has `max_waiting` in line already.
        """
        caller = self._callers.get(name)
        if caller is not None and len(caller.line) >= self._max_waiting:
            raise LineFullError(f"{len(caller.line)} pieces of the caller {name!r} wait already")

    @asynccontextmanager
    async def take(self, name: str, cost: float) -> AsyncIterator[None]:
        """Wait for a turn of the caller `name`, and hold `cost` of the capacity inside the `with`."""
        caller = self._callers.setdefault(name, _Caller(self._level))
        if not caller.line and not caller.held:
            caller.given = max(caller.given, self._level)
        place = _Place(cost, asyncio.get_running_loop().create_future())
        caller.line.append(place)
        self._admit()
        try:
            await place.turn
            yield
        finally:
            self._leave(name, caller, place)

    def _leave(self, name: str, caller: _Caller, place: _Place) -> None:
        if place in caller.line:  # cancelled while it waited
            caller.line.remove(place)
        else:
            caller.held -= 1
            self._holders -= 1
            self._admitted = self._admitted - place.cost if self._holders else 0.0
        if not caller.line and not caller.held:
            del self._callers[name]
        self._admit()

    def _admit(self) -> None:
        while waiting := [caller for caller in self._callers.values() if caller.line]:
            caller = min(waiting, key=lambda each: each.given)
            place = caller.line[0]
            if self._holders and self._admitted + place.cost > self._capacity:
                return
            caller.line.popleft()
            self._level = max(self._level, caller.given)
            caller.given += place.cost
            caller.held += 1
            self._holders += 1
            self._admitted += place.cost
            if not place.turn.done():
                place.turn.set_result(None)
