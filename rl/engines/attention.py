"""Attention over shared-prompt rows that computes only what is seen.

A dense block-causal mask over a row of P + nL cells costs (P + nL)^2 products, though replies never look at each other.
Here a row is two problems instead: the prompt over itself, P^2 / 2, and every reply over the prompt and itself,
nL (P + L). The results are those of the dense mask.

It is registered with transformers under `NAME`, and reached by the decoder's keyword `spans`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import pad, scaled_dot_product_attention

from rl.batching import MicroBatch

NAME = "rapport_shared_prompt"


@dataclass(frozen=True, slots=True, eq=False)
class Spans:
    """Where prompts and replies lie in a micro-batch of B rows and N cells, with R replies of up to T tokens.

    Attributes:
        prompt: longest prompt of the micro-batch, in cells.
        rows: (R,) the row of every reply, ascending; `row_sizes`: how many replies each of the B rows has.
        cells: (R * T,) cells of the reply tokens in the flattened (B * N), padding included.
        filled: indices of the real ones among those R * T, and `targets` the cells they stand for.
        groups: query heads per key head; a reply's query heads of one key head ask one after the other.
        mask: (R, 1, groups * T, prompt + T) additive.
    """

    prompt: int
    rows: torch.Tensor
    row_sizes: tuple[int, ...]
    cells: torch.Tensor
    filled: torch.Tensor
    targets: torch.Tensor
    groups: int
    mask: torch.Tensor

    @classmethod
    def of(cls, batch: MicroBatch, dtype: torch.dtype, groups: int) -> Spans:
        replies, tokens = batch.cells.shape
        prompt = batch.longest_prompt
        device = batch.cells.device
        own = torch.ones(tokens, tokens, dtype=torch.bool, device=device).tril()
        shared = torch.arange(prompt, device=device) < batch.prompts[batch.rows][:, None]
        seen = torch.cat(
            [shared[:, None].expand(replies, tokens, prompt), own[None].expand(replies, tokens, tokens)], dim=2
        )
        # Padding comes after the real tokens of a reply, so the causal triangle hides it from them.
        mask = torch.zeros(seen.shape, dtype=dtype, device=device).masked_fill_(~seen, torch.finfo(dtype).min)
        mask = mask[:, None].repeat(1, 1, groups, 1)
        cells = batch.cells.flatten()
        filled = batch.real.flatten().nonzero()[:, 0]
        return cls(prompt, batch.rows, batch.row_sizes, cells, filled, cells[filled], groups, mask)


def shared_prompt_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    spans: Spans | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """query (B, heads, N, D), key and value (B, key heads, N, D) -> (B, N, heads, D). Without `spans`: plain causal."""
    options: dict[str, Any] = {"dropout_p": dropout, "scale": scaling}
    if spans is None:
        key, value = _per_query_head(module, key), _per_query_head(module, value)
        whole = scaled_dot_product_attention(
            query, key, value, attn_mask=attention_mask, is_causal=attention_mask is None, **options
        )
        return whole.transpose(1, 2).contiguous(), None
    rows, heads, width, size = query.shape
    prompt_query, prompt_key, prompt_value = (x[:, :, : spans.prompt] for x in (query, key, value))
    prompts = scaled_dot_product_attention(
        prompt_query,
        _per_query_head(module, prompt_key),
        _per_query_head(module, prompt_value),
        is_causal=True,
        **options,
    )
    replies = scaled_dot_product_attention(
        _stack_heads(_replies(query, spans), spans.groups),
        torch.cat([_prompts(prompt_key, spans), _replies(key, spans)], dim=2),
        torch.cat([_prompts(prompt_value, spans), _replies(value, spans)], dim=2),
        attn_mask=spans.mask,
        **options,
    ).view(len(spans.rows), heads, -1, size)
    # Cells after a shorter prompt were computed as if they were prompt; every one of them is a reply's or padding.
    base = pad(prompts.transpose(1, 2), (0, 0, 0, 0, 0, width - spans.prompt)).reshape(rows * width, heads * size)
    reply_cells = replies.transpose(1, 2).reshape(-1, heads * size).index_select(0, spans.filled)
    return base.index_copy(0, spans.targets, reply_cells).view(rows, width, heads, size), None


def _replies(states: torch.Tensor, spans: Spans) -> torch.Tensor:
    """(B, heads, N, D) -> (R, heads, T, D)."""
    _, heads, _, size = states.shape
    flat = _TakeCells.apply(states.transpose(1, 2).reshape(-1, heads * size), spans)
    return flat.view(len(spans.rows), -1, heads, size).transpose(1, 2)


def _prompts(states: torch.Tensor, spans: Spans) -> torch.Tensor:
    """(B, heads, prompt, D) -> (R, heads, prompt, D): every reply's own prompt."""
    return _RepeatRows.apply(states, spans)


class _TakeCells(torch.autograd.Function):
    """`index_select` of the reply cells. A cell belongs to one reply, so the gradient is copied back, where torch would
    add it entry by entry on one thread. Padding has no gradient: nothing reads what is computed there."""

    @staticmethod
    def forward(ctx: Any, flat: torch.Tensor, spans: Spans) -> torch.Tensor:
        ctx.spans, ctx.shape = spans, flat.shape
        return flat.index_select(0, spans.cells)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        taken = grads[0].index_select(0, ctx.spans.filled)
        return taken.new_zeros(ctx.shape).index_copy_(0, ctx.spans.targets, taken), None


class _RepeatRows(torch.autograd.Function):
    """`index_select` of rows, in order. Replies of a row follow each other, so its gradient is the sum of a slice."""

    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, spans: Spans) -> torch.Tensor:
        ctx.sizes = spans.row_sizes
        return states.index_select(0, spans.rows)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        return torch.stack([part.sum(0) for part in grads[0].split(ctx.sizes)]), None


def _stack_heads(states: torch.Tensor, groups: int) -> torch.Tensor:
    """(R, heads, T, D) -> (R, key heads, groups * T, D): query heads of one key head ask one after the other, so that
    the long keys and values need not be copied for each of them."""
    replies, heads, tokens, size = states.shape
    return states.reshape(replies, heads // groups, groups * tokens, size)


def _per_query_head(module: nn.Module, states: torch.Tensor) -> torch.Tensor:
    """Grouped-query attention: each key head serves several query heads, (B, key heads, ...) -> (B, heads, ...)."""
    groups = getattr(module, "num_key_value_groups", 1)
    return states if groups == 1 else states.repeat_interleave(groups, dim=1)


def register() -> None:
    """Make `attn_implementation=NAME` known to transformers. It needs no mask from there."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, shared_prompt_attention)
