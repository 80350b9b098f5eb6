"""Folding an adapter into a checkpoint's weights gives what peft gives."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig as PeftLoraConfig
from peft import get_peft_model, get_peft_model_state_dict
from rollout_agreement import LORA
from torch import nn

from rl.adapter_merge import adapter_pairs, merged_weights
from rl.weight_sync import pack


def test_merged_weights_are_those_of_peft(policy: nn.Module, tiny_model: Path) -> None:
    before = {name: weight.clone() for name, weight in policy.named_parameters()}
    settings = PeftLoraConfig(r=LORA.rank, lora_alpha=LORA.alpha, target_modules=list(LORA.target_modules))
    wrapped = get_peft_model(policy, settings)
    with torch.no_grad():
        for name, weight in wrapped.named_parameters():
            if "lora_B" in name:
                weight.normal_()
    buckets = list(pack(get_peft_model_state_dict(wrapped).items()))
    ours = dict(merged_weights(tiny_model, buckets, LORA))
    theirs = dict(wrapped.merge_and_unload().named_parameters())
    assert ours.keys() == theirs.keys()
    for name, weight in theirs.items():
        torch.testing.assert_close(ours[name], weight, rtol=1e-5, atol=1e-6)
    changed = {name for name, weight in theirs.items() if not torch.equal(weight, before[name])}
    assert changed == adapter_pairs(buckets).keys()


def test_an_adapter_for_another_model_is_refused(tiny_model: Path) -> None:
    names = [f"base_model.model.model.layers.99.mlp.up_proj.lora_{side}.weight" for side in "AB"]
    buckets = list(pack([(names[0], torch.ones(6, 4)), (names[1], torch.ones(4, 6))]))
    with pytest.raises(ValueError, match=r"does not have: model\.layers\.99\.mlp\.up_proj\.weight"):
        dict(merged_weights(tiny_model, buckets, LORA))


def test_what_is_no_adapter_is_refused() -> None:
    with pytest.raises(ValueError, match=r"only, not model\.norm\.weight"):
        adapter_pairs(list(pack([("model.norm.weight", torch.ones(3))])))
