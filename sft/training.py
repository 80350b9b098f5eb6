"""The loop of multi-task fine-tuning: one process, one device.

    for each step      1. draw `accumulation` batches of similar length from the mixture
                       2. count the items of each loss in all of them
                       3. for each batch: student's states -> terms -> joint loss over the step's items -> backward
                       4. clip, update, log
    now and then       dev loss, best model, early stopping; then a checkpoint

Left out on purpose: several GPUs.

Invariants
    The gradient of a step is that of its sequences in one batch, however they are cut into batches.
    Step k depends on the weights, the optimizer, the sampler and k alone: random numbers are seeded by k.
"""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sft.base import pick_device
from sft.batching import Batch, LengthGroups, collate
from sft.checkpoint import RunFolder
from sft.config import SftConfig
from sft.dev import DevResult, Stopper, dev_loss
from sft.examples import Loss
from sft.losses import joint_loss
from sft.mixing import MixtureSampler
from sft.model import SftModel, build_model
from sft.model_card import write_model_card
from sft.preparing import Prepared
from sft.saved import load_weights, save_model
from sft.schedule import lr_share
from sft.teacher import Teacher
from sft.terms import TermOptions, batch_terms
from sft.tokens import TokenSequence
from sft.tracking import RunLog, draw_curves

OPTIMIZER = "optimizer.pt"
Metrics = dict[str, float]


class TrainingError(RuntimeError):
    """The loss or its gradient is no longer a number."""


@dataclass(frozen=True, slots=True)
class TrainResult:
    """`steps`: updates done. `best`: the best dev loss and the step after which it was measured. `dev`: the last."""

    folder: Path
    steps: int
    best: float
    best_step: int
    dev: DevResult | None


class Trainer:
    """The parts of a run, and one update of it."""

    def __init__(self, prepared: Prepared, device: torch.device) -> None:
        config = self.config = prepared.config
        self.prepared = prepared
        self.model = build_model(config, prepared.base, device)
        self.teacher = Teacher(self.model, prepared.chat, prepared.pad_id, config.data.system)
        self.options = _options(prepared, device)
        self.optimizer = make_optimizer(self.model, config)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.model.compute is torch.float16)
        self.sampler = MixtureSampler(prepared.corpus.sizes, config.data.alpha, config.seed)
        self.groups = LengthGroups(
            self.sampler,
            lambda draw: len(prepared.corpus.row(draw).ids),
            config.optimizer.batch,
            config.data.length_window,
        )
        self.stopper = Stopper(config.dev)
        self.step = 0

    def update(self) -> Metrics:
        """One optimizer step; the number of its losses is before the update.

        Raises:
            TrainingError: the loss or its gradient is not finite; the weights are those from before.
        """
        started = time.perf_counter()
        torch.manual_seed(_step_seed(self.config.seed, self.step))
        self.model.train()
        batches = [self._next_batch() for _ in range(self.config.optimizer.accumulation)]
        items: Counter[Loss] = sum((Counter(batch.counts()) for _, batch in batches), Counter())
        parts: defaultdict[Loss, float] = defaultdict(float)
        for rows, batch in batches:
            for loss, value in self._backward(rows, batch, items).items():
                parts[loss] += value
        total = sum(self.config.losses.of(loss) * value for loss, value in parts.items())
        if not math.isfinite(total):
            raise TrainingError(f"step {self.step + 1}: the loss is {total}; lower optimizer.lr, or start anew")
        values = {"train/loss": total, **{f"train/{loss.value}": value for loss, value in parts.items()}}
        values |= self._apply()
        self.step += 1
        seconds = time.perf_counter() - started
        tokens = sum(int(batch.attention.sum()) for _, batch in batches)
        return values | {"tokens": float(tokens), "tokens_per_s": tokens / seconds, "seconds": seconds} | self._shares()

    def evaluate(self) -> DevResult:
        batch, prepared = self.config.optimizer.batch, self.prepared
        return dev_loss(self.model, self.teacher, prepared.dev, self.options, batch, prepared.pad_id)

    def state(self) -> dict[str, Any]:
        """What `save` does not keep as tensors; fit for JSON."""
        return {"step": self.step, "groups": self.groups.state_dict(), "stopper": self.stopper.state_dict()}

    def save(self, folder: Path) -> None:
        save_model(self.model, self.config, folder)
        state = {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}
        torch.save(state, folder / OPTIMIZER)

    def load(self, checkpoint: Path) -> None:
        """Go on from a checkpoint, exactly."""
        load_weights(self.model, checkpoint)
        tensors = torch.load(checkpoint / OPTIMIZER, map_location=self.model.device, weights_only=True)
        self.optimizer.load_state_dict(tensors["optimizer"])
        self.scaler.load_state_dict(tensors["scaler"])
        state = RunFolder.load_state(checkpoint)
        self.groups.load_state_dict(state["groups"])
        self.stopper.load_state_dict(state["stopper"])
        self.step = state["step"]

    def _next_batch(self) -> tuple[list[TokenSequence], Batch]:
        rows = [self.prepared.corpus.row(draw) for draw in self.groups.next_batch()]
        return rows, collate(rows, self.prepared.pad_id, 8 if self.model.device.type == "cuda" else 1)

    def _backward(self, rows: list[TokenSequence], batch: Batch, items: Counter[Loss]) -> Mapping[Loss, float]:
        moved = batch.to(self.model.device)
        states = self.model.states(moved.ids, moved.attention)
        terms = batch_terms(self.model, states, self.teacher, rows, moved, self.options)
        joint = joint_loss(terms, self.config.losses, moved.counts(), items)
        if joint.total is not None:
            self.scaler.scale(joint.total).backward()
        return joint.parts

    def _apply(self) -> Metrics:
        """Clip and update. With loss scaling, a step whose gradients overflow is skipped, and says so; without, it ends
        the run before the weights are touched."""
        config = self.config.optimizer
        share = lr_share(self.step, self.prepared.steps, config.warmup, config.decay)
        for group in self.optimizer.param_groups:
            group["lr"] = share * group["peak_lr"]
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.model.trained().values(), config.max_grad_norm)
        if not (norm.isfinite() or self.scaler.is_enabled()):
            raise TrainingError(
                f"step {self.step + 1}: the gradient is {float(norm)}; lower optimizer.lr, or start anew"
            )
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        values = {"lr": share * config.lr}
        if norm.isfinite():
            values["grad_norm"] = float(norm)
        if self.scaler.is_enabled():
            values |= {"loss_scale": scale, "skipped": float(self.scaler.get_scale() < scale)}
        return values

    def _shares(self) -> Metrics:
        """Realised shares of the mixture; they run ahead by what is left of the window of `LengthGroups`."""
        return {f"share/{source.value}": share for source, share in self.sampler.realised_shares().items()}


