"""Training of the tagger: machine tags first, human labels after, both through the same loop.

Stage 1 learns the tactics from many machine-tagged sentences. Stage 2 goes on from there on the few sentences people
labelled, mixed with some of stage 1's so that the rare tactics are not forgotten. Stage 1 sees no human label, so one
run of it serves every fold of the evaluation.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from reward_servers.tactics.data import TaggedReply
from reward_servers.tactics.network import TacticNetwork, padded_states, pooling_matrix
from reward_servers.tactics.windows import SentenceWindows, Window

Progress = Callable[[int, int, float], None]
"""Called after every step with steps done, steps in all and the step's loss."""


class NoLossError(RuntimeError):
    """The loss is no number any more: what would be saved is worth nothing."""


@dataclass(frozen=True, slots=True)
class StageConfig:
    """One stage of training: AdamW, linear warm-up over a tenth of the steps, then linear decay to 0."""

    epochs: int
    learning_rate: float
    batch_tokens: int = 2048
    positive_weight_power: float = 0.5
    weight_decay: float = 0.01
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Example:
    """One window, what the lower layers make of it, and its sentences' labels.

    `hidden` is (T, H) in float16; `labels` (S, K); `weights` (S,), 0 where a label may not be used.
    """

    window: Window
    hidden: Tensor
    labels: Tensor
    weights: Tensor


def examples_of(
    replies: Sequence[TaggedReply], network: TacticNetwork, windows: SentenceWindows, weight: float = 1.0
) -> list[Example]:
    """Windows of the replies with their labels; windows in which no label may be used are left out."""
    examples = []
    for reply in replies:
        start = 0
        for window in windows.of_reply(reply.sentences):
            rows = slice(start, start := start + len(window.spans))
            use = torch.from_numpy(reply.use[rows])
            if use.any():
                hidden = network.lower(torch.tensor([window.token_ids]), None)[0].half()
                examples.append(Example(window, hidden, torch.from_numpy(reply.labels[rows]), use.float() * weight))
    return examples


def train_stage(
    network: TacticNetwork, examples: Sequence[Example], config: StageConfig, progress: Progress | None = None
) -> list[float]:
    """Train adapters and head in place; returns the loss of every step, the network is left in evaluation mode.

    Raises:
        NoLossError: the loss became infinite or NaN.
    """
    torch.manual_seed(config.seed)
    batches = [batch for epoch in range(config.epochs) for batch in _batches(examples, config, epoch)]
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
    warm_up = max(1, len(batches) // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm_up, (len(batches) - step) / max(1, len(batches) - warm_up))
    )
    positive_weight = positive_weights(examples, config.positive_weight_power)
    losses = []
    network.train()
    for step, batch in enumerate(batches, start=1):
        loss = batch_loss(network, batch, positive_weight)
        if not torch.isfinite(loss):
            raise NoLossError(f"the loss of step {step} of {len(batches)} is {loss.item()}: lower the learning rate")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if progress is not None:
            progress(step, len(batches), losses[-1])
    network.eval()
    return losses


def batch_loss(network: TacticNetwork, batch: Sequence[Example], positive_weight: Tensor) -> Tensor:
    """Weighted mean over sentences of the binary cross-entropy summed over tactics."""
    hidden, mask = padded_states([e.hidden for e in batch])
    logits = network.upper(hidden, mask, pooling_matrix([e.window for e in batch], hidden.shape[1]))
    flat = torch.cat([logits[row, : len(e.labels)] for row, e in enumerate(batch)])  # (S of all, K)
    labels, weights = torch.cat([e.labels for e in batch]), torch.cat([e.weights for e in batch])
    losses = functional.binary_cross_entropy_with_logits(flat, labels, pos_weight=positive_weight, reduction="none")
    return (losses.sum(-1) * weights).sum() / weights.sum().clamp(min=1e-6)


def positive_weights(examples: Sequence[Example], power: float) -> Tensor:
    """(K,) weights (negatives / positives) ** power, at most 8: rare tactics count more."""
    labels, weights = torch.cat([e.labels for e in examples]), torch.cat([e.weights for e in examples])
    positives = (labels * weights[:, None]).sum(0)
    negatives = weights.sum() - positives
    return ((negatives + 1) / (positives + 1)).pow(power).clamp(max=8.0)


def _batches(examples: Sequence[Example], config: StageConfig, epoch: int) -> Iterator[list[Example]]:
    """Batches of at most `batch_tokens` padded tokens, of windows alike in length, in random order."""
    rng = random.Random(f"{config.seed}-{epoch}")
    # A little noise on the length mixes the batches differently in every epoch.
    order = sorted(examples, key=lambda e: len(e.window.token_ids) * rng.uniform(0.85, 1.15))
    batches: list[list[Example]] = [[]]
    longest = 0
    for example in order:
        longest = max(longest, len(example.window.token_ids))
        if batches[-1] and longest * (len(batches[-1]) + 1) > config.batch_tokens:
            batches.append([])
            longest = len(example.window.token_ids)
        batches[-1].append(example)
    rng.shuffle(batches)
    yield from (batch for batch in batches if batch)
