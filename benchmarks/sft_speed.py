"""Tokens per second of fine-tuning with all heads and the safety KL, against Hugging Face's Trainer with LM loss only.

    .venv/bin/python -m benchmarks.sft_speed --rounds 2 --steps 2
    .venv/bin/python -m benchmarks.sft_speed --rounds 3 data.folder=PATH

Three contestants take turns on the same batches of the same sequences, with the same base and adapter:

    trainer    transformers.Trainer with a peft model: LM loss on the reply tokens
    LM only    ours with every other loss off
    all        ours with emotion, strategy and safety KL, as `rapport sft train` does it

The batches are those that `rapport sft` draws (length groups, accumulation), laid out once. tokens/s counts real tokens
of the student; neither padding nor what the teacher reads. The first step of each contestant warms up and is not
counted.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import torch

from sft.base import load_base, pick_device
from sft.batching import Batch, collate
from sft.config_loading import load_config
from sft.examples import Loss
from sft.model import add_adapter
from sft.preparing import Prepared, prepare
from sft.tokens import TokenSequence
from sft.training import Trainer

Drawn = list[tuple[list[TokenSequence], Batch]]
LM_ONLY = ("losses.emotion=0", "losses.strategy=0", "losses.safety=0")
TRAINER = "trainer"


class Given(Trainer):
    """A trainer that takes the batches it is given."""

    def steps(self, given: Sequence[Drawn]) -> float:
        """Seconds of one update with each of them."""
        started = time.perf_counter()
        for batches in given:
            self._given = batches
            self.update()
        return time.perf_counter() - started

    def _next_batches(self) -> Drawn:
        return self._given


class Plain:
    """transformers.Trainer on the same batches."""

    def __init__(self, prepared: Prepared, compute: torch.dtype, folder: str) -> None:
        config = prepared.config
        torch.manual_seed(config.seed)
        self._model = add_adapter(load_base(prepared.base, config.model, pick_device(), compute), config.model)
        self._optimizer, self._folder, self._compute = config.optimizer, folder, compute

    def steps(self, given: Sequence[Drawn]) -> float:
        """Seconds of one update with each of them."""
        from transformers import Trainer as HfTrainer
        from transformers import TrainerCallback, TrainingArguments

        class Clock(TrainerCallback):  # type: ignore[misc]
            started = ended = 0.0

            def on_train_begin(self, *_: Any, **__: Any) -> None:
                self.started = time.perf_counter()

            def on_step_end(self, *_: Any, **__: Any) -> None:
                self.ended = time.perf_counter()

        clock, flat = Clock(), [batch for batches in given for _, batch in batches]
        arguments = TrainingArguments(
            output_dir=self._folder,
            max_steps=len(given),
            per_device_train_batch_size=1,  # of batches that are laid out already
            gradient_accumulation_steps=self._optimizer.accumulation,
            learning_rate=self._optimizer.lr,
            bf16=self._compute is torch.bfloat16,
            fp16=self._compute is torch.float16,
            use_cpu=pick_device().type == "cpu",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            logging_strategy="no",
        )
        HfTrainer(
            model=self._model,
            args=arguments,
            train_dataset=[_labelled(batch) for batch in flat],
            data_collator=lambda items: items[0],
            callbacks=[clock],
        ).train()
        return clock.ended - clock.started


def _labelled(batch: Batch) -> dict[str, torch.Tensor]:
    """What a causal language model of transformers takes: a label stands at its own token, not before it."""
    labels, lm = torch.full_like(batch.ids, -100), batch.spots[Loss.LM]
    labels[lm.rows, lm.columns + 1] = lm.targets
    return {"input_ids": batch.ids, "attention_mask": batch.attention, "labels": labels}


def compete(overrides: Sequence[str], rounds: int, steps: int) -> dict[str, list[float]]:
    """Tokens per second of `steps` updates, one value a round, by contestant."""
    with tempfile.TemporaryDirectory() as folder:
        prepared = prepare(load_config("quickstart", [f"output_dir={folder}", *overrides]))
        lm_only = prepare(load_config("quickstart", [f"output_dir={folder}", *overrides, *LM_ONLY]))
        ours = Given(prepared, pick_device())
        contestants: dict[str, Plain | Given] = {
            TRAINER: Plain(prepared, ours.model.compute, folder),
            "LM only": Given(lm_only, pick_device()),
            "all": ours,
        }
        speeds: dict[str, list[float]] = {name: [] for name in contestants}
        for number in range(rounds + 1):
            given = [draw(ours) for _ in range(steps if number else 1)]
            tokens = sum(int(batch.attention.sum()) for batches in given for _, batch in batches)
            for name, contestant in contestants.items():
                seconds = contestant.steps(given)
                if number:
                    speeds[name].append(tokens / seconds)
    return speeds


def draw(trainer: Trainer) -> Drawn:
    """The batches of a step that hold something for the LM, so that every contestant has work in each."""
    pad_id, accumulation = trainer.prepared.pad_id, trainer.config.optimizer.accumulation
    found: Drawn = []
    while len(found) < accumulation:
        rows = [trainer.prepared.corpus.row(draw) for draw in trainer.groups.next_batch()]
        batch = collate(rows, pad_id)
        if len(batch.spots[Loss.LM]):
            found.append((rows, batch))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3, help="updates of each contestant in a round")
    parser.add_argument("overrides", nargs="*", help="key=value of the preset quickstart")
    asked = parser.parse_args()
    speeds = compete(asked.overrides, asked.rounds, asked.steps)
    base = statistics.median(speeds[TRAINER])
    for name, values in speeds.items():
        speed, each = statistics.median(values), " ".join(f"{value:.0f}" for value in values)
        print(f"{name:<8} {speed:7.0f} tokens/s  {base / speed:5.2f} x the time of the trainer  ({each})")


if __name__ == "__main__":
    main()
