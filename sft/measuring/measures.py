"""The figures of a fine-tuned model, or of what it is compared with, and how those of a head are computed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sft.corpus import Corpus
from sft.emotions import EMOTION_CLASSES, emotion_target
from sft.examples import Loss, Source
from sft.strategies import STRATEGIES
from sft.tokens import TokenSequence

MEASURED_ON = {Loss.EMOTION: Source.GOEMOTIONS, Loss.STRATEGY: Source.ESCONV}
CLASSES = {Loss.EMOTION: EMOTION_CLASSES, Loss.STRATEGY: len(STRATEGIES)}


@dataclass(frozen=True, slots=True)
class Measures:
    """Of one run, or of what needs none (the base, the majority class, the linear probe).

    Attributes:
        lm_loss: mean over reply tokens, in nats.
        safety_kl: mean over the reply tokens to which the safety rules apply of KL(teacher || model), in nats; the
            teacher is the base under the rules.
        emotion_accuracy, strategy_accuracy: the share of turns whose likeliest class is one of the labels.
        emotion_f1, strategy_f1: see `macro_f1`.
        tokens_per_s: median over the updates of the run.

    None stands for what a run does not have.
    """

    lm_loss: float | None = None
    safety_kl: float | None = None
    emotion_accuracy: float | None = None
    emotion_f1: float | None = None
    strategy_accuracy: float | None = None
    strategy_f1: float | None = None
    tokens_per_s: float | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Guesses:
    """Of one head, for M turns: its likeliest class of each, and (M, C) whether a class is a label of the turn."""

    said: list[int]
    labels: NDArray[np.bool_]


def read_where_labelled(rows: Sequence[TokenSequence]) -> list[TokenSequence]:
    """The sequences with each head read on its own corpus alone, where that is among them.

    GoEmotions has feelings for every text and ESConv a strategy for every turn, given by people who read it. What
    EmpatheticDialogues has is one feeling for a whole conversation, mapped: to learn from, not to be measured by.
    """
    there = {row.source for row in rows}
    own = {loss: source for loss, source in MEASURED_ON.items() if source in there}
    kept = [replace(row, losses=row.losses - {loss for loss in own if own[loss] is not row.source}) for row in rows]
    return [row for row in kept if row.losses]


def commonest(train: Corpus, rows: Iterable[TokenSequence], heads: Iterable[Loss]) -> dict[Loss, Guesses]:
    """Always naming the commonest class of the training labels, on `rows`; of heads with labels in both."""
    several = list(rows)
    found = {}
    for loss in heads:
        taught = as_rows(loss, (row for part in train.sequences.values() for row in part))
        labels = [row > 0 for row in as_rows(loss, several)]
        if taught and labels:
            found[loss] = Guesses([int(np.argmax(sum(taught)))] * len(labels), np.array(labels))
    return found


def as_rows(loss: Loss, rows: Iterable[TokenSequence]) -> list[NDArray[np.float64]]:
    """(C,) label shares of every labelled turn that feeds `loss`."""
    found = []
    for row in rows:
        if loss is Loss.EMOTION and loss in row.losses:
            found += [np.array(emotion_target(read.emotions)) for read in row.emotions]
        if loss is Loss.STRATEGY and loss in row.losses:
            found += [np.eye(len(STRATEGIES))[STRATEGIES.index(read.strategy)] for read in row.strategies]
    return found


def as_indicators(targets: torch.Tensor, classes: int) -> NDArray[np.bool_]:
    """(M,) class numbers or (M, C) shares -> (M, C) whether a class is a label of the turn."""
    if targets.dim() == 1:
        return np.eye(classes, dtype=bool)[targets.numpy()]
    return targets.numpy() > 0


def macro_f1(guesses: Sequence[int], labels: NDArray[np.bool_]) -> float:
    """The mean of F1 over the classes that are a label of some turn.

    A turn may have several labels and gets one guess, so for class c: a hit is a turn with label c whose guess is c, a
    miss one with label c and another guess, a false alarm one with guess c without that label.

    Args:
        guesses: M class numbers.
        labels: (M, C).
    """
    from sklearn.metrics import f1_score

    said = np.eye(labels.shape[1], dtype=bool)[np.asarray(guesses)]
    there = np.flatnonzero(labels.any(0))
    return float(f1_score(labels, said, average="macro", labels=there, zero_division=0.0))


def head_scores(heads: Mapping[Loss, Guesses]) -> dict[str, float]:
    """Accuracy and macro F1 of each head, under the names of `Measures`."""
    scores: dict[str, float] = {}
    for loss, head in heads.items():
        hits = hits_of(head)
        scores |= {f"{loss.value}_accuracy": float(hits.mean()), f"{loss.value}_f1": macro_f1(head.said, head.labels)}
    return scores


def hits_of(head: Guesses) -> NDArray[np.bool_]:
    """(M,) whether the guess is one of the turn's labels."""
    return head.labels[np.arange(len(head.said)), head.said]
