"""The memory plan: parts by hand, the recipe for one T4, and the estimate beside what a real step allocates."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from benchmarks.sft_memory import SMALL, build, measure
from sft.base import BITSANDBYTES, BaseModelError
from sft.commands import app
from sft.config import ConfigError, SftConfig
from sft.config_loading import load_config
from sft.planning.memory import GIB, NF4_BYTES, Device, Step, longest_step, plan_memory
from sft.planning.shapes import KNOWN, config_of, shape_from, shape_of

torch.set_num_threads(1)

T4, QWEN = "t4", KNOWN["Qwen/Qwen3-8B"]
LM_ONLY = ("losses.emotion=0", "losses.strategy=0", "losses.safety=0")
NEEDS_4_BITS = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason=f"not in cpu.lock: pip install --no-deps {BITSANDBYTES}"
)


def small(*overrides: str) -> SftConfig:
    return load_config("quickstart", ["vocabulary_chunk=2048", *overrides])


def test_the_parts_of_the_t4_recipe_by_hand() -> None:
    """Qwen3-8B: 36 blocks of 4096 x (4096 + 1024 + 1024 + 4096 + 3 x 12288) = 192,937,984 numbers in nf4; two matrices
    of 151,936 words in 2 bytes; LoRA of rank 16 on 36 x (2 x 8192 + 2 x 5120) = 958,464 widths."""
    plan = plan_memory(load_config(T4), QWEN, Device.T4)
    rules, linear, words, adapter, heads = plan.always.values()
    assert rules == longest_step(load_config(T4)).rules * 2 * 8 * 128 * 36 * 2  # keys and values of 8 heads of 128
    assert linear == pytest.approx(36 * 192_937_984 * 0.51587, rel=1e-4)
    assert words == pytest.approx(2 * 151_936 * 4096 * 2, rel=1e-3)
    assert adapter == 16 * 16 * 958_464
    assert heads == 16 * ((4096 + 1) * 512 + 513 * 27 + (4096 + 1) * 256 + 257 * 8)
    assert plan.kept == 36 * 4 * 1024 * 4096 * 2  # checkpointing: the input of every block
    assert plan.tokens_per_step == 4 * 1024 * 8
    assert pytest.approx(0.515869, abs=1e-6) == NF4_BYTES
    assert plan.peak < 15 * GIB


def test_a_lambda_of_zero_and_checkpointing_save_memory() -> None:
    full = plan_memory(load_config(T4), QWEN, Device.T4)
    kept = plan_memory(load_config(T4, ["model.gradient_checkpointing=false"]), QWEN, Device.T4)
    plain = plan_memory(load_config(T4, list(LM_ONLY)), QWEN, Device.T4)
    assert kept.kept > 10 * full.kept and kept.peak > 15 * GIB
    assert set(full.moments) - set(plain.moments) == {"words of the safety loss", "teacher's pass"}
    assert plain.always["heads, their slopes and moments"] == 0


def test_shapes_are_those_of_the_models_that_transformers_builds() -> None:
    from transformers import AutoModelForCausalLM

    for shape in (SMALL, replace(SMALL, tied=False, normed_heads=False)):
        described = config_of(shape, 64)
        assert shape_from(described) == shape
        lm = AutoModelForCausalLM.from_config(described)
        assert (
            sum(p.numel() for p in lm.parameters())
            == shape.layers * shape.block_parameters() + shape.other_parameters()
        )
    assert shape_of("Qwen/Qwen3-8B") is QWEN


def test_the_adapter_has_the_size_that_peft_gives_it() -> None:
    config = small()
    model = build(config, SMALL, 64, torch.device("cpu"))
    trained = sum(value.numel() for value in model.trained().values())
    planned = plan_memory(config, SMALL, Device.CPU).always
    assert 16 * trained == planned["adapter, its slopes and moments"] + planned["heads, their slopes and moments"]


@pytest.mark.parametrize(
    "overrides",
    [
        LM_ONLY,
        (*LM_ONLY, "model.gradient_checkpointing=true"),
        (*LM_ONLY, "model.lora.dropout=0"),
        (),
        pytest.param(("model.quantisation=nf4",), marks=NEEDS_4_BITS),
        pytest.param(("model.quantisation=nf4", "model.gradient_checkpointing=true"), marks=NEEDS_4_BITS),
        ("model.gradient_checkpointing=true", "vocabulary_chunk=8192"),
        ("model.gradient_checkpointing=true", "vocabulary_chunk=64"),
    ],
)
def test_the_estimate_is_within_a_tenth_of_what_a_step_allocates(overrides: tuple[str, ...]) -> None:
    config = small(*overrides)
    step = Step(2, 128, 256 if config.losses.safety else 0)
    planned, found = plan_memory(config, SMALL, Device.CPU, step), measure(config, SMALL, step, 2)
    assert planned.peak == pytest.approx(found.peak, rel=0.1)
    assert found.tokens_per_s > 0


def test_what_cannot_run_is_refused() -> None:
    with pytest.raises(ConfigError, match="float16: only on CUDA"):
        plan_memory(small("model.precision=float16"), SMALL, Device.CPU)


def test_a_target_that_no_block_has_is_not_counted_as_nothing() -> None:
    with pytest.raises(ConfigError, match=r"target_modules: v_porj cannot be counted.* q_proj, k_proj"):
        plan_memory(small("model.lora.target_modules=[q_proj,v_porj]"), SMALL, Device.CPU)


def test_a_decoder_with_experts_is_refused(tmp_path: Path) -> None:
    """It has all the sizes of Qwen3, and many times its parameters: 8 experts of 3 x 32 x 16 in each of two blocks."""
    from transformers import Qwen3MoeConfig

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    Qwen3MoeConfig(
        **sizes, head_dim=16, vocab_size=64, intermediate_size=16, moe_intermediate_size=16, num_experts=8
    ).save_pretrained(tmp_path)
    with pytest.raises(BaseModelError, match="in experts or in other blocks"):
        shape_of(str(tmp_path))


def test_the_shipped_base_is_planned_without_being_built() -> None:
    shape = shape_of("smollm2-135m")
    assert shape.layers * shape.block_parameters() + shape.other_parameters() == 134_515_008


def test_the_longest_batch_counts_the_rules() -> None:
    assert longest_step(load_config(T4)).rules > 100
    assert longest_step(load_config(T4, ["losses.safety=0"])) == Step(4, 1024, 0)


def test_the_command_prints_parts_peak_and_room() -> None:
    done = CliRunner().invoke(app, ["plan", T4])
    assert done.exit_code == 0, done.output
    assert "base, linear layers in nf4" in done.output and "GiB below the bar of 15 GiB" in done.output
    assert "at most 32768 tokens per step, in 8 batches" in done.output
    over = CliRunner().invoke(app, ["plan", T4, "model.quantisation=none"])
    assert "GiB above the bar" in over.output
    assert CliRunner().invoke(app, ["plan", T4, "--device", "tpu"]).exit_code == 2


def test_a_base_that_is_no_such_decoder_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(BaseModelError, match="cannot read its configuration"):
        shape_of(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(BaseModelError, match="no decoder in the manner of Llama"):
        shape_of(str(tmp_path))
