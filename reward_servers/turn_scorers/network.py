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
from reward_servers.turn_scorers.recipe import Pooling, Recipe, RecipeError, Variant

MIDDLE = 3.0  # of the scale 1 to 5: where the empathy head begins, so that no step is spent on finding the scale
_REPLY_SHARE = 0.75  # of max_length that a reply may take; the context keeps the rest
_SPEAKERS = {"user": "Speaker: ", "assistant": "Listener: "}

States = dict[tuple[tuple[int, ...], bool], Tensor]  # a text's token ids, and whether they are a pair, to its state


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
        self._frozen = recipe.tuned_layers == 0
        self._states: States | None = None

    def remember(self, states: States) -> None:
        """Keep the states of every text in `states`, for training on a frozen encoder: each text is encoded once."""
        if not self._frozen:
            raise RecipeError("only the states of a frozen encoder may be kept: tuned_layers has to be 0")
        self._states = states

    def train(self, mode: bool = True) -> TurnNetwork:
        """As any module; a frozen encoder has no dropout, so that a text's state is always the same."""
        super().train(mode)
        if self._frozen:
            self.encoder.eval()
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
        """(B, H) pooled states of B rows of token ids."""
        if self._states is None:
            return encode(self.encoder, rows, types, self._pooling)
        typed: Sequence[Sequence[int] | None] = [None] * len(rows) if types is None else types
        return torch.stack([self._kept(row, own, self._states) for row, own in zip(rows, typed, strict=True)])

    def _kept(self, row: Sequence[int], types: Sequence[int] | None, states: States) -> Tensor:
        """(H,) state of one text, encoded alone: what else is in a batch must not change it."""
        key = tuple(row), types is not None
        if key not in states:
            with torch.inference_mode(False), torch.no_grad():
                states[key] = encode(self.encoder, [row], None if types is None else [types], self._pooling)[0]
        return states[key]


def encode(
    encoder: Any, rows: Sequence[Sequence[int]], types: Sequence[Sequence[int]] | None, pooling: Pooling
) -> Tensor:
    """(B, H) pooled states of B rows of token ids; `types` tells first and second text apart where the encoder can."""
    ids, mask = _padded(rows, int(encoder.config.pad_token_id or 0), encoder.device)
    extra = {}
    if types is not None and int(getattr(encoder.config, "type_vocab_size", 0) or 0) > 1:
        extra["token_type_ids"] = _padded(types, 0, encoder.device)[0]
    states = encoder(input_ids=ids, attention_mask=mask, **extra).last_hidden_state  # (B, T, H)
    if pooling is Pooling.FIRST:
        return states[:, 0]
    weights = mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1)


def encoder_layers(encoder: Any) -> nn.ModuleList:
    """The encoder's stack of layers, its longest list of equal modules."""
    lists = [module for module in encoder.modules() if isinstance(module, nn.ModuleList)]
    if not lists:
        raise RecipeError(f"tuned_layers: {type(encoder).__name__} has no list of layers; leave tuned_layers out")
    return max(lists, key=len)


def freeze(encoder: Any, tuned_layers: int | None) -> None:
    """Let only the upper `tuned_layers` learn; all, embeddings too, where it is None.

    Raises:
        RecipeError: the encoder has not so many layers.
    """
    if tuned_layers is None:
        return
    layers = encoder_layers(encoder)
    if tuned_layers > len(layers):
        raise RecipeError(f"tuned_layers is {tuned_layers}, but the encoder has {len(layers)} layers")
    encoder.requires_grad_(False)
    for layer in layers[len(layers) - tuned_layers :]:
        layer.requires_grad_(True)


def _padded(rows: Sequence[Sequence[int]], padding: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(B, T) ids and (B, T) mask, 1 at real tokens."""
    longest = max(len(row) for row in rows)
    ids = torch.tensor([[*row, *[padding] * (longest - len(row))] for row in rows], device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=device)
    return ids, mask
