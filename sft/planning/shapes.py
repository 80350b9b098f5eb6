"""The sizes of a decoder, as far as memory depends on them: from a model's configuration, no weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rl.models import resolve_model
from sft.config import LoraConfig


@dataclass(frozen=True, slots=True)
class DecoderShape:
    """Of a decoder in the manner of Llama and Qwen3: SwiGLU, RMSNorm, grouped queries.

    Attributes:
        hidden: H. layers: L. heads, kv_heads: of `head_dim` each. intermediate: I. vocabulary: V.
        tied: the output layer is the embedding matrix.
        normed_heads: queries and keys have norms of their own (Qwen3).
    """

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    tied: bool
    normed_heads: bool

    @property
    def queries(self) -> int:
        """Width of all query heads together."""
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        """Width of all key heads together; that of the values too."""
        return self.kv_heads * self.head_dim

    def matrices(self) -> dict[str, tuple[int, int]]:
        """(in, out) of each linear layer of a block, by its name in transformers."""
        return {
            "q_proj": (self.hidden, self.queries),
            "k_proj": (self.hidden, self.keys),
            "v_proj": (self.hidden, self.keys),
            "o_proj": (self.queries, self.hidden),
            "gate_proj": (self.hidden, self.intermediate),
            "up_proj": (self.hidden, self.intermediate),
            "down_proj": (self.intermediate, self.hidden),
        }

    def block_parameters(self) -> int:
        """Of the linear layers of one block."""
        return sum(inside * outside for inside, outside in self.matrices().values())

    def other_parameters(self) -> int:
        """Embeddings, output layer and norms, which nf4 leaves as they are."""
        words = self.vocabulary * self.hidden * (1 if self.tied else 2)
        norms = 2 * self.hidden + (2 * self.head_dim if self.normed_heads else 0)
        return words + self.layers * norms + self.hidden

    def lora_parameters(self, lora: LoraConfig) -> int:
        """Of A (rank, in) and B (out, rank) on each target of each block."""
        sizes = self.matrices()
        return sum(self.layers * lora.rank * sum(sizes[name]) for name in lora.target_modules)


MAX_UNCOUNTED = 0.02  # of a model's parameters: biases and further norms

# From the models' public configurations, so that a plan needs no hub and builds nothing.
KNOWN: Mapping[str, DecoderShape] = {
    "smollm2-135m": DecoderShape(576, 30, 9, 3, 64, 1536, 49152, tied=True, normed_heads=False),
    "Qwen/Qwen3-0.6B": DecoderShape(1024, 28, 16, 8, 128, 3072, 151936, tied=True, normed_heads=True),
    "Qwen/Qwen3-1.7B": DecoderShape(2048, 28, 16, 8, 128, 6144, 151936, tied=True, normed_heads=True),
    "Qwen/Qwen3-4B": DecoderShape(2560, 36, 32, 8, 128, 9728, 151936, tied=True, normed_heads=True),
    "Qwen/Qwen3-8B": DecoderShape(4096, 36, 32, 8, 128, 12288, 151936, tied=False, normed_heads=True),
}


def shape_of(model: str) -> DecoderShape:
    """Of a name in `KNOWN`, or of what `rl.models.resolve_model` finds.

    Raises:
        ModelError: it finds nothing.
        BaseModelError: what it finds is no such decoder.
    """
    known = KNOWN.get(model)
    if known is not None and not Path(model).expanduser().is_dir():
        return known
    from sft.base import BaseModelError, open_config  # torch, which a plan of a known model does without

    base = resolve_model(model)
    try:
        shape = shape_from(open_config(base))
    except AttributeError as error:
        raise BaseModelError(f"model {model}: no decoder in the manner of Llama and Qwen3 ({error})") from error
    _check_count(model, base, shape)
    return shape


def _check_count(model: str, base: Path, shape: DecoderShape) -> None:
    """A decoder of other blocks (experts, no gate) may have all these sizes, but has more or fewer parameters."""
    from sft.base import BaseModelError, open_skeleton

    there = sum(parameter.numel() for parameter in open_skeleton(base).parameters())
    counted = shape.layers * shape.block_parameters() + shape.other_parameters()
    if abs(there - counted) > MAX_UNCOUNTED * there:
        raise BaseModelError(
            f"model {model}: no decoder in the manner of Llama and Qwen3: one of its sizes has {counted:,} parameters, "
            f"and it has {there:,}, in experts or in other blocks that the formulae do not know"
        )


def shape_from(config: Any) -> DecoderShape:
    """Of a transformers configuration; that of a multi-modal model is in its text part."""
    text = config.get_text_config()
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return DecoderShape(
        hidden=text.hidden_size,
        layers=text.num_hidden_layers,
        heads=text.num_attention_heads,
        kv_heads=getattr(text, "num_key_value_heads", None) or text.num_attention_heads,
        head_dim=head_dim,
        intermediate=text.intermediate_size,
        vocabulary=text.vocab_size,
        tied=bool(getattr(text, "tie_word_embeddings", False)),
        normed_heads=text.model_type.startswith("qwen3"),
    )


def config_of(shape: DecoderShape, positions: int) -> Any:
    """A transformers configuration with this shape, of a Qwen3 or a Llama; for a model with random weights."""
    from transformers import LlamaConfig, Qwen3Config

    kind = Qwen3Config if shape.normed_heads else LlamaConfig
    return kind(
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        intermediate_size=shape.intermediate,
        vocab_size=shape.vocabulary,
        tie_word_embeddings=shape.tied,
        max_position_embeddings=positions,
    )
