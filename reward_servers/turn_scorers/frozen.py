"""The frozen layers of an encoder: each text goes through them once, and what they make of it is kept.

With MiniLM's upper two of six layers tuned, four sixths of each forward are the same in every epoch, for every seed and
for all three variants.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from reward_servers.turn_scorers.encoding import encode, encoder_layers, inputs, pool
from reward_servers.turn_scorers.recipe import Pooling

MAX_KEPT_BYTES = 4 << 30  # 40,000 replies of MiniLM's 60 tokens; what has no room is computed anew each time

Row = Sequence[int]
_Key = tuple[tuple[int, ...], bool]  # a text's token ids, and whether they are a pair


class KeptStates:
    """States of texts, for all trainings that share an encoder and the number of its tuned layers."""

    def __init__(self, at_most: int = MAX_KEPT_BYTES) -> None:
        self._states: dict[_Key, Tensor] = {}
        self._room = at_most

    def __len__(self) -> int:
        return len(self._states)

    def get(self, key: _Key, compute: Callable[[], Tensor]) -> Tensor:
        if key in self._states:
            return self._states[key]
        state = compute()
        if state.nbytes <= self._room:
            self._room -= state.nbytes
            self._states[key] = state
        return state


class FrozenLayers:
    """All but the upper `tuned_layers` of an encoder, for training the rest.

    Kept of a text is the (T, H) state that enters the first tuned layer; the (H,) pooled one where none is tuned. It is
    computed from the text alone, unpadded: what else is in a batch must not change it.
    """

    def __init__(self, encoder: Any, tuned_layers: int, pooling: Pooling, states: KeptStates) -> None:
        layers = encoder_layers(encoder)
        self._encoder, self._pooling, self._states = encoder, pooling, states
        self._upper = layers[len(layers) - tuned_layers :] if tuned_layers else None
        self._place = next(
            (module, name) for module in encoder.modules() for name, child in module.named_children() if child is layers
        )

    def can_be_left_out(self, row: Row) -> bool:
        """Whether the tuned layers alone, given what is kept, make the same of `row` as the whole encoder does.

        False of an encoder that does more than run its layers one after the other, DeBERTa with its convolution.
        """
        with torch.no_grad():
            whole = encode(self._encoder, [row], None, self._pooling)
            return torch.allclose(self.encode([row], None), whole, atol=1e-4)

    def encode(self, rows: Sequence[Row], types: Sequence[Row] | None) -> Tensor:
        """(B, H) pooled states of B rows of token ids; gradients reach the tuned layers."""
        typed: Sequence[Row | None] = [None] * len(rows) if types is None else types
        kept = [self._kept(row, own) for row, own in zip(rows, typed, strict=True)]
        if self._upper is None:
            return torch.stack(kept)
        asked = inputs(self._encoder, rows, types)
        with self._upper_layers_only(pad_sequence(kept, batch_first=True)):
            states = self._encoder(**asked).last_hidden_state
        return pool(states, asked["attention_mask"], self._pooling)

    def _kept(self, row: Row, types: Row | None) -> Tensor:
        with torch.inference_mode(False), torch.no_grad():
            return self._states.get((tuple(row), types is not None), lambda: self._computed(row, types))

    def _computed(self, row: Row, types: Row | None) -> Tensor:
        own = None if types is None else [types]
        if self._upper is None:
            return encode(self._encoder, [row], own, self._pooling)[0]
        seen: list[Tensor] = []
        learning = self._upper[0].training
        self._upper.eval()  # their dropout would draw numbers, and a text kept would be told from one computed anew
        hook = self._upper[0].register_forward_pre_hook(
            lambda _, args, kwargs: seen.append(_entering(args, kwargs)), with_kwargs=True
        )
        try:
            self._encoder(**inputs(self._encoder, [row], own))
        finally:
            hook.remove()
            self._upper.train(learning)
        return seen[0][0]

    @contextmanager
    def _upper_layers_only(self, states: Tensor) -> Iterator[None]:
        """The encoder without its frozen layers, the first of the others reading `states` in place of what it gets."""

        def give(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            return ((states, *args[1:]), kwargs) if args else ((), {**kwargs, "hidden_states": states})

        assert self._upper is not None
        module, name = self._place
        all_layers = getattr(module, name)
        hook = self._upper[0].register_forward_pre_hook(give, with_kwargs=True)
        setattr(module, name, self._upper)
        try:
            yield
        finally:
            setattr(module, name, all_layers)
            hook.remove()


def _entering(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The hidden states that a layer is called with."""
    return args[0] if args else kwargs["hidden_states"]