def train(prepared: Prepared, after_step: Callable[[int], None] = lambda step: None) -> TrainResult:
    """Run to the end, from the newest checkpoint where there is one.

    Args:
        after_step: called with the number of steps done, before evaluation and checkpoint.

    Raises:
        ConfigError: the run folder holds another run.
        CheckpointError: a checkpoint could not be written.
        TrainingError: the loss is not finite.
    """
    config, folder = prepared.config, prepared.folder
    folder.prepare()
    trainer = Trainer(prepared, pick_device())
    checkpoint = folder.latest()
    if checkpoint is not None:
        trainer.load(checkpoint)
    log = RunLog(folder.path, config.tensorboard, trainer.step)
    if checkpoint is not None:
        log.say(f"going on from {checkpoint}")
    dev: DevResult | None = None
    while trainer.step < prepared.steps and not trainer.stopper.stop:
        values = trainer.update()
        log.metrics(trainer.step, values)
        log.say(_line(trainer.step, prepared.steps, values))
        after_step(trainer.step)
        last = trainer.step == prepared.steps
        if last or (config.dev.every and trainer.step % config.dev.every == 0):
            dev = _evaluate(trainer, folder, log)
        if last or trainer.stopper.stop or trainer.step % config.save_every == 0:
            folder.save(trainer.state(), trainer.save)
    log.close()
    draw_curves(folder.path / "metrics.jsonl", folder.path / "curves.png")
    write_model_card(prepared, trainer.stopper.best, trainer.stopper.best_step, trainer.step)
    return TrainResult(folder.path, trainer.step, trainer.stopper.best, trainer.stopper.best_step, dev)


def make_optimizer(model: SftModel, config: SftConfig) -> torch.optim.AdamW:
    """AdamW over two groups, adapter and heads, each with its `peak_lr`."""
    trained = model.trained()
    heads = [value for name, value in trained.items() if name.startswith("heads.")]
    adapter = [value for name, value in trained.items() if not name.startswith("heads.")]
    groups: list[dict[str, Any]] = [{"params": adapter, "peak_lr": config.optimizer.lr}]
    if heads:
        groups.append({"params": heads, "peak_lr": config.optimizer.head_lr})
    settings = config.optimizer
    return torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay)


def _options(prepared: Prepared, device: torch.device) -> TermOptions:
    config = prepared.config
    weights = {loss: values.to(device) for loss, values in prepared.class_weights.items()}
    return TermOptions(config.losses, config.safety.tau, config.vocabulary_chunk, weights)


def _evaluate(trainer: Trainer, folder: RunFolder, log: RunLog) -> DevResult:
    result = trainer.evaluate()
    best = trainer.stopper.enter(result.loss, trainer.step)
    if best:
        folder.save_best(lambda place: save_model(trainer.model, trainer.config, place))
    log.metrics(trainer.step, result.as_metrics())
    log.say(f"dev loss {result.loss:.4f}" + (" (best so far)" if best else ""))
    return result


def _step_seed(seed: int, step: int) -> int:
    """A seed of its own for every step: dropout after a resume is what it would have been."""
    return (seed * 1_000_003 + step) % 2**63


def _line(step: int, steps: int, values: Metrics) -> str:
    parts = " ".join(f"{k.removeprefix('train/')} {v:.4f}" for k, v in values.items() if k.startswith("train/"))
    return f"step {step}/{steps}: {parts}, {values['tokens_per_s']:.0f} tokens/s"
