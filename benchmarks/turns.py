"""Contestants of a benchmark, each in a process of its own, that take turns: load from outside hits all alike."""

from __future__ import annotations

import multiprocessing
import os
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import psutil

Step = Callable[[], object]


@dataclass(frozen=True)
class Contestant:
    """`make(*arguments)` is called in the process and returns what is measured; both must be picklable.

    `environment` is added to that of the process before it starts.
    """

    make: Callable[..., Step]
    arguments: tuple[Any, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


class Measured(NamedTuple):
    """Of one step: seconds, pages mapped anew, and MiB that the process holds after it."""

    seconds: float
    faults: float
    held_mib: float


def take_turns(contestants: Mapping[str, Contestant], repeats: int, limit_s: float = 600.0) -> dict[str, Measured]:
    """Medians over `repeats` steps of each, after one that is not counted.

    Raises:
        SystemExit: a contestant ended, or took longer than `limit_s` for a step.
    """
    found: dict[str, list[Measured]] = {name: [] for name in contestants}
    pipes = {name: _start(contestant) for name, contestant in contestants.items()}
    for name, pipe in pipes.items():
        _answer(name, pipe, limit_s)
    for turn in range(repeats + 1):
        for name, pipe in pipes.items():
            pipe.send(True)
            measured = _answer(name, pipe, limit_s)
            if turn:
                found[name].append(measured)
    for pipe in pipes.values():
        pipe.send(False)
    return {name: Measured(*map(statistics.median, zip(*several, strict=True))) for name, several in found.items()}


def _start(contestant: Contestant) -> Connection:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    with _environment(contestant.environment):
        context.Process(target=_serve, args=(theirs, contestant), daemon=True).start()
    theirs.close()  # so that a process that dies is noticed at once
    return ours


def _serve(turns: Connection, contestant: Contestant) -> None:
    step = contestant.make(*contestant.arguments)
    turns.send(None)
    while turns.recv():
        started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        step()
        took = time.perf_counter() - started
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        turns.send(Measured(took, faults, psutil.Process().memory_info().rss >> 20))


def _answer(name: str, pipe: Connection, limit_s: float) -> Any:
    try:
        if not pipe.poll(limit_s):
            raise SystemExit(f"{name}: no step in {limit_s:.0f} s")
        return pipe.recv()
    except EOFError:
        raise SystemExit(f"{name}: its process ended; what it said is above") from None


@contextmanager
def _environment(added: Mapping[str, str]) -> Iterator[None]:
    before = {key: os.environ.get(key) for key in added}
    os.environ.update(added)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value
