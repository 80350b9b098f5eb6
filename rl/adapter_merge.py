"""A LoRA adapter folded into the weights it belongs to: W' = W + (alpha / rank) B A (arXiv 2106.09685, section 4.1).

A rollout worker that decodes with the merged weights multiplies no adapter at every token. Only the adapter travels;
the worker reads W from the checkpoint that it was started from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open

from rl.config import LoraConfig
from rl.weight_sync import WeightBucket, unpack

_PREFIX = "base_model.model."  # peft's, before the name of the model's own module
_A, _B = ".lora_A.weight", ".lora_B.weight"


@dataclass(frozen=True, slots=True, eq=False)
class AdapterPair:
    """The two matrices of one layer: a (r, in), b (out, r)."""

    a: torch.Tensor
    b: torch.Tensor


def adapter_pairs(buckets: Sequence[WeightBucket]) -> dict[str, AdapterPair]:
    """By the Hugging Face name of the weight that they change, e.g. `model.layers.0.self_attn.q_proj.weight`.

    Raises:
        ValueError: a matrix has no partner, or a tensor is no LoRA matrix.
    """
    tensors = {name: tensor for bucket in buckets for name, tensor in unpack(bucket)}
    strange = sorted(name for name in tensors if not name.endswith((_A, _B)))
    if strange:
        raise ValueError(f"an adapter holds lora_A and lora_B matrices only, not {', '.join(strange[:3])}")
    modules = {name.removesuffix(_A).removesuffix(_B) for name in tensors}
    single = sorted(name for name in tensors if _partner(name) not in tensors)
    if single:
        raise ValueError(f"adapter tensors must come as pairs of lora_A and lora_B; alone: {', '.join(single[:3])}")
    return {
        f"{module.removeprefix(_PREFIX)}.weight": AdapterPair(tensors[module + _A], tensors[module + _B])
        for module in sorted(modules)
    }


def merged_weights(
    model_path: Path, buckets: Sequence[WeightBucket], lora: LoraConfig
) -> Iterator[tuple[str, torch.Tensor]]:
    """Every weight of the checkpoint under its Hugging Face name; those under the adapter merged, in float32.

    Raises:
        ValueError: as `adapter_pairs`; or the adapter is for a weight that the checkpoint does not have.
    """
    pairs = adapter_pairs(buckets)
    files = sorted(model_path.glob("*.safetensors"))
    missing = set(pairs)
    for file in files:
        with safe_open(file, "pt") as opened:
            missing -= set(opened.keys())
    if missing:
        raise ValueError(
            f"the adapter is for weights that {model_path} does not have: {', '.join(sorted(missing)[:3])}"
        )
    for file in files:
        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - not a dict
                weight = opened.get_tensor(name)
                pair = pairs.get(name)
                yield name, weight if pair is None else _merged(weight, pair, lora.alpha / lora.rank)


def _merged(weight: torch.Tensor, pair: AdapterPair, scale: float) -> torch.Tensor:
    return torch.addmm(weight.float(), pair.b.float(), pair.a.float(), alpha=scale)


def _partner(name: str) -> str:
    return name.removesuffix(_A) + _B if name.endswith(_A) else name.removesuffix(_B) + _A
