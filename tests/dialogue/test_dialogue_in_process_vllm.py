"""A process that ran vLLM ends in silence, and what anybody else says at its end is heard."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from dialogue.in_process_vllm import cache_bytes_per_token

ROOT = Path(__file__).resolve().parents[2]
# What vLLM does to a process, without loading a model: Triton's bindings are imported and all objects are frozen.
AS_VLLM_DOES = "import atexit, gc, sys; import triton; gc.freeze(); "
AT_THE_END = "atexit.register(lambda: print('a real complaint', file=sys.stderr))"


def complaints(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_the_cache_of_a_token_by_hand() -> None:
    from transformers import LlamaConfig, Qwen3Config

    shape = {"num_hidden_layers": 3, "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2}
    assert cache_bytes_per_token(Qwen3Config(**shape, head_dim=16), 4) == 2 * 3 * 2 * 16 * 4
    assert cache_bytes_per_token(LlamaConfig(**shape), 2) == 2 * 3 * 2 * (32 // 4) * 2


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed here")
def test_no_leak_reports_and_nothing_else_is_hidden() -> None:
    prepare = "from dialogue.in_process_vllm import prepare_process; prepare_process(gpu=False); "
    assert "nanobind" in complaints(AS_VLLM_DOES + AT_THE_END), "the fault is gone: prepare_process can be simpler"
    assert complaints(prepare + AS_VLLM_DOES + AT_THE_END).strip() == "a real complaint"
