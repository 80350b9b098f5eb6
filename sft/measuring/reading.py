"""A model reads sequences: how likely it finds their replies, how far the safety teacher is, what its heads say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from sft.batching import Batch, collate
from sft.config import SftConfig
from sft.examples import Loss
from sft.measuring.measures import CLASSES, Guesses, Measures, as_indicators, head_scores
from sft.model import SftModel
from sft.teacher import Teacher
from sft.tokens import ChatTokens, TokenSequence
from sft.vocabulary import token_kl, token_nll

OnRead = Callable[[int, int], None]
"""Told how many sequences are read, and of how many."""


@dataclass(slots=True)
class Reading:
    """What a model makes of some sequences.

    Attributes:
        nll: the summed negative log-likelihood of their reply tokens, in nats.
        tokens: how many reply tokens there are.
        kl: the summed KL to the rules-prompted teacher over the reply tokens to which the rules apply, in nats.
        ruled: how many these are; 0 where there was no teacher.
        said, labels: of each head, its likeliest class of every labelled turn, and (C,) which classes are its labels.
    """

    nll: float = 0.0
    tokens: int = 0
    kl: float = 0.0
    ruled: int = 0
    said: dict[Loss, list[int]] = field(default_factory=dict)
    labels: dict[Loss, list[NDArray[np.bool_]]] = field(default_factory=dict)

    @property
    def heads(self) -> dict[Loss, Guesses]:
        """Of each head that had something to read."""
        return {loss: Guesses(said, np.array(self.labels[loss])) for loss, said in self.said.items() if said}

    @property
    def measures(self) -> Measures:
        """Without `tokens_per_s`."""
        lm_loss = self.nll / self.tokens if self.tokens else None
        safety_kl = self.kl / self.ruled if self.ruled else None
        return Measures(lm_loss=lm_loss, safety_kl=safety_kl, **head_scores(self.heads))


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads with a model that is in evaluation mode.

    Attributes:
        chunk: words of the vocabulary per product.
        teacher: what the safety KL is measured against, at temperature `tau`; None where it is not measured.
    """

    model: SftModel
    batch_size: int
    pad_id: int
    chunk: int
    teacher: Teacher | None = None
    tau: float = 1.0

    @classmethod
    def with_teacher(cls, model: SftModel, chat: ChatTokens, pad_id: int, config: SftConfig) -> Reader:
        """As a run of this configuration reads its dev sequences."""
        size = config.optimizer.batch
        teacher = Teacher(model, chat, pad_id, config.data.system, size)
        return cls(model, size, pad_id, config.vocabulary_chunk, teacher, config.safety.tau)

    @torch.no_grad()
    def read(self, rows: Sequence[TokenSequence], on_read: OnRead | None = None, *, as_base: bool = False) -> Reading:
        """Read some sequences of the full run, whose labels are those that the model has heads for.

        Args:
            as_base: with adapters off, and without heads, which were made for what the adapter gives them.
        """
        ordered = sorted(rows, key=lambda row: len(row.ids))
        heads = [] if as_base else [loss for loss in CLASSES if loss.value in self.model.heads]
        found = Reading(said={loss: [] for loss in heads}, labels={loss: [] for loss in heads})
        for start in range(0, len(ordered), self.batch_size):
            part = ordered[start : start + self.batch_size]
            batch = collate(part, self.pad_id).to(self.model.device)
            with self.model.as_teacher() if as_base else nullcontext():
                states = self.model.states(batch.ids, batch.attention)  # (B, T, H)
            self._replies(found, part, batch, states)
            for loss in heads:
                if len(batch.spots[loss]):
                    found.said[loss] += self.model.read(loss, batch, states).argmax(-1).tolist()
                    found.labels[loss] += list(as_indicators(batch.spots[loss].targets.cpu(), CLASSES[loss]))
            if on_read:
                on_read(start + len(part), len(ordered))
        return found

    def _replies(self, found: Reading, rows: list[TokenSequence], batch: Batch, states: torch.Tensor) -> None:
        """Add what the replies of a batch give."""
        weight, learnt, ruled = self.model.output_weight, batch.spots[Loss.LM], batch.spots[Loss.SAFETY]
        if len(learnt):
            found.nll += float(token_nll(learnt.pick(states), weight, learnt.targets, self.chunk).double().sum())
            found.tokens += len(learnt)
        if self.teacher and len(ruled):
            under_rules = self.teacher.reply_states(rows, ruled)
            distances = token_kl(ruled.pick(states), weight, under_rules, weight, self.tau, self.chunk)
            found.kl += float(distances.double().sum())
            found.ruled += len(ruled)
