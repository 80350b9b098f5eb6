"""The room that vLLM gets for keys and values on a processor, in bytes counted by hand; no engine is started.

A token takes 2 (key and value) x layers x key-value heads x size of a head x bytes of a number.
"""

from __future__ import annotations

from types import SimpleNamespace

import psutil
import pytest
from transformers import GPT2Config, LlamaConfig, Qwen3Config

from evaluation import vllm_model

PLENTY = 1 << 40
LLAMA = LlamaConfig(num_hidden_layers=3, hidden_size=64, num_attention_heads=4, num_key_value_heads=2)
LLAMA_TOKEN = 768  # 2 x 3 layers x 2 heads x (64 / 4) x 4 bytes


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """Sets the free memory in bytes, and the numbers' type."""

    def be(free: int = PLENTY, dtype: str = "float32") -> None:
        monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=free))
        monkeypatch.setattr(vllm_model, "_cpu_dtype", lambda: dtype)

    be()
    return be


def test_with_plenty_of_memory_there_is_room_for_32_sequences_of_2048_tokens(machine) -> None:
    assert vllm_model._cpu_kv_bytes(LLAMA, 8192) == 32 * 2048 * LLAMA_TOKEN == 50_331_648


def test_a_shorter_context_needs_less(machine) -> None:
    assert vllm_model._cpu_kv_bytes(LLAMA, 512) == 32 * 512 * LLAMA_TOKEN == 12_582_912


def test_half_as_many_bytes_in_bfloat16(machine) -> None:
    machine(dtype="bfloat16")
    assert vllm_model._cpu_kv_bytes(LLAMA, 8192) == 25_165_824


def test_no_more_than_a_quarter_of_the_free_memory(machine) -> None:
    machine(free=40_000_000)
    assert vllm_model._cpu_kv_bytes(LLAMA, 8192) == 10_000_000


def test_one_sequence_of_the_longest_fits_in_any_case(machine) -> None:
    """The context and 64 tokens, for blocks that are not full; vLLM refuses to start with less."""
    machine(free=1000)
    assert vllm_model._cpu_kv_bytes(LLAMA, 8192) == (8192 + 64) * LLAMA_TOKEN == 6_340_608


def test_a_head_has_the_size_that_the_configuration_says_or_its_part_of_the_hidden_size(machine) -> None:
    """Qwen3's heads are larger than their part; GPT-2 names neither their size nor key-value heads of their own."""
    qwen = Qwen3Config(num_hidden_layers=3, hidden_size=64, num_attention_heads=4, num_key_value_heads=2, head_dim=128)
    assert vllm_model._cpu_kv_bytes(qwen, 2048) == 32 * 2048 * (2 * 3 * 2 * 128 * 4) == 402_653_184
    gpt = GPT2Config(n_layer=3, n_embd=64, n_head=4)
    assert vllm_model._cpu_kv_bytes(gpt, 1024) == 32 * 1024 * (2 * 3 * 4 * 16 * 4) == 50_331_648
