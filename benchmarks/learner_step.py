"""One learner step against a plain PyTorch loop, as ratios within one run.

    .venv/bin/python -m benchmarks.learner_step --shape quickstart --repeats 3

Three contestants take the same groups, weights, dtype and adapter, and take turns:

    ours          the learner's worker (FSDP2 on one rank): batching, loss, metrics, optimizer
    plain         `PlainLoop` below on separate rows: n (P + L) tokens, logits at reply positions
    plain shared  the same loop on the shared-prompt batches of ours

It leaves out the KL term (all would pay the same for the reference) and Ray (nothing of it is inside a step).
"""

from __future__ import annotations

import argparse
import random
import socket
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from rl.batching import MicroBatch, collate, plan
from rl.config import Dtype, LearnerConfig, LoraConfig, LossConfig, ModelConfig, RunConfig
from rl.engines.head import Scoring
from rl.engines.model import compute_dtype, load_policy
from rl.engines.place import Place
from rl.engines.worker import RankWorker, be_quiet
from rl.models import resolve_model
from rl.types import TrainGroup


@dataclass(frozen=True)
class Shape:
    """Mean lengths in tokens; single prompts and replies vary by a fifth around them."""

    prompts: int
    prompt: int
    replies: int
    reply: int


SHAPES = {"quickstart": Shape(6, 200, 8, 64), "long": Shape(2, 1000, 8, 120), "smoke": Shape(2, 20, 4, 8)}


def groups_of(shape: Shape, seed: int = 0) -> list[TrainGroup]:
    draw = random.Random(seed)

    def tokens(mean: int) -> tuple[int, ...]:
        return tuple(draw.randrange(5, 4000) for _ in range(round(mean * draw.uniform(0.8, 1.2))))

    groups = []
    for _ in range(shape.prompts):
        replies = tuple(tokens(shape.reply) for _ in range(shape.replies))
        advantages = tuple((draw.gauss(0, 1),) * len(reply) for reply in replies)
        groups.append(TrainGroup(tokens(shape.prompt), replies, tuple((-8.0,) * len(r) for r in replies), advantages))
    return groups


class PlainLoop:
    """What one would write first: padded rows, one backward per micro-batch of 8 rows, clipped AdamW."""

    def __init__(self, folder: Path, model: ModelConfig, compute: torch.dtype) -> None:
        # The adapter is made as the learner makes it; the model and its attention are transformers' own.
        self.policy = load_policy(folder, model, store=torch.float32, compute=compute)
        self.compute = compute
        trained = [parameter for parameter in self.policy.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-6, weight_decay=0.0, fused=True)
        self.trained = trained

    def step(self, groups: Sequence[TrainGroup]) -> None:
        rows = [
            (g.prompt_ids, reply, advantages[0])
            for g in groups
            for reply, advantages in zip(g.response_ids, g.advantages, strict=True)
        ]
        total = sum(len(reply) for _, reply, _ in rows)
        for start in range(0, len(rows), 8):
            batch = rows[start : start + 8]
            ids = torch.zeros(len(batch), max(len(p) + len(r) for p, r, _ in batch), dtype=torch.int64)
            mask = torch.zeros_like(ids)
            for number, (prompt, reply, _) in enumerate(batch):
                ids[number, : len(prompt) + len(reply)] = torch.tensor([*prompt, *reply])
                mask[number, len(prompt) - 1 : len(prompt) + len(reply) - 1] = 1
            advantages = torch.tensor([advantage for *_, advantage in batch])
            where = mask.nonzero(as_tuple=True)
            with torch.autocast("cpu", dtype=self.compute, enabled=self.compute != torch.float32):
                states = self.policy.bare.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
                weight = self.policy.bare.get_output_embeddings().weight
                logits = torch.nn.functional.linear(states[where], weight)
            targets = ids[where[0], where[1] + 1]
            logprobs = logits.float().log_softmax(-1).gather(1, targets[:, None])[:, 0]
            self.backward(-(logprobs - logprobs.detach()).exp() * advantages[where[0]], total)
        self.update()

    def step_shared(self, batches: Sequence[MicroBatch]) -> None:
        total = float(sum(batch.response_mask.sum() for batch in batches))
        for batch in batches:
            with torch.autocast("cpu", dtype=self.compute, enabled=self.compute != torch.float32):
                logprobs, _ = self.policy(batch, Scoring())
            self.backward(-(logprobs - logprobs.detach()).exp() * batch.advantages * batch.response_mask, total)
        self.update()

    def backward(self, losses: torch.Tensor, total: float) -> None:
        (losses.sum() / total).backward()

    def update(self) -> None:
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def worker_of(folder: Path, model: ModelConfig, tokens: int) -> RankWorker:
    config = RunConfig(model=model, learner=LearnerConfig(micro_batch_tokens=tokens, loss=LossConfig(kl_coef=0.0)))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return RankWorker(config, folder, Place(0, 1, "127.0.0.1", port, neighbours=1))


def time_in_turns(contestants: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each, after one unmeasured round; turns are taken so that load from outside hits all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(repeats + 1):
        for name, run in contestants.items():
            started = time.perf_counter()
            run()
            if turn:
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--shape", choices=SHAPES, default="quickstart")
    parser.add_argument("--prompts", type=int, default=0, help="instead of the shape's own number")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--lora", type=int, nargs="*", default=[32, 0], help="adapter ranks; 0 is full fine-tuning")
    parser.add_argument("--dtype", nargs="*", choices=["auto", "float32", "bfloat16"], default=["auto"])
    parser.add_argument("--micro-batch-tokens", type=int, default=4096)
    options = parser.parse_args()
    be_quiet()
    shape = SHAPES[options.shape]
    shape = replace(shape, prompts=options.prompts or shape.prompts)
    folder, groups = resolve_model(options.model), groups_of(shape)
    batches = [collate(rows) for rows in plan(groups, 1, options.micro_batch_tokens)[0]]
    for dtype in options.dtype:
        for rank in options.lora:
            model = ModelConfig(dtype=Dtype(dtype), lora=LoraConfig(rank=rank))
            compute = compute_dtype(model.dtype, torch.device("cpu"))
            worker = worker_of(folder, model, options.micro_batch_tokens)
            loop = PlainLoop(folder, model, compute)
            seconds = time_in_turns(
                {
                    "ours": lambda worker=worker: worker.train(groups, 1.0),  # type: ignore[misc]
                    "plain": lambda loop=loop: loop.step(groups),  # type: ignore[misc]
                    "plain shared": lambda loop=loop: loop.step_shared(batches),  # type: ignore[misc]
                },
                options.repeats,
            )
            kind = f"LoRA r {rank}" if rank else "full"
            name = str(compute).removeprefix("torch.")
            print(
                f"{options.shape}, {shape.prompts} prompts, {kind}, {name}: ours {seconds['ours']:.2f} s, "
                f"plain {seconds['plain']:.2f} s, plain on shared batches {seconds['plain shared']:.2f} s; "
                f"plain/ours {seconds['plain'] / seconds['ours']:.2f}, "
                f"plain shared/ours {seconds['plain shared'] / seconds['ours']:.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
