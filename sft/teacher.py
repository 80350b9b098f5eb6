"""The rules-prompted teacher: the same base with adapters off, under the safety rules in its system prompt.

There is no second copy in memory. It reads only the sequences that feed SAFETY, and `reply_states` is called from
within the safety term, which the joint loss leaves alone where lambda is 0 or a batch has no such item.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sft.batching import Spots, check_same_tokens, collate
from sft.examples import Loss
from sft.model import SftModel
from sft.safety_rules import rules_prompt
from sft.tokens import ChatTokens, TokenSequence


class Teacher:
    """Reads replies as the base would under the rules."""

    def __init__(self, model: SftModel, chat: ChatTokens, pad_id: int, system: str, at_once: int | None = None) -> None:
        """`at_once`: sequences of one pass, so that rules before many short ones need no more memory; None for all."""
        self._model = model
        self._chat = chat
        self._pad_id = pad_id
        self._system = rules_prompt(system)
        self._at_once = at_once

    def reply_states(self, sequences: Sequence[TokenSequence], student: Spots) -> torch.Tensor:
        """(M, H) states before each of the student's M reply tokens, without a gradient.

        Args:
            sequences: the rows of the student's batch; those that do not feed SAFETY are passed over.
            student: the SAFETY spots of that batch.

        Raises:
            ValueError: the reply tokens would not be the student's.
        """
        rows = [self._chat.under_system(row, self._system) for row in sequences if Loss.SAFETY in row.losses]
        size, device = self._at_once or len(rows), self._model.device
        parts = [collate(rows[start : start + size], self._pad_id).to(device) for start in range(0, len(rows), size)]
        check_same_tokens(student, torch.cat([part.spots[Loss.SAFETY].targets for part in parts]))
        with self._model.as_teacher():
            states = [part.spots[Loss.SAFETY].pick(self._model.states(part.ids, part.attention)) for part in parts]
        return torch.cat(states)
