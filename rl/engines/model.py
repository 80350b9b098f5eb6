"""The policy as the learner sees it: a causal language model that answers a micro-batch with reply log-probs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from rl.batching import MicroBatch
from rl.config import Dtype, ModelConfig
from rl.engines import attention
from rl.engines.attention import Spans
from rl.engines.base import Forward
from rl.engines.head import ReplyHead, Scoring, not_plain_logits

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PreTrainedModel


class ModelUnsupportedError(ValueError):
    """A model whose output layer is more than a matrix product, so that its log-probs would be computed wrongly."""


class PolicyModel(nn.Module):
    """Wraps a Hugging Face model, with or without a LoRA adapter, under the attribute `lm`.

    `compute`: dtype of the forward pass, which an engine may cast parameters to on the fly.
    """

    def __init__(self, lm: Any, compute: torch.dtype) -> None:
        super().__init__()
        self.lm = lm  # PreTrainedModel or PeftModel
        self.compute = compute

    @property
    def bare(self) -> Any:
        """The Hugging Face model itself, also under LoRA."""
        return self.lm.get_base_model() if self.has_adapter else self.lm

    @property
    def has_adapter(self) -> bool:
        return hasattr(self.lm, "peft_config")

    @property
    def decoder_layers(self) -> nn.ModuleList:
        return self.bare.get_decoder().layers

    @contextmanager
    def without_adapter(self) -> Iterator[None]:
        """The base model alone. peft's own `disable_adapter` also switches `requires_grad`, which FSDP2 copies when it
        first gathers a parameter: a run whose first pass is the reference would then never train its adapter."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        layers = [module for module in self.modules() if isinstance(module, BaseTunerLayer)]
        for layer in layers:
            layer._disable_adapters = True
        try:
            yield
        finally:
            for layer in layers:
                layer._disable_adapters = False

    def forward(self, batch: MicroBatch, scoring: Scoring) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probs and entropies of the reply tokens of a micro-batch, both (R, T) float32."""
        bare = self.bare
        states = bare.get_decoder()(
            input_ids=batch.input_ids,
            position_ids=batch.position_ids,
            spans=Spans.of(batch, self.compute, getattr(self.decoder_layers[0].self_attn, "num_key_value_groups", 1)),
            use_cache=False,
        ).last_hidden_state
        where = batch.real.nonzero(as_tuple=True)
        hidden = states.flatten(0, 1)[batch.gather[where]].to(self.compute)
        logprobs, entropies = bare.get_output_embeddings()(hidden, batch.response_ids[where], scoring)
        shape = batch.response_mask.shape
        return _scatter(logprobs, where, shape), _scatter(entropies, where, shape)


@contextmanager
def reference_forward(copy: Forward | None, policy: PolicyModel, forward: Forward) -> Iterator[Forward]:
    """`Engine.reference` for every engine: the frozen copy, or where there is none the policy without its adapter.

    Raises:
        RuntimeError: there is neither a copy nor an adapter.
    """
    with torch.no_grad():
        if copy is not None:
            yield copy
        elif policy.has_adapter:
            with policy.without_adapter():
                yield forward
        else:
            raise RuntimeError("this engine was made without a reference model (kl_coef is 0)")


def _scatter(values: torch.Tensor, where: tuple[torch.Tensor, ...], shape: torch.Size) -> torch.Tensor:
    return torch.zeros(shape, dtype=values.dtype, device=values.device).index_put(where, values)


def load_policy(path: Path, config: ModelConfig, store: torch.dtype, compute: torch.dtype) -> PolicyModel:
    """Read a model for training.

    Args:
        store: dtype of trained parameters. Parameters that LoRA freezes are kept in `compute`.
        compute: dtype of the forward pass.
    """
    lora = config.lora.rank > 0
    lm = _load(path, compute if lora else store)
    if config.gradient_checkpointing:
        lm.gradient_checkpointing_enable({"use_reentrant": False})
    model: Any = lm
    if lora:
        from peft import get_peft_model

        if config.gradient_checkpointing:
            lm.enable_input_require_grads()
        model = get_peft_model(lm, peft_config(config), autocast_adapter_dtype=False)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(store)
    return PolicyModel(model, compute)


def peft_config(config: ModelConfig) -> PeftConfig:
    """The adapter as peft describes it."""
    from peft import LoraConfig

    return LoraConfig(
        r=config.lora.rank,
        lora_alpha=config.lora.alpha,
        lora_dropout=config.lora.dropout,
        target_modules=list(config.lora.target_modules),
        task_type="CAUSAL_LM",
    )


def load_reference(path: Path, compute: torch.dtype) -> PolicyModel:
    """A frozen copy of the model as it was before training."""
    return PolicyModel(_load(path, compute).requires_grad_(False), compute).eval()


def _load(path: Path, dtype: torch.dtype) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM

    attention.register()
    lm = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, attn_implementation=attention.NAME)
    refuse_unsupported(lm, path)
    lm.set_output_embeddings(ReplyHead.adopt(lm.get_output_embeddings()))
    return lm


def refuse_unsupported(lm: PreTrainedModel, path: Path) -> None:
    """Raise ModelUnsupportedError where the log-probs of `lm`, read from `path`, would be computed wrongly."""
    if reason := _unsupported(lm):
        raise ModelUnsupportedError(f"model {path}: {reason}; its log-probs would be wrong, so it is refused")


def _unsupported(lm: PreTrainedModel) -> str:
    """What this model does that `PolicyModel.forward` would leave out, or nothing."""
    if reason := not_plain_logits(lm):
        return reason
    if getattr(lm.config, "attn_logit_softcapping", None) is not None:
        return "its configuration sets attn_logit_softcapping"
    if set(getattr(lm.config, "layer_types", None) or ["full_attention"]) != {"full_attention"}:
        return "it has layers without full attention"
    return ""


def compute_dtype(choice: Dtype, device: torch.device) -> torch.dtype:
    """What `model.dtype` means here: `auto` is bfloat16 where the hardware multiplies it faster."""
    if choice is Dtype.auto:
        native = torch.cuda.is_bf16_supported() if device.type == "cuda" else cpu_multiplies_bfloat16()
        return torch.bfloat16 if native else torch.float32
    return torch.bfloat16 if choice is Dtype.bfloat16 else torch.float32


def cpu_multiplies_bfloat16() -> bool:
    """Whether this processor has tile products of bfloat16 (AMX), or Arm's.

    AVX-512 BF16 alone does not count: oneDNN's products are slower with it than in float32 (benchmarks/dtypes.py).
    """
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return False
    flags = info.read_text(encoding="utf-8", errors="replace").split()
    return any(flag in flags for flag in ("amx_bf16", "bf16"))
