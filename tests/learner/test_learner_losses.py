"""verl's losses by name: hand-computed numbers, and the same loss and gradient however a batch is split."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from learner_cases import made_up_groups

from rl.batching import MicroBatch, ReplyKey, collate, plan
from rl.config import ConfigError, CorrectionConfig, KlEstimator, LossConfig
from rl.losses import POLICY_LOSSES, BatchCounts, GrpoLoss, LossInputs, Sharding, Tally, validate_loss
from rl.types import TrainGroup

USABLE = [name for name, fact in POLICY_LOSSES.items() if fact.sharding is not Sharding.REFUSED]
OFF = CorrectionConfig(rollout_is="none")


def config_for(name: str, **other: object) -> LossConfig:
    mode = POLICY_LOSSES[name].only_agg_mode or "token-mean"
    return LossConfig(policy_loss=name, **({"loss_agg_mode": mode} | other))  # type: ignore[arg-type]


# One group: prompt of 2, replies of 2 tokens (advantage 1) and 1 token (advantage -2), ratios new/old below.
TWO = TrainGroup((5, 6), ((7, 8), (9,)), ((-1.0, -2.0), (-3.0,)), ((1.0, 1.0), (-2.0,)))
RATIOS = torch.tensor([[1.5, 0.9], [1.1, 1.0]])


def by_hand(config: LossConfig, reference: torch.Tensor | None = None) -> tuple[float, Tally]:
    batch = collate(plan([TWO], 1, 100)[0][0])
    new = torch.tensor([[-1.0, -2.0], [-3.0, 0.0]])
    inputs = LossInputs(new, torch.full((2, 2), 0.5), new - RATIOS.log(), reference)
    loss, tally = GrpoLoss(config, BatchCounts.of([TWO], horizon=10))(batch, inputs)
    return loss.item(), tally


MEAN_RATIO = math.sqrt(1.5 * 0.9)  # of the first reply, as a sequence
HAND_COMPUTED = {
    # min(r A, clip(r, 0.8, 1.2) A): 1.2, 0.9, -2.2; mean over 3 tokens
    "vanilla": -(1.2 + 0.9 - 2.2) / 3,
    # the sequence ratio 1.1619 is inside the clip range, and so is 1.1
    "gspo": -(2 * MEAN_RATIO - 2 * 1.1) / 3,
    # sg(clip(r)) A log p: 1.2 * -1, 0.9 * -2, 1.1 * -2 * -3
    "cispo": -(-1.2 - 1.8 + 6.6) / 3,
    # A log p
    "gpg": -(-1.0 - 2.0 + 6.0) / 3,
    # replies' geometric means of ratios clipped one-sidedly in log space to [-0.2, 0.2], mean over 2 replies
    "geo_mean": -(math.exp((0.2 + math.log(0.9)) / 2) - 2 * 1.1) / 2,
}


@pytest.mark.parametrize(("name", "expected"), HAND_COMPUTED.items())
def test_losses_by_hand(name: str, expected: float) -> None:
    assert by_hand(config_for(name, kl_coef=0.0, correction=OFF))[0] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("token-mean", -(1.2 + 0.9 - 2.2) / 3),
        ("token-sum", -(1.2 + 0.9 - 2.2)),
        ("seq-mean-token-sum", -((1.2 + 0.9) - 2.2) / 2),
        ("seq-mean-token-mean", -((1.2 + 0.9) / 2 - 2.2) / 2),
        ("seq-mean-token-sum-norm", -((1.2 + 0.9) - 2.2) / 2 / 10),
    ],
)
def test_aggregation_by_hand(mode: str, expected: float) -> None:
    config = config_for("vanilla", loss_agg_mode=mode, kl_coef=0.0, correction=OFF)
    assert by_hand(config)[0] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("estimator", "per_token"),
    [
        (KlEstimator.k1, lambda d: d),
        (KlEstimator.k2, lambda d: d * d / 2),
        (KlEstimator.low_var_kl, lambda d: math.exp(-d) + d - 1),
    ],
)
def test_kl_term_by_hand(estimator: KlEstimator, per_token: Callable[[float], float]) -> None:
    config = config_for("gpg", kl_coef=0.1, kl_estimator=estimator, correction=OFF)
    reference = torch.tensor([[-1.5, -2.2], [-2.6, 0.0]])  # new - reference: 0.5, 0.2, -0.4
    kl = sum(map(per_token, (0.5, 0.2, -0.4))) / 3
    loss, tally = by_hand(config, reference)
    assert loss == pytest.approx(HAND_COMPUTED["gpg"] + 0.1 * kl, abs=1e-6)
    assert tally.sums["kl"] == pytest.approx(kl, abs=1e-6)


def test_entropy_term_and_metrics_by_hand() -> None:
    loss, tally = by_hand(config_for("vanilla", kl_coef=0.0, entropy_coef=0.1, correction=OFF))
    assert loss == pytest.approx(HAND_COMPUTED["vanilla"] - 0.1 * 0.5, abs=1e-6)
    assert tally.sums["entropy"] == pytest.approx(0.5)
    assert tally.sums["clip_fraction"] == pytest.approx(1 / 3)  # only 1.5 > 1.2 with a positive advantage
    assert tally.sums["approx_kl"] == pytest.approx(-sum(map(math.log, (1.5, 0.9, 1.1))) / 3)


@pytest.mark.parametrize(
    ("level", "weights"),
    [("token", (1 / 1.5, 1 / 0.9, 1 / 1.1)), ("sequence", (1 / 1.35, 1 / 1.35, 1 / 1.1))],
)
def test_importance_weights_by_hand(level: str, weights: tuple[float, float, float]) -> None:
    """The learner's old policy over the sampling policy; here the sampler's log-probs are the new ones."""
    correction = CorrectionConfig(rollout_is=level, rollout_is_threshold=1.05)
    loss, tally = by_hand(config_for("vanilla", kl_coef=0.0, correction=correction))
    a, b, c = (min(weight, 1.05) for weight in weights)
    assert loss == pytest.approx(-(1.2 * a + 0.9 * b - 2.2 * c) / 3, abs=1e-6)
    assert tally.maxima["is_weight_max"] == pytest.approx(max(a, b, c))
    assert tally.maxima["logprob_diff_max"] == pytest.approx(math.log(1.5))


class Scored:
    """Fixed log-probs per reply, so that splits of a batch can be compared without a model."""

    def __init__(self, groups: list[TrainGroup]) -> None:
        generator = torch.Generator().manual_seed(0)
        self.keys = [ReplyKey(g, r) for g, group in enumerate(groups) for r in range(len(group.response_ids))]
        longest = max(len(reply) for group in groups for reply in group.response_ids)
        shape = (len(self.keys), longest)
        self.new = (-8 + 0.3 * torch.randn(shape, generator=generator)).requires_grad_()
        self.entropies = torch.rand(shape, generator=generator).requires_grad_()
        self.old = (self.new + 0.3 * torch.randn(shape, generator=generator)).detach()
        self.reference = (self.new + 0.3 * torch.randn(shape, generator=generator)).detach()

    def inputs(self, batch: MicroBatch) -> LossInputs:
        at, width = [self.keys.index(key) for key in batch.keys], batch.response_ids.shape[1]
        pick = [matrix[at, :width] for matrix in (self.new, self.entropies, self.old, self.reference)]
        return LossInputs(*pick)


SPLIT_CASES = [
    (name, mode)
    for name in USABLE
    for mode in ("token-mean", "seq-mean-token-mean", "seq-mean-token-sum-norm")
    if POLICY_LOSSES[name].only_agg_mode in ("", mode)
]


@pytest.mark.parametrize(("name", "mode"), SPLIT_CASES)
def test_any_split_gives_the_loss_and_gradient_of_the_whole(name: str, mode: str) -> None:
    groups = made_up_groups(5, seed=3)
    config = config_for(name, loss_agg_mode=mode, entropy_coef=0.01)
    scored = Scored(groups)
    results = []
    for ranks, limit in [(1, 10_000), (1, 60), (2, 100), (3, 40), (8, 10_000)]:
        loss_of, tally = GrpoLoss(config, BatchCounts.of(groups, horizon=20)), Tally()
        scored.new.grad = scored.entropies.grad = None
        for rows in [batch for share in plan(groups, ranks, limit) for batch in share]:
            batch = collate(rows)
            if batch.is_empty:
                continue
            loss, part = loss_of(batch, scored.inputs(batch))
            loss.backward()
            tally.add(part)
        results.append((tally, scored.new.grad, scored.entropies.grad))
    whole, *splits = results
    for tally, gradient, entropy_gradient in splits:
        for metric, value in whole[0].sums.items():
            assert tally.sums[metric] == pytest.approx(value, abs=1e-5), metric
        assert tally.maxima == pytest.approx(whole[0].maxima)
        torch.testing.assert_close(gradient, whole[1], atol=1e-7, rtol=1e-5)
        torch.testing.assert_close(entropy_gradient, whole[2], atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("name", USABLE)
def test_the_whole_batch_is_what_verl_computes_without_our_counts(name: str) -> None:
    from verl.trainer.ppo.core_algos import get_policy_loss_fn
    from verl.workers.config import ActorConfig

    groups = made_up_groups(3, seed=5)
    scored = Scored(groups)
    batch = collate(plan(groups, 1, 10_000)[0][0])
    inputs = scored.inputs(batch)
    config = config_for(name, kl_coef=0.0, correction=OFF)
    loss, _ = GrpoLoss(config, BatchCounts.of(groups, 20))(batch, replace(inputs, reference=None))
    expected, _ = get_policy_loss_fn(name)(
        inputs.old,
        inputs.logprobs,
        batch.advantages,
        batch.response_mask,
        config.loss_agg_mode,
        ActorConfig(strategy="fsdp2", rollout_n=4, use_dynamic_bsz=True, clip_ratio_c=3.0),
    )
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_every_loss_of_verl_is_accounted_for() -> None:
    from verl.trainer.ppo.core_algos import POLICY_LOSS_REGISTRY

    assert set(POLICY_LOSS_REGISTRY) == set(POLICY_LOSSES)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (LossConfig(policy_loss="ppo"), "policy_loss='ppo' is not registered.*vanilla"),
        (LossConfig(policy_loss="clip_cov"), "clip_cov.*micro-batches"),
        (LossConfig(policy_loss="dro"), "dro_beta"),
        (LossConfig(loss_agg_mode="mean"), "loss_agg_mode='mean' is none of token-mean"),
        (LossConfig(policy_loss="sapo"), "would be ignored by 'sapo'"),
        (LossConfig(correction=CorrectionConfig(rollout_is="geometric")), "rollout_is='geometric'"),
        (LossConfig(correction=CorrectionConfig(rollout_is_threshold=0)), "must be positive"),
        (LossConfig(clip_ratio_c=1.0), "clip_ratio_c=1.0"),
    ],
)
def test_what_cannot_be_computed_is_refused_by_name(config: LossConfig, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        validate_loss(config)
