"""From rows of token ids to one state each, on any Hugging Face encoder; and which of its layers learn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from reward_servers.turn_scorers.recipe import Pooling, RecipeError


def encode(
    encoder: Any, rows: Sequence[Sequence[int]], types: Sequence[Sequence[int]] | None, pooling: Pooling
) -> Tensor:
    """(B, H) pooled states of B rows of token ids; `types` tells first and second text apart where the encoder can."""
    asked = inputs(encoder, rows, types)
    return pool(encoder(**asked).last_hidden_state, asked["attention_mask"], pooling)


def inputs(encoder: Any, rows: Sequence[Sequence[int]], types: Sequence[Sequence[int]] | None) -> dict[str, Tensor]:
    """What the encoder is called with: (B, T) token ids, mask and, where it has them, types, padded on the right."""
    ids, mask = _padded(rows, int(encoder.config.pad_token_id or 0), encoder.device)
    asked = {"input_ids": ids, "attention_mask": mask}
    if types is not None and int(getattr(encoder.config, "type_vocab_size", 0) or 0) > 1:
        asked["token_type_ids"] = _padded(types, 0, encoder.device)[0]
    return asked


def pool(states: Tensor, mask: Tensor, pooling: Pooling) -> Tensor:
    """(B, H) of (B, T, H) states and the (B, T) mask of the real tokens."""
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
