"""The network of fine-tuning: a frozen causal language model, a LoRA adapter on it, and heads on its hidden states.

One pass of the decoder gives (B, T, H) states; each loss picks its own places in them (`sft.batching.Spots`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sft.base import BaseModelError, compute_dtype, load_base
from sft.batching import Batch
from sft.config import LoraConfig, ModelConfig, SftConfig
from sft.examples import Loss
from sft.heads import Heads, heads_wanted
from sft.opening import Opening, read_opening

TRAINED_ADAPTER = "default"  # peft's own name for the first; a second one may be beside it, see `sft.dpo.start`


class SftModel(nn.Module):
    """`lm`: a PeftModel. `heads`: those that exist. `compute`: the dtype of the forward pass."""

    def __init__(self, lm: Any, heads: Heads, compute: torch.dtype) -> None:
        super().__init__()
        self.lm = lm
        self.heads = heads
        self.compute = compute

    @property
    def device(self) -> torch.device:
        return self.output_weight.device

    @property
    def output_weight(self) -> torch.Tensor:
        """(V, H) of the output layer, which student and teacher share."""
        return self.lm.get_base_model().get_output_embeddings().weight

    def states(self, ids: torch.Tensor, attention: torch.Tensor, positions: torch.Tensor | None = None) -> torch.Tensor:
        """(B, T) token ids and mask -> (B, T, H) last hidden states, in `compute` or wider.

        Args:
            positions: (B, T) of packed rows, see `sft.batching`; they say all that the mask would.
        """
        with self._autocast():
            if positions is None:
                return self._decoder(input_ids=ids, attention_mask=attention, use_cache=False).last_hidden_state
            return self._decoder(input_ids=ids, position_ids=positions, use_cache=False).last_hidden_state

    def states_after(self, opening: Opening, ids: torch.Tensor, attention: torch.Tensor) -> torch.Tensor:
        """As `states`, for rows that stand behind an opening of P tokens; it is not among the T of `ids`."""
        before = attention.new_ones((len(ids), len(opening.ids)))
        with self._autocast():
            return self._decoder(
                input_ids=ids,
                attention_mask=torch.cat([before, attention], dim=1),
                position_ids=(len(opening.ids) + torch.arange(ids.shape[1], device=ids.device)).expand(len(ids), -1),
                past_key_values=opening.cache,
                use_cache=True,
            ).last_hidden_state

    def opening(self, ids: tuple[int, ...]) -> Opening | None:
        """An opening as the model reads it now; None where this base cannot share one."""
        with self._autocast():
            return read_opening(self._decoder, ids, self.device)

    @property
    def _decoder(self) -> Any:
        return self.lm.get_base_model().get_decoder()

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=self.compute, enabled=self.compute != torch.float32)

    def read(self, loss: Loss, batch: Batch, states: torch.Tensor) -> torch.Tensor:
        """What a head says at its places in a batch, (M, outputs) float32."""
        return self.heads.read(loss, batch.spots[loss].pick(states))

    @contextmanager
    def as_teacher(self) -> Iterator[None]:
        """The base alone: adapters off, dropout off, no gradients. What was before is set again at the end."""
        was_training = self.lm.training
        self.lm.eval()
        try:
            with torch.no_grad(), self.lm.disable_adapter():
                yield
        finally:
            self.lm.train(was_training)

    def trained(self) -> dict[str, nn.Parameter]:
        """Adapter and heads by name."""
        return {name: value for name, value in self.named_parameters() if value.requires_grad}


def build_model(config: SftConfig, base: Path, device: torch.device) -> SftModel:
    """A new adapter and new heads, from `config.seed`, on a frozen base.

    Raises:
        ConfigError: the precision or nf4 cannot be had here.
        BaseModelError: the base does not fit, or has no layer of the names in `model.lora.target_modules`.
    """
    dtype = compute_dtype(config.model.precision, device)
    lm = load_base(base, config.model, device, dtype)
    torch.manual_seed(config.seed)
    adapted = add_adapter(lm, config.model)
    heads = Heads(hidden_size(lm), config.model.heads, heads_wanted(config.losses)).to(device)
    return SftModel(adapted, heads, dtype)


def hidden_size(lm: Any) -> int:
    """H, from the model's configuration; that of a multi-modal model is in its text part."""
    return int(lm.config.get_text_config().hidden_size)


def add_adapter(lm: Any, config: ModelConfig) -> Any:
    """A PeftModel with a new LoRA adapter in float32, whatever the base is kept in."""
    from peft import get_peft_model

    try:
        adapted = get_peft_model(lm, peft_config(config.lora))
    except ValueError as error:
        names = ", ".join(config.lora.target_modules)
        raise BaseModelError(f"model.lora.target_modules=[{names}] does not fit this base: {error}") from error
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return adapted


def peft_config(config: LoraConfig) -> Any:
    """The adapter as peft describes it."""
    from peft import LoraConfig as PeftLora

    return PeftLora(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=list(config.target_modules),
        task_type="CAUSAL_LM",
    )
