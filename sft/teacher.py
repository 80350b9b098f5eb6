"""The rules-prompted teacher: the same base with adapters off, under the safety rules in its system prompt.

There is no second copy in memory, and the rules are read once in a run (`sft.opening`). It reads only the sequences
that feed SAFETY, and `reply_states` is called from within the safety term, which the joint loss leaves alone where
lambda is 0 or a batch has no such item.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from sft.batching import Batch, Spots, check_same_tokens, collate
from sft.examples import Loss
from sft.model import SftModel
from sft.opening import Opening
from sft.safety_rules import rules_prompt
from sft.tokens import ChatTokens, ReplySpan, TokenSequence


class Teacher:
    """Reads replies as the base would under the rules."""

    def __init__(self, model: SftModel, chat: ChatTokens, pad_id: int, system: str, at_once: int | None = None) -> None:
        """`at_once`: sequences of one pass, so that rules before many short ones need no more memory; None for all."""
        self._model = model
        self._chat = chat
        self._pad_id = pad_id
        self._system = rules_prompt(system)
        self._at_once = at_once
        self._shared: Opening | None = None
        self._has_read = False

    def reply_states(self, sequences: Sequence[TokenSequence], student: Spots) -> torch.Tensor:
        """(M, H) states before each of the student's M reply tokens, without a gradient.

        Args:
            sequences: the rows of the student's batch; those that do not feed SAFETY are passed over.
            student: the SAFETY spots of that batch.

        Raises:
            ValueError: the reply tokens would not be the student's.
        """
        rows = [self._chat.under_system(row, self._system) for row in sequences if Loss.SAFETY in row.losses]
        size = self._at_once or len(rows)
        with self._model.as_teacher():
            parts = [self._read(rows[start : start + size]) for start in range(0, len(rows), size)]
        check_same_tokens(student, torch.cat([spots.targets for spots, _ in parts]))
        return torch.cat([states for _, states in parts])

    def _read(self, rows: list[TokenSequence]) -> tuple[Spots, torch.Tensor]:
        """Where the replies of some rows stand, and the (M, H) states there."""
        opening = self._opening()
        if opening is None or any(row.ids[: len(opening.ids)] != opening.ids for row in rows):
            batch = self._collate(rows)
            states = self._model.states(batch.ids, batch.attention)
        else:
            batch = self._collate([without_opening(row, len(opening.ids)) for row in rows])
            states = self._model.states_after(opening, batch.ids, batch.attention)
        spots = batch.spots[Loss.SAFETY]
        return spots, spots.pick(states)

    def _collate(self, rows: list[TokenSequence]) -> Batch:
        return collate(rows, self._pad_id).to(self._model.device)

    def _opening(self) -> Opening | None:
        if not self._has_read:
            self._shared, self._has_read = self._model.opening(self._chat.opening(self._system)), True
        return self._shared


def without_opening(row: TokenSequence, length: int) -> TokenSequence:
    """The row as it goes on after its first `length` tokens, all of them before its first reply."""
    later = (ReplySpan(reply.turn, reply.start - length, reply.stop - length) for reply in row.replies)
    return replace(row, ids=row.ids[length:], replies=tuple(later))
