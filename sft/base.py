"""The base model of a run: its folder, what it computes in, and loading it frozen, plain or in 4 bits.

A base whose output layer is more than a matrix product is refused: the losses over the vocabulary would be wrong.
"""

from __future__ import annotations

import importlib.util
import os
import textwrap
from pathlib import Path
from typing import Any

import torch

from dialogue.library_noise import silence_bitsandbytes
from rl.engines.head import not_plain_logits
from sft.config import ConfigError, ModelConfig, Precision, Quantisation

BITSANDBYTES = "bitsandbytes==0.50.2"  # as the extra `sft` of pyproject.toml


class BaseModelError(ValueError):
    """A base that cannot be used. The message says why, and what to do."""


def be_quiet() -> None:
    """No progress bars of transformers: reading a small model takes a moment, and a log has its own lines."""
    from transformers.utils import logging

    silence_bitsandbytes()
    logging.disable_progress_bar()


def pick_device() -> torch.device:
    """The GPU of this process, which torchrun numbers; else the processor."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def compute_dtype(choice: Precision, device: torch.device, has_bfloat16: bool | None = None) -> torch.dtype:
    """What the forward pass computes in.

    Args:
        has_bfloat16: whether the GPU multiplies bfloat16 by itself (not emulated); asked of CUDA by default.

    Raises:
        ConfigError: float16 on a processor, where there is no loss scaling.
    """
    if device.type != "cuda":
        if choice is Precision.float16:
            raise ConfigError("model.precision=float16: only on CUDA; use float32, or bfloat16, on a processor")
        return torch.bfloat16 if choice is Precision.bfloat16 else torch.float32
    if has_bfloat16 is None:
        has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
    if choice is Precision.auto:
        return torch.bfloat16 if has_bfloat16 else torch.float16
    return {
        Precision.float32: torch.float32,
        Precision.float16: torch.float16,
        Precision.bfloat16: torch.bfloat16,
    }[choice]


def load_base(path: Path, config: ModelConfig, device: torch.device, dtype: torch.dtype) -> Any:
    """The frozen language model on `device`.

    Raises:
        ConfigError: nf4 is asked for where it cannot run.
        BaseModelError: it cannot be opened, or its output layer is not a plain matrix product.
    """
    be_quiet()
    options: dict[str, Any] = {"dtype": dtype, "attn_implementation": "sdpa"}
    if config.quantisation is Quantisation.nf4:
        check_nf4(device)
        options |= {"quantization_config": _nf4(dtype), "device_map": {"": device}}
    lm = open_weights(path, **options).requires_grad_(False)
    if config.quantisation is Quantisation.nf4:
        keep_slopes(lm)
    reason = not_plain_logits(lm)
    if reason:
        raise BaseModelError(f"model {path}: {reason}; its losses would be wrong, so it is refused")
    if config.gradient_checkpointing:
        lm.gradient_checkpointing_enable({"use_reentrant": False})
        lm.enable_input_require_grads()
    return lm if config.quantisation is Quantisation.nf4 else lm.to(device)


def open_config(path: Path) -> Any:
    """The configuration of a base, that of its text part if it has several. Raises BaseModelError."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(path).get_text_config()
    except (OSError, ValueError) as error:
        said = textwrap.shorten(str(error), 300, placeholder=" ...")
        raise BaseModelError(f"model {path}: transformers cannot read its configuration ({said})") from error


def open_weights(path: Path, **options: Any) -> Any:
    """A causal language model. Raises BaseModelError where the folder holds none that transformers opens."""
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    try:
        return AutoModelForCausalLM.from_pretrained(path, **options)
    except (OSError, ValueError, SafetensorError) as error:
        said = textwrap.shorten(str(error), 300, placeholder=" ...")  # one lists every architecture there is
        raise BaseModelError(f"model {path}: transformers cannot open it ({said})") from error


def open_skeleton(path: Path) -> Any:
    """The causal language model without its weights (on the meta device): a tenth of a second for any size.

    Raises:
        BaseModelError: transformers knows no such model.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(path))
    except (OSError, ValueError) as error:
        said = textwrap.shorten(str(error), 300, placeholder=" ...")
        raise BaseModelError(f"model {path}: transformers cannot build it ({said})") from error


def check_nf4(device: torch.device) -> None:
    """Raises ConfigError where 4-bit weights cannot be used: bitsandbytes has kernels for CUDA and for CPUs."""
    said = "model.quantisation=nf4"
    if device.type not in ("cuda", "cpu"):
        raise ConfigError(f"{said}: runs on CUDA and on CPUs, not on {device.type}; set model.quantisation=none")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(
            f"{said}: needs bitsandbytes, which is not installed: .venv/bin/pip install --no-deps {BITSANDBYTES}"
        )


def keep_slopes(lm: Any) -> None:
    """Let gradients pass through 4-bit layers on a CPU, whatever was computed before.

    Where the processor has AVX512-BF16, bitsandbytes 0.50 packs the weights of a layer anew when it first runs in
    evaluation mode, for a kernel that has no backward pass, and uses that kernel from then on, in training too: the
    gradients of all adapters below would be wrong without an error. The teacher and the dev loss are such runs.
    """
    from bitsandbytes.nn import Linear4bit

    for layer in lm.modules():
        if isinstance(layer, Linear4bit):
            layer.support_avx512bf16_for_cpu = False


def _nf4(dtype: torch.dtype) -> Any:
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
