"""Shared-prompt rows give the log-probs and gradients of transformers on each reply alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from learner_cases import load_plain, made_up_groups, plain_logprobs, relative_gradient_error

from rl.batching import collate, plan
from rl.config import Dtype, LoraConfig, ModelConfig
from rl.engines.head import ReplyHead, Scoring, reply_logprobs
from rl.engines.model import PolicyModel, load_policy
from rl.types import TrainGroup

TEMPERATURE = 0.7


def policy_of(folder: Path, **model: object) -> PolicyModel:
    config = ModelConfig(dtype=Dtype.float32, **model)  # type: ignore[arg-type]
    return load_policy(folder, config, store=torch.float32, compute=torch.float32).train()


def weighted_sum(logprobs: list[torch.Tensor], group: TrainGroup) -> torch.Tensor:
    return torch.stack([(lp * torch.tensor(a)).sum() for lp, a in zip(logprobs, group.advantages, strict=True)]).sum()


@pytest.mark.parametrize("limit", [1000, 60])  # all rows in one micro-batch; groups split over several
@pytest.mark.parametrize("checkpointing", [False, True])
def test_shared_rows_equal_replies_alone(tiny_model: Path, limit: int, checkpointing: bool) -> None:
    groups = made_up_groups(3, seed=1)
    plain, ours = load_plain(tiny_model), policy_of(tiny_model, gradient_checkpointing=checkpointing)
    expected = {
        (g, r): row for g, group in enumerate(groups) for r, row in enumerate(plain_logprobs(plain, group, TEMPERATURE))
    }
    total = [weighted_sum([expected[g, r] for r in range(4)], group) for g, group in enumerate(groups)]
    torch.stack(total).sum().backward()

    for rows in plan(groups, 1, limit)[0]:
        batch = collate(rows)
        logprobs, _ = ours(batch, Scoring(TEMPERATURE, chunk=7))
        for number, key in enumerate(batch.keys):
            length = int(batch.response_mask[number].sum())
            torch.testing.assert_close(logprobs[number, :length], expected[key.group, key.reply], atol=1e-5, rtol=0)
            assert torch.all(logprobs[number, length:] == 0)
        (logprobs * batch.advantages).sum().backward()
    assert relative_gradient_error(plain, ours.lm) < 3e-6


def test_an_empty_micro_batch_has_a_gradient_of_exactly_zero(tiny_model: Path) -> None:
    ours = policy_of(tiny_model)
    logprobs, entropies = ours(collate([]), Scoring())
    ((logprobs + entropies).sum() * 0.0).backward()
    assert all(p.grad is not None and torch.all(p.grad == 0) for p in ours.parameters())


def test_without_adapter_is_the_base_model(tiny_model: Path) -> None:
    ours = policy_of(tiny_model, lora=LoraConfig(rank=4))
    base = policy_of(tiny_model)
    torch.manual_seed(0)
    for name, parameter in ours.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    batch = collate(plan(made_up_groups(1), 1, 1000)[0][0])
    with torch.no_grad():
        expected, changed = base(batch, Scoring())[0], ours(batch, Scoring())[0]
        with ours.without_adapter():
            torch.testing.assert_close(ours(batch, Scoring())[0], expected)
        assert (changed - expected).abs().max() > 0.01
    trained = [name for name, parameter in ours.named_parameters() if parameter.requires_grad]
    assert trained and all("lora_" in name for name in trained)


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("entropy_gradient", [True, False])
def test_chunked_head_equals_log_softmax(frozen: bool, entropy_gradient: bool) -> None:
    torch.manual_seed(0)
    hidden = torch.randn(13, 8, dtype=torch.float32, requires_grad=True)
    weight = torch.randn(29, 8, requires_grad=not frozen)
    targets, upstream = torch.randint(29, (13,)), torch.randn(2, 13)

    def loss_of(logprobs: torch.Tensor, entropies: torch.Tensor) -> torch.Tensor:
        return (logprobs * upstream[0]).sum() + (entropies * upstream[1]).sum() * float(entropy_gradient)

    everything = (hidden @ weight.T / TEMPERATURE).log_softmax(-1)
    expected = everything.gather(1, targets[:, None])[:, 0], -(everything.exp() * everything).sum(-1)
    inputs = [hidden] if frozen else [hidden, weight]
    gradients = torch.autograd.grad(loss_of(*expected), inputs)

    scoring = Scoring(TEMPERATURE, chunk=5, entropy_gradient=entropy_gradient)
    actual = reply_logprobs(hidden, weight, targets, scoring)
    torch.testing.assert_close(actual, expected)
    for ours, reference in zip(torch.autograd.grad(loss_of(*actual), inputs), gradients, strict=True):
        torch.testing.assert_close(ours, reference, atol=5e-5, rtol=1e-4)  # float32 either way


def test_the_full_logits_never_exist(tiny_model: Path) -> None:
    """The largest tensor between forward and backward has `chunk` rows of the vocabulary, not one per token."""
    largest = 0

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor) and result.ndim == 2 and result.shape[-1] == 4000:
                largest = max(largest, result.shape[0])
            return result

    head = ReplyHead.adopt(torch.nn.Linear(8, 4000, bias=False))
    with Watch():
        hidden = torch.randn(64, 8, requires_grad=True)
        head(hidden, torch.randint(4000, (64,)), Scoring(chunk=16))[0].sum().backward()
    assert largest == 16


def test_an_odd_output_layer_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    import json
    import shutil

    from rl.engines.model import ModelUnsupportedError

    odd = tmp_path / "odd"
    shutil.copytree(tiny_model, odd)
    config = json.loads((odd / "config.json").read_text())
    (odd / "config.json").write_text(json.dumps(config | {"final_logit_softcapping": 30.0}))
    with pytest.raises(ModelUnsupportedError, match="final_logit_softcapping"):
        policy_of(odd)
