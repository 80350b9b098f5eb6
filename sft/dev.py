"""The dev loss, how often the heads are right, and when a run has stopped gaining."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from sft.batching import Batch, collate
from sft.config import DevConfig
from sft.examples import Loss
from sft.losses import joint_loss
from sft.model import SftModel
from sft.ranks import Ranks
from sft.teacher import Teacher
from sft.terms import TermOptions, batch_terms
from sft.tokens import TokenSequence


@dataclass(frozen=True, slots=True)
class DevResult:
    """Of all dev sequences.

    Attributes:
        loss: the sum of lambda times mean, over the losses that have items here.
        parts: the mean over its items of each of these losses.
        accuracy: of each classifying head: the share of turns whose likeliest class is one of the labels.
        items: of each loss.
    """

    loss: float
    parts: dict[Loss, float]
    accuracy: dict[Loss, float]
    items: dict[Loss, int]

    def as_metrics(self) -> dict[str, float]:
        parts = {f"dev/{loss.value}": value for loss, value in self.parts.items()}
        right = {f"dev/{loss.value}_accuracy": value for loss, value in self.accuracy.items()}
        return {"dev/loss": self.loss, **parts, **right}


def dev_loss(
    model: SftModel,
    teacher: Teacher,
    rows: Sequence[TokenSequence],
    options: TermOptions,
    batch_size: int,
    pad_id: int,
    ranks: Ranks | None = None,
) -> DevResult:
    """The joint loss of all rows as one step, without dropout or gradients. The model stays in the mode it was in.

    Args:
        ranks: the processes that share the work; each gets the whole result.

    Raises:
        ValueError: the rows feed no loss that is on.
    """
    ordered = sorted(rows, key=lambda row: len(row.ids))
    chunks = [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]
    batches = [(chunk, collate(chunk, pad_id)) for chunk in chunks]
    items: Counter[Loss] = sum((Counter(batch.counts()) for _, batch in batches), Counter())
    ranks = ranks or Ranks()
    parts: defaultdict[Loss, float] = defaultdict(float)
    right: Counter[Loss] = Counter()
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for _, (chunk, batch) in ranks.share(batches):
                moved = batch.to(model.device)
                states = model.states(moved.ids, moved.attention)
                terms = batch_terms(model, states, teacher, chunk, moved, options)
                for loss, value in joint_loss(terms, options.losses, batch.counts(), items).parts.items():
                    parts[loss] += value
                right.update(_right(model, states, moved))
    finally:
        model.train(was_training)
    fed = [loss for loss in Loss if items[loss] and options.losses.of(loss)]
    if not fed:
        raise ValueError("the dev examples feed no loss that is on")
    summed = ranks.sum([*(parts[loss] for loss in fed), *(right[loss] for loss in fed)], model.device)
    parts = defaultdict(float, zip(fed, summed[: len(fed)], strict=True))
    hits = dict(zip(fed, summed[len(fed) :], strict=True))
    accuracy = {loss: hits[loss] / items[loss] for loss in (Loss.EMOTION, Loss.STRATEGY) if loss in parts}
    total = sum(options.losses.of(loss) * value for loss, value in parts.items())
    return DevResult(total, dict(parts), accuracy, dict(items))


def _right(model: SftModel, states: torch.Tensor, batch: Batch) -> dict[Loss, int]:
    """How many turns of a batch each classifying head gets right."""
    found = {}
    for loss in (Loss.EMOTION, Loss.STRATEGY):
        if loss.value in model.heads and len(batch.spots[loss]):
            best = model.read(loss, batch, states).argmax(-1)  # (M,)
            targets = batch.spots[loss].targets
            hits = targets.gather(1, best[:, None])[:, 0] > 0 if targets.dim() == 2 else targets == best
            found[loss] = int(hits.sum())
    return found


@dataclass(slots=True)
class Stopper:
    """The best dev loss so far, and how many evaluations in a row have not beaten it."""

    config: DevConfig
    best: float = math.inf
    best_step: int = 0
    without_gain: int = 0

    def enter(self, loss: float, step: int) -> bool:
        """Take note of an evaluation; whether it is the best so far. A loss that is not a number never is."""
        if loss < self.best - self.config.min_gain or (math.isinf(self.best) and math.isfinite(loss)):
            self.best, self.best_step, self.without_gain = loss, step, 0
            return True
        self.without_gain += 1
        return False

    @property
    def stop(self) -> bool:
        return 0 < self.config.patience <= self.without_gain

    def state_dict(self) -> dict[str, Any]:
        state = asdict(self)
        del state["config"]
        return state | {"best": None if math.isinf(self.best) else self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best = math.inf if state["best"] is None else state["best"]
        self.best_step, self.without_gain = state["best_step"], state["without_gain"]
