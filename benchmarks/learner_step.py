"""One learner step against a plain PyTorch loop, as ratios within one run.

    .venv/bin/python -m benchmarks.learner_step --shape quickstart --repeats 3

Three contestants take the same groups, weights, dtype and adapter, and take turns:

    ours          the learner's worker (FSDP2 on one rank): batching, loss, metrics, optimizer; in a process that keeps
                  the memory it frees, as learners on a CPU do (`rl.allocator`; --plain-allocator: as the others)
    plain         `PlainLoop` below on separate rows: n (P + L) tokens, logits at reply positions
    plain shared  the same loop on the shared-prompt batches of ours

Each is a process of its own. Left out: the KL term (all would pay the same for the reference) and Ray (nothing of it is
inside a step).
"""

from __future__ import annotations

import argparse
import random
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from benchmarks.turns import Contestant, Step, take_turns
from rl.allocator import KEEP_FREED_MEMORY
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
    """Mean lengths in tokens; single prompts and replies vary by a fifth around them.

    `rows` is what the plain loop takes at once: eight of 1,120 tokens need more than 24 GB. `tokens` bounds a shared
    micro-batch; smaller than a group, it would cut the group in two, and the prompt would be read twice.
    """

    prompts: int
    prompt: int
    replies: int
    reply: int
    rows: int = 8
    tokens: int = 1024


SHAPES = {
    "quickstart": Shape(6, 200, 8, 64),
    "long": Shape(2, 1000, 8, 120, rows=2, tokens=2560),
    "smoke": Shape(2, 20, 4, 8),
}


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
    """What one would write first: padded rows, one backward per micro-batch of rows, clipped AdamW."""

    def __init__(self, folder: Path, model: ModelConfig, compute: torch.dtype) -> None:
        # The adapter is made as the learner makes it; the model and its attention are transformers' own.
        self.policy = load_policy(folder, model, store=torch.float32, compute=compute)
        self.compute = compute
        trained = [parameter for parameter in self.policy.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-6, weight_decay=0.0, fused=True)
        self.trained = trained

    def step(self, groups: Sequence[TrainGroup], size: int) -> None:
        rows = [
            (g.prompt_ids, reply, advantages[0])
            for g in groups
            for reply, advantages in zip(g.response_ids, g.advantages, strict=True)
        ]
        total = sum(len(reply) for _, reply, _ in rows)
        for start in range(0, len(rows), size):
            batch = rows[start : start + size]
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


def ours(folder: Path, model: ModelConfig, shape: Shape) -> Step:
    be_quiet()
    config = RunConfig(
        model=model, learner=LearnerConfig(micro_batch_tokens=shape.tokens, loss=LossConfig(kl_coef=0.0))
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    worker, groups = RankWorker(config, folder, Place(0, 1, "127.0.0.1", port, neighbours=1)), groups_of(shape)
    return lambda: worker.train(groups, 1.0)


def plain(folder: Path, model: ModelConfig, shape: Shape) -> Step:
    be_quiet()
    loop, groups = PlainLoop(folder, model, compute_dtype(model.dtype, torch.device("cpu"))), groups_of(shape)
    return lambda: loop.step(groups, shape.rows)


def plain_shared(folder: Path, model: ModelConfig, shape: Shape) -> Step:
    be_quiet()
    loop = PlainLoop(folder, model, compute_dtype(model.dtype, torch.device("cpu")))
    batches = [collate(rows) for rows in plan(groups_of(shape), 1, shape.tokens)[0]]
    return lambda: loop.step_shared(batches)


def compare(folder: Path, model: ModelConfig, shape: Shape, options: argparse.Namespace) -> str:
    kept = {} if options.plain_allocator else KEEP_FREED_MEMORY
    medians = take_turns(
        {
            "ours": Contestant(ours, (folder, model, shape), kept),
            "plain": Contestant(plain, (folder, model, shape)),
            "plain shared": Contestant(plain_shared, (folder, model, shape)),
        },
        options.repeats,
    )
    seconds = {name: measured.seconds for name, measured in medians.items()}
    ratios = {name: seconds[name] / seconds["ours"] for name in ("plain", "plain shared")}
    return (
        f"ours {seconds['ours']:.2f} s, plain {seconds['plain']:.2f} s, "
        f"plain on shared batches {seconds['plain shared']:.2f} s; "
        f"plain/ours {ratios['plain']:.2f}, plain shared/ours {ratios['plain shared']:.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--shape", choices=SHAPES, default="quickstart")
    parser.add_argument("--prompts", type=int, default=0, help="instead of the shape's own number")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--lora", type=int, nargs="*", default=[32, 0], help="adapter ranks; 0 is full fine-tuning")
    parser.add_argument("--dtype", nargs="*", choices=["auto", "float32", "bfloat16"], default=["auto"])
    parser.add_argument("--micro-batch-tokens", type=int, default=0, help="instead of the shape's own")
    parser.add_argument("--plain-allocator", action="store_true", help="ours gives freed memory back, as the others do")
    options = parser.parse_args()
    be_quiet()
    shape = SHAPES[options.shape]
    shape = replace(shape, prompts=options.prompts or shape.prompts, tokens=options.micro_batch_tokens or shape.tokens)
    folder = resolve_model(options.model)
    for dtype in options.dtype:
        for rank in options.lora:
            model = ModelConfig(dtype=Dtype(dtype), lora=LoraConfig(rank=rank))
            name = str(compute_dtype(model.dtype, torch.device("cpu"))).removeprefix("torch.")
            kind = f"LoRA r {rank}" if rank else "full"
            found = compare(folder, model, shape, options)
            print(f"{options.shape}, {shape.prompts} prompts, {kind}, {name}: {found}", flush=True)


if __name__ == "__main__":
    main()
