"""After a sync the workers sample from the learner's weights: same greedy tokens, same log-probs, in float32."""

from __future__ import annotations

from pathlib import Path

import pytest
import ray
import torch
from peft import LoraConfig as PeftLoraConfig
from peft import get_peft_model, get_peft_model_state_dict
from rollout_agreement import LORA, disturb, full_update, greedy_agreement, worst_gap
from torch import nn
from vllm.lora.ops import torch_ops

from rl import vllm_extension
from rl.rollout import RolloutError, RolloutPool, Sampling
from rl.rollout_worker import check_complete
from rl.types import Prompt
from rl.weight_sync import WeightUpdate, pack

GREEDY = Sampling(n=1, temperature=0.0, max_tokens=24)
SEEDS = range(8)


def adapter(policy: nn.Module, seed: int) -> nn.Module:
    """`policy` under a LoRA adapter that changes a lot."""
    settings = PeftLoraConfig(r=LORA.rank, lora_alpha=LORA.alpha, target_modules=list(LORA.target_modules))
    wrapped = get_peft_model(policy, settings)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in wrapped.named_parameters():
            if "lora_B" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.05)
    return wrapped


def adapter_update(wrapped: nn.Module, version: int) -> WeightUpdate:
    buckets = pack(get_peft_model_state_dict(wrapped).items())
    return WeightUpdate(version, tuple(ray.put(bucket) for bucket in buckets), LORA)


def test_full_weights_arrive_and_the_check_fails_without_them(
    pool: RolloutPool, prompts: tuple[Prompt, ...], policy: nn.Module
) -> None:
    for version in (11, 12):
        disturb(policy, seed=version)
        stale = pool.generate(prompts, GREEDY, SEEDS)
        assert greedy_agreement(policy, stale) < 0.9
        assert worst_gap(policy, stale, 0.0) > 1e-2
        timings = pool.update_weights(full_update(policy, version))
        fresh = pool.generate(prompts, GREEDY, SEEDS)
        assert greedy_agreement(policy, fresh) == 1.0
        assert worst_gap(policy, fresh, 0.0) < 1e-4
        assert {rollout.policy_version for group in fresh for rollout in group.rollouts} == {version} == {pool.version}
        assert timings["bytes"] >= sum(weight.nbytes for weight in policy.parameters())


def test_an_adapter_arrives_and_the_check_fails_without_it(
    lora_pool: RolloutPool, prompts: tuple[Prompt, ...], policy: nn.Module
) -> None:
    assert worst_gap(policy, lora_pool.generate(prompts, GREEDY, SEEDS), 0.0) < 1e-4  # before any: the base
    wrapped = adapter(policy, seed=0)
    for version in (1, 2):
        disturb_adapter(wrapped, seed=version)
        stale = lora_pool.generate(prompts, GREEDY, SEEDS)
        assert greedy_agreement(wrapped, stale) < 0.9
        assert worst_gap(wrapped, stale, 0.0) > 1e-2
        timings = lora_pool.update_weights(adapter_update(wrapped, version))
        fresh = lora_pool.generate(prompts, GREEDY, SEEDS)
        assert greedy_agreement(wrapped, fresh) == 1.0
        assert worst_gap(wrapped, fresh, 0.0) < 1e-4
        assert {rollout.policy_version for group in fresh for rollout in group.rollouts} == {version}
        assert timings["bytes"] < 0.2 * sum(weight.nbytes for weight in policy.parameters())


def disturb_adapter(wrapped: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in wrapped.named_parameters():
            if "lora_" in name:
                weight.add_(torch.randn(weight.shape, generator=generator) * 0.05)


def test_an_adapter_with_half_a_pair_is_an_error_that_names_it(lora_pool: RolloutPool) -> None:
    (bucket,) = pack([("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", torch.ones(6, 256))])
    with pytest.raises(RolloutError, match=r"worker 0 .*alone: .*q_proj\.lora_A"):
        lora_pool.update_weights(WeightUpdate(9, (ray.put(bucket),), LORA))


def test_a_full_update_without_one_of_the_weights_is_refused(policy: nn.Module, tiny_model: Path) -> None:
    weights = dict(policy.named_parameters())
    check_complete(list(pack(weights.items())), tiny_model)
    del weights["model.layers.2.mlp.up_proj.weight"]
    with pytest.raises(ValueError, match=r"layers\.2\.mlp\.up_proj"):
        check_complete(list(pack(weights.items())), tiny_model)


def test_kernels_for_one_adapter_equal_those_of_vllm() -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(5, 12, generator=generator)
    a, b = (torch.randn(2, 1, *shape, generator=generator) for shape in ((8, 12), (10, 8)))
    metadata = (torch.tensor([0, 2]), torch.tensor([2, 3]), torch.tensor([1, 1]), 2, 3, 5)
    for ours, theirs, weights, given, width, extra in (
        (vllm_extension._shrink, torch_ops.sgmv_shrink, a, x, 8, (0.25,)),
        (vllm_extension._expand, torch_ops.sgmv_expand, b, x[:, :8], 12, (True,)),
        (vllm_extension._expand_slice, torch_ops.sgmv_expand_slice, b, x[:, :8], 14, (2, 10, True)),
    ):
        mine, reference = torch.ones(5, width), torch.ones(5, width)
        ours(given, weights, mine, *metadata, *extra)
        theirs(given, weights, reference, *metadata, *extra)
        torch.testing.assert_close(mine, reference)


def test_kernels_refuse_a_batch_that_mixes_adapters_or_has_requests_without_one() -> None:
    x, a, out = torch.ones(2, 4), torch.ones(2, 1, 3, 4), torch.zeros(2, 3)
    for slots in ([0, 1], [0, -1], [-1, -1]):
        metadata = (torch.tensor([0, 1]), torch.tensor([1, 1]), torch.tensor(slots), 2, 1, 2)
        with pytest.raises(RuntimeError, match="exactly one LoRA adapter"):
            vllm_extension._shrink(x, a, out, *metadata, 1.0)
