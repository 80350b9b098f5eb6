"""Tokenising a growing conversation without reading it from the start each time.

The prompt of a dialogue's fifteenth reply repeats fourteen exchanges that were tokenised before. A rendered prompt is
cut after each end-of-sequence token, and pieces seen lately are looked up. That gives the tokens of the whole text
where the tokenizer treats that token as a border, as byte-level BPE does. Whether it does is tried out once, on text
that would show a difference; if not, every text is tokenised as a whole.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

KEPT = 4096
_PROBES = ("a", " a", "\nb\n", "  c ", "\n\nD e.", "é", "")


class PieceEncoder:
    """Text -> token ids, without special tokens added."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._border: str = tokenizer.eos_token
        self._known: OrderedDict[str, tuple[int, ...]] = OrderedDict()
        probe = self._border.join(first + second for first in _PROBES for second in _PROBES)
        self.cuts = self._by_pieces(probe) == self._whole(probe)

    def encode(self, text: str) -> tuple[int, ...]:
        return self._by_pieces(text) if self.cuts else self._whole(text)

    def _whole(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text, add_special_tokens=False))

    def _by_pieces(self, text: str) -> tuple[int, ...]:
        *closed, last = text.split(self._border)
        pieces = [*(piece + self._border for piece in closed), last]
        return tuple(token for piece in pieces for token in self._piece(piece))

    def _piece(self, text: str) -> tuple[int, ...]:
        known = self._known.pop(text, None)
        if known is None:
            known = self._whole(text)
            if len(self._known) >= KEPT:
                self._known.popitem(last=False)
        self._known[text] = known
        return known
