"""vLLM inside a process of ours, as the policy, as a tagger or as a judged model: what all of them set before it loads.

It stands in the lowest room, where every room that runs vLLM may call it, and imports nothing but the standard library.
"""

from __future__ import annotations

import atexit
import gc
import os
from typing import Any


def prepare_process(*, gpu: bool) -> None:
    """Set this process up for `vllm.LLM`. To be called before vLLM is imported; a second call changes nothing.

    vLLM takes all objects that there are out of the garbage collector (`gc.freeze`). Those of Triton's bindings would
    then still be there when Python has ended, and nanobind would report each of them as leaked, on some forty lines.
    They are given back to the collector at the end; nothing that anybody prints is hidden.
    """
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ["VLLM_NO_USAGE_STATS"] = "1"
    if not gpu:  # vLLM compiles one small sampler function for 18 s, which saves nothing measurable
        os.environ["TORCH_COMPILE_DISABLE"] = "1"
    atexit.unregister(gc.unfreeze)
    atexit.register(gc.unfreeze)


def cache_bytes_per_token(text_config: Any, number_bytes: int) -> int:
    """Keys and values of one token in all layers.

    Args:
        text_config: the Hugging Face configuration of a language model of attention layers.
        number_bytes: 2 for bfloat16, 4 for float32.
    """
    head = getattr(text_config, "head_dim", None) or text_config.hidden_size // text_config.num_attention_heads
    heads = getattr(text_config, "num_key_value_heads", None) or text_config.num_attention_heads
    return 2 * text_config.num_hidden_layers * heads * head * number_bytes
