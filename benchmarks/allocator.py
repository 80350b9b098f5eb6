"""A learner's step on a CPU with the C library's own way of giving memory back, and with `rl.allocator`, in one run.

    python -m benchmarks.allocator --repeats 5

Four processes hold the same model and groups and take turns: one as the C library is, one with the environment of a
learner, one told by mallopt to keep what it frees, and one that gives it back after every step. Prints the median step
of each, the pages that it maps anew, what the process holds after it, and the ratios.
"""

from __future__ import annotations

import argparse
from enum import StrEnum

import torch

from benchmarks.learner_step import SHAPES, PlainLoop, groups_of
from benchmarks.turns import Contestant, Step, take_turns
from rl.allocator import KEEP_FREED_MEMORY, keep_freed_memory, return_freed_memory
from rl.batching import collate, plan
from rl.config import Dtype, LoraConfig, ModelConfig
from rl.models import resolve_model


class Way(StrEnum):
    PLAIN = "as the C library is"
    LEARNER = "environment of a learner"
    KEEPS = "keeps what it frees"
    RETURNS = "keeps it during a step only"


def step_in(way: Way, model: str) -> Step:
    if way in (Way.KEEPS, Way.RETURNS) and not keep_freed_memory():
        raise SystemExit("the allocator of this C library cannot be told to keep memory")
    loop = PlainLoop(resolve_model(model), ModelConfig(dtype=Dtype.float32, lora=LoraConfig(rank=32)), torch.float32)
    batches = [collate(rows) for rows in plan(groups_of(SHAPES["quickstart"])[:2], 1, 1024)[0]]

    def step() -> None:
        loop.step_shared(batches)
        if way is Way.RETURNS:
            return_freed_memory()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    environments = {Way.LEARNER: KEEP_FREED_MEMORY}
    contestants = {str(way): Contestant(step_in, (way, options.model), environments.get(way, {})) for way in Way}
    medians = take_turns(contestants, options.repeats)
    for way, (seconds, faults, held) in medians.items():
        ratio = medians[Way.PLAIN].seconds / seconds
        print(f"{way:28} {seconds:6.2f} s  {faults:8.0f} pages  holds {held:5.0f} MiB  {ratio:.2f} times as fast")


if __name__ == "__main__":
    main()
