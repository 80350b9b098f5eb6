"""The loop that the stages of this room share: update, evaluate, keep the best, save; and go on exactly.

    stepper.update() ... stepper.update()      each an optimizer step
    now and then                               dev loss, best model, early stopping; then a checkpoint

A stage is a `Stepper`: it says what one update and one evaluation are. All that decides what the next step does is in
its weights, its optimizer and `state()`, so that a run which was killed gives the losses of one that was not.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from rl.allocator import keep_freed_memory
from sft.batching import LengthGroups
from sft.checkpoint import CheckpointError, RunFolder
from sft.config import DevConfig, OptimizerConfig, SftConfig
from sft.dev import Stopper
from sft.model import SftModel
from sft.ranks import Ranks
from sft.saved import load_weights, save_model
from sft.schedule import lr_share
from sft.tracking import Log, RunLog, Silence

OPTIMIZER = "optimizer.pt"
Metrics = dict[str, float]


class TrainingError(RuntimeError):
    """The loss, its gradient or the dev loss is no longer a number."""


class Evaluation(Protocol):
    """What a stage measures on its dev sequences; the run with the lowest loss is kept."""

    @property
    def loss(self) -> float: ...

    def as_metrics(self) -> dict[str, float]: ...


@dataclass(frozen=True, slots=True)
class Plan:
    """`steps`: updates of the whole run. `save_every`: updates between checkpoints."""

    steps: int
    save_every: int
    optimizer: OptimizerConfig
    dev: DevConfig


class Stepper(ABC):
    """Model, optimizer, order of the batches and early stopping of a run.

    Attributes:
        groups: which batch comes next; set by the stage.
        description: written with every saved model; says how to build it again.
        step: updates done.
        ranks: the processes that share the batches of a step.
    """

    groups: LengthGroups

    def __init__(self, model: SftModel, description: SftConfig, plan: Plan) -> None:
        if model.device.type == "cpu":
            keep_freed_memory()
        self.model = model
        self.description = description
        self.plan = plan
        self.optimizer = make_optimizer(model, plan.optimizer)
        self.scaler = torch.amp.GradScaler(model.device.type, enabled=model.compute is torch.float16)
        self.stopper = Stopper(plan.dev)
        self.step = 0
        self.ranks = Ranks.here()

    def begin(self) -> None:  # noqa: B027 - most stages have nothing to do
        """What is done once, before the first step of a new run; a resumed one has it in its weights."""

    @abstractmethod
    def update(self) -> Metrics:
        """One optimizer step; its losses are those before it."""

    @abstractmethod
    def evaluate(self) -> Evaluation:
        """The dev loss; leaves the model in the mode it was in."""

    def state(self) -> dict[str, Any]:
        """What `save` does not keep as tensors; fit for JSON."""
        return {"step": self.step, "groups": self.groups.state_dict(), "stopper": self.stopper.state_dict()}

    def save(self, folder: Path) -> None:
        self.save_model(folder)
        state = {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}
        torch.save(state, folder / OPTIMIZER)

    def save_model(self, folder: Path) -> None:
        save_model(self.model, self.description, folder)

    def load(self, checkpoint: Path) -> None:
        """Go on from a checkpoint, exactly.

        Raises:
            SavedModelError, CheckpointError: a file of it cannot be read.
        """
        load_weights(self.model, checkpoint)
        try:
            tensors = torch.load(checkpoint / OPTIMIZER, map_location=self.model.device, weights_only=True)
        except Exception as error:  # an unpickler raises whatever a torn file makes it stumble over
            raise CheckpointError(
                f"{checkpoint / OPTIMIZER} cannot be read ({type(error).__name__}: {error}); remove {checkpoint} "
                "to go on from the one before"
            ) from error
        self.optimizer.load_state_dict(tensors["optimizer"])
        self.scaler.load_state_dict(tensors["scaler"])
        state = RunFolder.load_state(checkpoint)
        self.groups.load_state_dict(state["groups"])
        self.stopper.load_state_dict(state["stopper"])
        self.step = state["step"]

    def _apply(self) -> Metrics:
        """Sum the gradients of all processes, clip and update.

        With loss scaling, a step whose gradients overflow is skipped, and says so; without, it ends the run before the
        weights are touched.
        """
        self.ranks.sum_gradients(self.model.trained().values())
        self.scaler.scale(torch.zeros((), device=self.model.device))  # a process without a batch has not begun to scale
        config = self.plan.optimizer
        share = lr_share(self.step, self.plan.steps, config.warmup, config.decay)
        for group in self.optimizer.param_groups:
            group["lr"] = share * group["peak_lr"]
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.model.trained().values(), config.max_grad_norm)
        if not (norm.isfinite() or self.scaler.is_enabled()):
            what = f"the gradient is {float(norm)}"
            raise TrainingError(f"step {self.step + 1}: {what}; lower optimizer.lr, or start anew")
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        values = {"lr": share * config.lr}
        if norm.isfinite():
            values["grad_norm"] = float(norm)
        if self.scaler.is_enabled():
            values |= {"loss_scale": scale, "skipped": float(self.scaler.get_scale() < scale)}
        return values


def run_to_end(
    stepper: Stepper, folder: RunFolder, tensorboard: bool, after_step: Callable[[int], None]
) -> Evaluation | None:
    """Run to the last step or until early stopping, from the newest checkpoint where there is one.

    Args:
        folder: is prepared here.
        after_step: called with the number of steps done, before evaluation and checkpoint.

    Returns:
        The last evaluation; None where nothing was left to do.

    Raises:
        ConfigError: the run folder holds another run.
        CheckpointError: a checkpoint could not be written.
        TrainingError: a loss or a gradient is not finite.
    """
    plan, ranks = stepper.plan, stepper.ranks
    if ranks.first:
        folder.prepare()
    ranks.wait()
    checkpoint = folder.latest()
    if checkpoint is not None:
        stepper.load(checkpoint)
    log: Log = RunLog(folder.path, tensorboard, stepper.step) if ranks.first else Silence()
    if checkpoint is not None:
        log.say(f"going on from {checkpoint}")
    else:
        stepper.begin()
    dev: Evaluation | None = None
    while stepper.step < plan.steps and not stepper.stopper.stop:
        values = stepper.update()
        log.metrics(stepper.step, values)
        log.say(_line(stepper.step, plan.steps, values))
        after_step(stepper.step)
        last = stepper.step == plan.steps
        if last or (plan.dev.every and stepper.step % plan.dev.every == 0):
            dev = _evaluate(stepper, folder, log)
        if last or stepper.stopper.stop or stepper.step % plan.save_every == 0:
            if ranks.first:
                folder.save(stepper.state(), stepper.save)
            ranks.wait()
    log.close()
    return dev


def make_optimizer(model: SftModel, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW over two groups, adapter and heads, each with its `peak_lr`."""
    trained = model.trained()
    heads = [value for name, value in trained.items() if name.startswith("heads.")]
    adapter = [value for name, value in trained.items() if not name.startswith("heads.")]
    groups: list[dict[str, Any]] = [{"params": adapter, "peak_lr": config.lr}]
    if heads:
        groups.append({"params": heads, "peak_lr": config.head_lr})
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay)


def batch_seed(seed: int, step: int, number: int) -> int:
    """A seed of its own for every batch of a step: dropout after a resume, or elsewhere, is what it would have been."""
    return ((seed * 1_000_003 + step) * 1_009 + number) % 2**63


def _evaluate(stepper: Stepper, folder: RunFolder, log: Log) -> Evaluation:
    result = stepper.evaluate()
    if not math.isfinite(result.loss):
        raise TrainingError(f"step {stepper.step}: the dev loss is {result.loss}; lower optimizer.lr, or start anew")
    best = stepper.stopper.enter(result.loss, stepper.step)
    if best and stepper.ranks.first:
        folder.save_best(stepper.save_model)
    log.metrics(stepper.step, result.as_metrics())
    log.say(f"dev loss {result.loss:.4f}" + (" (best so far)" if best else ""))
    return result


def _line(step: int, steps: int, values: Metrics) -> str:
    parts = " ".join(f"{k.removeprefix('train/')} {v:.4f}" for k, v in values.items() if k.startswith("train/"))
    return f"step {step}/{steps}: {parts}, {values['tokens_per_s']:.0f} tokens/s"
