"""A learner's step on a CPU with the C library's own way of giving memory back, and with `rl.allocator`, in one run.

    python -m benchmarks.allocator --repeats 5

Three processes hold the same model and groups and take turns: one as the C library is, one that keeps what it frees,
and one that gives it back after every step. Prints the median step of each, the pages that it maps anew, what the
process holds after it, and the ratios.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import time
from enum import StrEnum
from multiprocessing.connection import Connection
from typing import NamedTuple

import psutil
import torch

from benchmarks.learner_step import SHAPES, PlainLoop, groups_of
from rl.allocator import keep_freed_memory, return_freed_memory
from rl.batching import collate, plan
from rl.config import Dtype, LoraConfig, ModelConfig
from rl.models import resolve_model

LIMIT_S = 300


class Way(StrEnum):
    PLAIN = "as the C library is"
    KEEPS = "keeps what it frees"
    RETURNS = "keeps it during a step only"


class Measured(NamedTuple):
    seconds: float
    faults: int
    held_mib: int


def steps(turns: Connection, way: Way, model: str) -> None:
    """In a process of its own: after every message one step, answered with what it took."""
    if way is not Way.PLAIN and not keep_freed_memory():
        raise SystemExit("the allocator of this C library cannot be told to keep memory")
    loop = PlainLoop(resolve_model(model), ModelConfig(dtype=Dtype.float32, lora=LoraConfig(rank=32)), torch.float32)
    batches = [collate(rows) for rows in plan(groups_of(SHAPES["quickstart"])[:2], 1, 1024)[0]]
    turns.send(None)
    while turns.recv():
        started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        loop.step_shared(batches)
        if way is Way.RETURNS:
            return_freed_memory()
        took = time.perf_counter() - started
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        turns.send(Measured(took, faults, psutil.Process().memory_info().rss >> 20))


def answer(turns: Connection) -> Measured:
    if not turns.poll(LIMIT_S):
        raise SystemExit(f"no step in {LIMIT_S} s")
    return turns.recv()  # type: ignore[no-any-return]


def start(way: Way, model: str) -> Connection:
    """A process that computes in this way and waits for its first turn."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    context.Process(target=steps, args=(theirs, way, model), daemon=True).start()
    answer(ours)
    return ours


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    sides = {way: start(way, options.model) for way in Way}
    found: dict[Way, list[Measured]] = {way: [] for way in Way}
    for turn in range(options.repeats + 1):
        for way, turns in sides.items():
            turns.send(True)
            measured = answer(turns)
            if turn:  # the first is for warming up
                found[way].append(measured)
    for turns in sides.values():
        turns.send(False)
    medians = {way: Measured(*map(statistics.median, zip(*several, strict=True))) for way, several in found.items()}
    for way, (seconds, faults, held) in medians.items():
        ratio = medians[Way.PLAIN].seconds / seconds
        print(f"{way:28} {seconds:6.2f} s  {faults:8.0f} pages  holds {held:5.0f} MiB  {ratio:.2f} times as fast")


if __name__ == "__main__":
    main()
