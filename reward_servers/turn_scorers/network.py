"""The networks of Baseline, STM and MVC (Yun 2025), on any Hugging Face encoder.

    Baseline, STM   context [SEP] reply -> encoder -> h    empathy = head(h)            emotion = linear(h)
    MVC             context             -> encoder -> h1                                emotion = linear(h1)
                    context [SEP] reply -> encoder -> h2   empathy = head([h2, emotion])
    head            Linear(n, hidden) - ReLU - Dropout - Linear(hidden, 1), hidden the encoder's size, 768 for RoBERTa

STM differs from Baseline only in its training. MVC's two views go through one and the same encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dialogue.conversation import Message
from dialogue.emotions import Feeling
from reward_servers.turn_scorers.batches import by_length
from reward_servers.turn_scorers.encoding import encode, encoder_layers, freeze
from reward_servers.turn_scorers.frozen import FrozenLayers, KeptStates
from reward_servers.turn_scorers.recipe import Recipe, RecipeError, Variant

MIDDLE = 3.0  # of the scale 1 to 5: where the empathy head begins, so that no step is spent on finding the scale
_REPLY_SHARE = 0.75  # of max_length that a reply may take; the context keeps the rest
_SPEAKERS = {"user": "Speaker: ", "assistant": "Listener: "}

_TRIED = range(1, 9)  # token ids of which any vocabulary has an entry
LIKE_LENGTHS = 4  # texts that are padded together on a CPU; a GPU pads all


@dataclass(frozen=True, slots=True)
class Views:
    """Token ids of one turn: context and reply together, and the context alone."""

    both: Sequence[int]
    both_types: Sequence[int]
    context: Sequence[int]


class TextViews:
    """Turns history and reply into tokens. The oldest tokens of a long context go first, then a long reply's last."""

    def __init__(self, tokenizer: Any, max_length: int) -> None:
        self.tokenizer = tokenizer
        self._max_length = max_length
        self._pair = _marks(tokenizer("a", "a")["input_ids"], self._ids("a"))
        self._alone = _marks(tokenizer("a")["input_ids"], self._ids("a"))

    def __call__(self, history: Sequence[Message], reply: str) -> Views:
        said = "\n".join(_SPEAKERS.get(m["role"], "") + m["content"] for m in history if m["role"] in _SPEAKERS)
        context, answer = self._ids(said), self._ids(reply)[: int(_REPLY_SHARE * self._max_length)]
        room = self._max_length - len(answer) - sum(map(len, self._pair))
        begin, between, end = self._pair
        first = [*begin, *_last(context, room), *between]
        types = [0] * len(first) + [1] * (len(answer) + len(end))
        start, stop = self._alone
        context = _last(context, self._max_length - len(start) - len(stop))
        return Views([*first, *answer, *end], types, [*start, *context, *stop])

    def _ids(self, text: str) -> list[int]:
        # A text that spells out [SEP] is text, not a mark of ours.
        return self.tokenizer(text, add_special_tokens=False, verbose=False, split_special_tokens=True)["input_ids"]


def _last(ids: list[int], count: int) -> list[int]:
    return ids[max(0, len(ids) - count) :]


def _marks(ids: list[int], text: list[int]) -> list[list[int]]:
    """What a tokenizer puts around and between its texts, each of them tokenized as `text`."""
    parts: list[list[int]] = [[]]
    place = 0
    while place < len(ids):
        if ids[place : place + len(text)] == text:
            parts.append([])
            place += len(text)
        else:
            parts[-1].append(ids[place])
            place += 1
    return parts


class TurnNetwork(nn.Module):
    """See the module's text."""

    def __init__(self, encoder: Any, recipe: Recipe) -> None:
        super().__init__()
        self.encoder = encoder
        self.variant, self._pooling = recipe.variant, recipe.pooling
        size = int(encoder.config.hidden_size)
        seen = size + len(Feeling) if recipe.variant is Variant.MVC else size
        self.dropout = nn.Dropout(recipe.dropout)
        self.emotion = nn.Linear(size, len(Feeling))
        self.empathy = nn.Sequential(nn.Linear(seen, size), nn.ReLU(), nn.Dropout(recipe.dropout), nn.Linear(size, 1))
        nn.init.constant_(self.empathy[-1].bias, MIDDLE)  # type: ignore[arg-type]
        freeze(encoder, recipe.tuned_layers)
        self._tuned_layers = recipe.tuned_layers
        self._frozen: FrozenLayers | None = None

    def remember(self, states: KeptStates) -> None:
        """For training: what the frozen layers make of a text is kept in `states`, and computed once.

        An encoder whose tuned layers cannot be run alone goes on as before.
        """
        if self._tuned_layers is None:
            raise RecipeError("only the states of frozen layers may be kept: tuned_layers has to be given")
        self.eval()
        frozen = FrozenLayers(self.encoder, self._tuned_layers, self._pooling, states)
        if frozen.can_be_left_out(_TRIED):
            self._frozen = frozen

    def train(self, mode: bool = True) -> TurnNetwork:
        """As any module; frozen layers have no dropout, so that a text's state in them is always the same."""
        super().train(mode)
        if self._tuned_layers is not None:
            layers = encoder_layers(self.encoder)
            self.encoder.eval()
            layers[len(layers) - self._tuned_layers :].train(mode)
        return self

    def forward(self, turns: Sequence[Views]) -> tuple[Tensor, Tensor]:
        """(B,) empathy, not clipped, and (B, 32) emotion logits of B turns."""
        whole = self._encode([turn.both for turn in turns], [turn.both_types for turn in turns])  # (B, H)
        if self.variant is not Variant.MVC:
            return self.empathy(whole).squeeze(-1), self.emotion(self.dropout(whole))
        emotions = self._emotions_of_context(turns)
        return self.empathy(torch.cat([whole, emotions], dim=-1)).squeeze(-1), emotions

    def emotions(self, turns: Sequence[Views]) -> Tensor:
        """(B, 32) emotion logits alone: STM's first stage."""
        if self.variant is Variant.MVC:
            return self._emotions_of_context(turns)
        return self.emotion(self.dropout(self._encode([t.both for t in turns], [t.both_types for t in turns])))

    def _emotions_of_context(self, turns: Sequence[Views]) -> Tensor:
        return self.emotion(self.dropout(self._encode([turn.context for turn in turns], None)))

    def _encode(self, rows: Sequence[Sequence[int]], types: Sequence[Sequence[int]] | None) -> Tensor:
        """(B, H) pooled states of B rows of token ids. On a CPU texts of like length go through together."""
        on_cpu = self.emotion.weight.device.type == "cpu"
        groups = by_length([len(row) for row in rows], LIKE_LENGTHS if on_cpu else len(rows))
        states = [self._pooled([rows[i] for i in group], types and [types[i] for i in group]) for group in groups]
        places = torch.tensor([place for group in groups for place in group], device=states[0].device)
        return torch.cat(states)[places.argsort()]

    def _pooled(self, rows: Sequence[Sequence[int]], types: Sequence[Sequence[int]] | None) -> Tensor:
        if self._frozen is None:
            return encode(self.encoder, rows, types, self._pooling)
        return self._frozen.encode(rows, types)
