"""A learner's step on a CPU with the C library's own way of giving memory back, and with `rl.allocator`, in one run.

    python -m benchmarks.allocator --repeats 5

Two processes hold the same model and groups and take turns; only one of them keeps what it frees. Prints the median
step of each, their ratio, and the pages that a step maps anew.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import time
from multiprocessing.connection import Connection

import torch

from benchmarks.learner_step import SHAPES, PlainLoop, groups_of
from rl.allocator import keep_freed_memory
from rl.batching import collate, plan
from rl.config import Dtype, LoraConfig, ModelConfig
from rl.models import resolve_model

LIMIT_S = 300


def steps(turns: Connection, keeps: bool, model: str) -> None:
    """In a process of its own: after every message one step, answered with its seconds and page faults."""
    if keeps and not keep_freed_memory():
        raise SystemExit("the allocator of this C library cannot be told to keep memory")
    loop = PlainLoop(resolve_model(model), ModelConfig(dtype=Dtype.float32, lora=LoraConfig(rank=32)), torch.float32)
    batches = [collate(rows) for rows in plan(groups_of(SHAPES["quickstart"])[:2], 1, 1024)[0]]
    turns.send(None)
    while turns.recv():
        started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        loop.step_shared(batches)
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        turns.send((time.perf_counter() - started, faults))


def answer(turns: Connection) -> tuple[float, int]:
    if not turns.poll(LIMIT_S):
        raise SystemExit(f"no step in {LIMIT_S} s")
    return turns.recv()  # type: ignore[no-any-return]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    found: dict[bool, list[tuple[float, int]]] = {}
    sides = {}
    for keeps in (False, True):
        sides[keeps], theirs = context.Pipe()
        context.Process(target=steps, args=(theirs, keeps, options.model), daemon=True).start()
        answer(sides[keeps])
    for turn in range(options.repeats + 1):
        for keeps, turns in sides.items():
            turns.send(True)
            measured = answer(turns)
            if turn:
                found.setdefault(keeps, []).append(measured)
    for turns in sides.values():
        turns.send(False)
    seconds = {keeps: statistics.median(took for took, _ in several) for keeps, several in found.items()}
    faults = {keeps: round(statistics.median(count for _, count in several)) for keeps, several in found.items()}
    print(
        f"gives back {seconds[False]:.2f} s ({faults[False]} pages), keeps {seconds[True]:.2f} s ({faults[True]} "
        f"pages); gives back / keeps {seconds[False] / seconds[True]:.2f}"
    )


if __name__ == "__main__":
    main()
