"""The loss of a pair by hand, against a binary cross-entropy, and its log-probabilities against plain logits."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from sft.batching import collate
from sft.dpo.config import PreferenceConfig
from sft.dpo.losses import PairLogprobs, PairScores, pair_logprobs, preference_scores
from sft.dpo.preparing import PreparedDpo
from sft.dpo.start import Policy

DpoOf = Callable[..., PreparedDpo]


def scores(config: PreferenceConfig, violation: bool = False) -> PairScores:
    """Log-ratios of +2 for the chosen and -1 for the rejected reply: the margin is 3 beta."""
    policy = PairLogprobs(torch.tensor([-10.0]), torch.tensor([-11.0]))
    reference = PairLogprobs(torch.tensor([-12.0]), torch.tensor([-10.0]))
    return preference_scores(policy, reference, torch.tensor([violation]), config)


@pytest.mark.parametrize(
    ("config", "violation", "expected"),
    [
        (PreferenceConfig(beta=0.1), False, 0.554355),  # log(1 + exp(-0.3))
        (PreferenceConfig(beta=1.0), False, 0.048587),  # log(1 + exp(-3))
        (PreferenceConfig(beta=0.1, label_smoothing=0.1), False, 0.584355),  # 0.9 * 0.554355 + 0.1 * 0.854355
        (PreferenceConfig(beta=0.1, safety_margin=0.5), True, 0.798139),  # log(1 + exp(0.2))
        (PreferenceConfig(beta=0.1, safety_margin=0.5), False, 0.554355),
        (
            PreferenceConfig(beta=0.1, label_smoothing=0.1, safety_margin=0.5),
            True,
            0.778139,
        ),  # 0.9 * .798139 + .0598139
    ],
)
def test_the_loss_by_hand(config: PreferenceConfig, violation: bool, expected: float) -> None:
    found = scores(config, violation)
    assert found.loss.item() == pytest.approx(expected, abs=1e-6)
    assert found.margin.item() == pytest.approx(3 * config.beta)
    assert (found.chosen.item(), found.rejected.item()) == pytest.approx((2 * config.beta, -config.beta))


def test_the_loss_is_the_binary_cross_entropy_of_the_margin() -> None:
    """Which is another way to say that the chosen reply wins with probability 1 - eps (Bradley-Terry)."""
    drawn = torch.randn(4, 32, generator=torch.Generator().manual_seed(0)) * 20
    config = PreferenceConfig(beta=0.3, label_smoothing=0.2, safety_margin=0.7)
    unsafe = torch.arange(32) % 3 == 0
    policy, reference = PairLogprobs(drawn[0], drawn[1]), PairLogprobs(drawn[2], drawn[3])
    found = preference_scores(policy, reference, unsafe, config)
    z = 0.3 * ((drawn[0] - drawn[1]) - (drawn[2] - drawn[3])) - 0.7 * unsafe
    expected = functional.binary_cross_entropy_with_logits(z, torch.full_like(z, 0.8), reduction="none")
    torch.testing.assert_close(found.loss, expected)


def test_the_gradient_is_that_of_the_paper() -> None:
    """dL / d log pi(c) = - beta sigmoid(-z), and the opposite for r (eq. 7 of the paper, differentiated)."""
    chosen, rejected = torch.tensor([-10.0], requires_grad=True), torch.tensor([-11.0], requires_grad=True)
    reference = PairLogprobs(torch.tensor([-12.0]), torch.tensor([-10.0]))
    config = PreferenceConfig(beta=0.1, safety_margin=0.5)
    preference_scores(PairLogprobs(chosen, rejected), reference, torch.tensor([True]), config).loss.sum().backward()
    expected = 0.1 / (1 + math.exp(-0.2))
    assert chosen.grad is not None and rejected.grad is not None
    assert (chosen.grad.item(), rejected.grad.item()) == pytest.approx((-expected, expected))


def test_log_probabilities_are_those_of_the_logits(dpo_of: DpoOf, tiny_model: Path) -> None:
    prepared = dpo_of()
    model = Policy(prepared.start, prepared.description, torch.device("cpu")).model.eval()
    pairs = prepared.train.pairs[:3]
    rows = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
    batch = collate(rows, prepared.pad_id)
    with torch.no_grad():
        found = torch.cat(pair_logprobs(model, batch, chunk=1000))
        for row, value in zip(rows, found, strict=True):
            logits = model.lm(input_ids=torch.tensor([row.ids])).logits[0].log_softmax(-1)
            span = row.replies[0]
            expected = sum(float(logits[place - 1, row.ids[place]]) for place in range(span.start, span.stop))
            assert float(value) == pytest.approx(expected, rel=1e-4)
