"""Tokens per second of a fine-tuning step with padded, length-grouped and packed rows, as ratios within one run.

    .venv/bin/python -m benchmarks.sft_packing --rounds 3 data.folder=PATH
    .venv/bin/python -m benchmarks.sft_packing --rounds 5 model.path=tiny-qwen3

Three contestants take turns with the trainer of `rapport sft train` on the same corpus, losses and model:

    padded     batches as they are drawn, every row as long as the longest of its batch
    grouped    sequences of similar length put together (the default of `rapport sft`)
    packed     as drawn, several sequences in a row

All do `optimizer.batch x optimizer.accumulation` sequences a step; tokens/s counts real tokens only, and `filled` is
their share of all places of a batch. The first step of each warms up and is not counted.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field

from sft.base import pick_device
from sft.batching import Batch
from sft.config_loading import load_config
from sft.preparing import prepare
from sft.tokens import TokenSequence
from sft.training import Trainer

CONTESTANTS = {
    "padded": ("data.length_window=1", "data.packing=false"),
    "grouped": ("data.length_window=32", "data.packing=false"),
    "packed": ("data.length_window=1", "data.packing=true"),
}


class Watched(Trainer):
    """A trainer that notes how full its batches are."""

    filled = 0.0

    def _next_batches(self) -> list[tuple[list[TokenSequence], Batch]]:
        batches = super()._next_batches()
        tokens = sum(int(batch.attention.sum()) for _, batch in batches)
        self.filled = tokens / sum(batch.ids.numel() for _, batch in batches)
        return batches


@dataclass
class Score:
    """One value a round."""

    tokens_per_s: list[float] = field(default_factory=list)
    filled: list[float] = field(default_factory=list)


def compete(overrides: Sequence[str], rounds: int) -> dict[str, Score]:
    """`rounds` counted steps of each contestant, in turn."""
    with tempfile.TemporaryDirectory() as folder:
        trainers = {
            name: Watched(prepare(load_config("quickstart", [f"output_dir={folder}", *overrides, *own])), pick_device())
            for name, own in CONTESTANTS.items()
        }
        scores = {name: Score() for name in trainers}
        for number in range(rounds + 1):
            for name, trainer in trainers.items():
                values = trainer.update()
                if number:
                    scores[name].tokens_per_s.append(values["tokens_per_s"])
                    scores[name].filled.append(trainer.filled)
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("overrides", nargs="*", help="key=value of the preset quickstart")
    asked = parser.parse_args()
    scores = compete(asked.overrides, asked.rounds)
    base = statistics.median(scores["padded"].tokens_per_s)
    for name, score in scores.items():
        speed, filled = statistics.median(score.tokens_per_s), statistics.mean(score.filled)
        each = " ".join(f"{value:.0f}" for value in score.tokens_per_s)
        print(f"{name:<8} {speed:7.0f} tokens/s  {speed / base:5.2f} x padded  filled {filled:.0%}  ({each})")


if __name__ == "__main__":
    main()
