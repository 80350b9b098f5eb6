"""A base in 4 bits: the adapter learns as it would on the same weights unpacked, and a run goes through."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import nn

from sft.base import BITSANDBYTES
from sft.batching import Batch, collate
from sft.model import SftModel
from sft.preparing import Prepared
from sft.saved import load_model
from sft.training import train

pytest.importorskip("bitsandbytes", reason=f"not in cpu.lock: pip install --no-deps {BITSANDBYTES}")

from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit

RunOf = Callable[..., Prepared]
ModelOf = Callable[..., SftModel]
NF4 = "model.quantisation=nf4"


def unpack(module: nn.Module) -> int:
    """Put ordinary layers with the same values in the place of 4-bit ones; how many there were."""
    found = 0
    for parent in list(module.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, Linear4bit):
                found += 1
                plain = nn.Linear(layer.in_features, layer.out_features, bias=False)
                plain.weight.data = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
                setattr(parent, name, plain.requires_grad_(False))
    return found


def slopes(model: SftModel, batch: Batch) -> dict[str, torch.Tensor]:
    model.states(batch.ids, batch.attention).square().sum().backward()
    return {name: value.grad.clone() for name, value in model.trained().items() if value.grad is not None}


@pytest.mark.parametrize("evaluated_before", [False, True])
def test_gradients_are_those_of_the_unpacked_base(run_of: RunOf, model_of: ModelOf, evaluated_before: bool) -> None:
    """Also after a pass in evaluation mode, which on some processors repacks 4-bit weights for good."""
    prepared = run_of(NF4, "model.lora.dropout=0")
    model, twin = model_of(prepared, stirred=True), model_of(prepared, stirred=True)
    assert unpack(twin.lm) >= 7 * twin.lm.config.num_hidden_layers
    batch = collate(next(iter(prepared.corpus.sequences.values()))[:2], prepared.pad_id)
    if evaluated_before:
        with torch.no_grad():
            model.eval().states(batch.ids, batch.attention)
    found, expected = slopes(model.train(), batch), slopes(twin.train(), batch)
    assert found.keys() == expected.keys() and len(found) > 0
    for name, slope in expected.items():
        assert slope.abs().max() > 0, name
        torch.testing.assert_close(found[name], slope, rtol=1e-3, atol=1e-3 * float(slope.abs().max()))


def test_a_run_on_a_base_in_4_bits(run_of: RunOf) -> None:
    result = train(run_of(NF4))
    model = load_model(result.folder / "best").model
    packed = [layer for layer in model.lm.modules() if isinstance(layer, Linear4bit)]
    assert packed and all(layer.weight.dtype is torch.uint8 for layer in packed)
    assert result.steps == 4


def test_libraries_that_look_for_4_bit_kernels_do_not_talk_about_it() -> None:
    program = "from sft.base import be_quiet; be_quiet(); import bitsandbytes, peft"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=200, check=True)
    assert "kernels" not in done.stdout + done.stderr
