"""Any engine at any number of ranks: the same loss, the same weights after a step, and checkpoints that continue.

The ranks are real: one in this process, two as Ray actors that are set up again for every engine, since importing
takes much longer than these models do.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
import torch.distributed as dist
from learner_cases import load_plain, made_up_groups, plain_logprobs

from cluster.session import ray_session
from rl.config import Dtype, EngineName, LearnerConfig, LoraConfig, LossConfig, ModelConfig, RunConfig
from rl.engines.base import learning_rate
from rl.engines.place import Place
from rl.engines.worker import RankWorker
from rl.learner import LearnerError, LearnerGroup
from rl.types import TrainGroup
from rl.weight_sync import unpack

TEMPERATURE = 0.8
GROUPS = made_up_groups(5, seed=11)
LORA = LoraConfig(rank=4, alpha=8)
FAST = [(EngineName.fsdp2, 2), (EngineName.zero2, 2)]
SLOW = [
    pytest.param(engine, ranks, marks=pytest.mark.slow)
    for engine in (EngineName.fsdp2, EngineName.zero1, EngineName.zero2, EngineName.zero3)
    for ranks in (1, 2)
    if (engine, ranks) not in FAST
]


def config_of(engine: EngineName, ranks: int, *, lora: bool = False, **learner: Any) -> RunConfig:
    settings: dict[str, Any] = {
        "engine": engine,
        "ranks": ranks,
        "lr": 1e-3 if lora else 1e-4,
        "micro_batch_tokens": 150,
        "warmup_steps": 2,
        "timeout_s": 240.0,
        "loss": LossConfig(kl_coef=0.01),
    }
    model = ModelConfig(dtype=Dtype.float32, lora=LORA if lora else LoraConfig())
    return RunConfig(model=model, learner=LearnerConfig(**settings | learner))


class Ranks:
    """One rank here or two actors, behind one set of methods."""

    def __init__(self, config: RunConfig, model: Path, actors: LearnerGroup | None) -> None:
        self.actors = actors
        if actors is None:
            self.worker = RankWorker(config, model, Place(0, 1, "127.0.0.1", free_port(), neighbours=1))
        else:
            actors.config, actors.model_path = config, model
            actors.set_up()

    def train(self, groups: Sequence[TrainGroup] = GROUPS) -> dict[str, float]:
        return (self.actors or self.worker).train(groups, TEMPERATURE)

    def weights(self) -> dict[str, torch.Tensor]:
        if self.actors is None:
            return dict(self.worker.weights())
        buckets = [ray.get(ref, timeout=60) for ref in self.actors.weights()]
        return {name: tensor.clone() for bucket in buckets for name, tensor in unpack(bucket)}

    def save(self, folder: Path) -> None:
        (self.actors or self.worker).save(folder)

    def load(self, folder: Path) -> None:
        (self.actors or self.worker).load(folder)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def two_actors(tiny_model: Path) -> Iterator[LearnerGroup]:
    with ray_session(parallel_actors=8):
        group = LearnerGroup(config_of(EngineName.fsdp2, 2), tiny_model)
        group.start()
        yield group
        group.close()


@pytest.fixture(scope="module", autouse=True)
def leave_no_process_group() -> Iterator[None]:
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


@pytest.fixture(scope="module", params=[False, True], ids=["full", "lora"])
def lora(request: pytest.FixtureRequest) -> bool:
    return request.param


@pytest.fixture(scope="module")
def expected(lora: bool, tiny_model: Path) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
    """Metrics of two steps, and the weights after them, of FSDP2 on one rank."""
    ranks = Ranks(config_of(EngineName.fsdp2, 1, lora=lora), tiny_model, None)
    return [ranks.train(), ranks.train()], ranks.weights()


@pytest.mark.parametrize(("engine", "count"), [*FAST, *SLOW])
def test_engines_agree_and_continue_from_checkpoints(
    engine: EngineName,
    count: int,
    lora: bool,
    expected: tuple[list[dict[str, float]], dict[str, torch.Tensor]],
    tiny_model: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    actors = request.getfixturevalue("two_actors") if count == 2 else None
    ranks = Ranks(config_of(engine, count, lora=lora), tiny_model, actors)
    first = ranks.train()
    ranks.save(tmp_path / "checkpoint")
    second = ranks.train()
    for ours, theirs in zip((first, second), expected[0], strict=True):
        for name in ("loss", "pg_loss", "kl", "entropy", "is_weight_mean", "logprob_diff_max"):
            assert ours[name] == pytest.approx(theirs[name], abs=1e-5), name
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-3)
        assert ours["lr"] == theirs["lr"]
        assert ours["tokens"] == sum(len(reply) for group in GROUPS for reply in group.response_ids)
    weights = ranks.weights()
    assert set(weights) == set(expected[1])
    for name, tensor in expected[1].items():
        # two steps move a weight by up to 1.5 learning rates, 1.5e-4, so this asks for equal directions too
        torch.testing.assert_close(weights[name], tensor, atol=1e-5, rtol=0, msg=name)

    ranks = Ranks(config_of(engine, count, lora=lora), tiny_model, actors)  # as after a restart
    ranks.load(tmp_path / "checkpoint")
    again = ranks.train()
    assert {name: again[name] for name in again if name != "seconds"} == {
        name: second[name] for name in second if name != "seconds"
    }


def test_fsdp2_resumes_at_another_number_of_ranks(two_actors: LearnerGroup, tiny_model: Path, tmp_path: Path) -> None:
    pair = Ranks(config_of(EngineName.fsdp2, 2), tiny_model, two_actors)
    pair.train()
    pair.save(tmp_path / "two")
    single = Ranks(config_of(EngineName.fsdp2, 1), tiny_model, None)
    single.load(tmp_path / "two")
    assert single.train()["loss"] == pytest.approx(pair.train()["loss"], abs=1e-5)


def test_a_rank_without_any_reply_changes_nothing(two_actors: LearnerGroup, tiny_model: Path) -> None:
    alone = GROUPS[:1]
    whole: dict[str, Any] = {"micro_batch_tokens": 1000}  # one row, so the second rank has none
    pair = Ranks(config_of(EngineName.fsdp2, 2, **whole), tiny_model, two_actors)
    single = Ranks(config_of(EngineName.fsdp2, 1, **whole), tiny_model, None)
    ours, theirs = pair.train(alone), single.train(alone)
    assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-6)
    assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-4)


def test_logprobs_come_back_in_order_and_are_those_of_transformers(two_actors: LearnerGroup, tiny_model: Path) -> None:
    Ranks(config_of(EngineName.fsdp2, 2), tiny_model, two_actors)
    plain = load_plain(tiny_model)
    for group, replies in zip(GROUPS, two_actors.logprobs(GROUPS, TEMPERATURE), strict=True):
        for ours, theirs in zip(replies, plain_logprobs(plain, group, TEMPERATURE), strict=True):
            torch.testing.assert_close(torch.tensor(ours), theirs.detach(), atol=1e-5, rtol=0)


def test_an_export_is_the_trained_model(lora: bool, tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, GenerationConfig

    worker = RankWorker(
        config_of(EngineName.fsdp2, 1, lora=lora, lr=1e-2), tiny_model, Place(0, 1, "127.0.0.1", free_port(), 1)
    )
    before = worker.logprobs(GROUPS, 1.0)
    worker.train(GROUPS, 1.0)
    after = worker.logprobs(GROUPS, 1.0)
    assert max(abs(a - b) for key in after for a, b in zip(after[key], before[key], strict=True)) > 1e-3
    for _ in range(2):  # the second replaces the first
        worker.export(tmp_path / "model")
    plain = load_plain(tmp_path / "model")
    for key, values in after.items():
        theirs = plain_logprobs(plain, GROUPS[key.group])[key.reply]
        torch.testing.assert_close(torch.tensor(values), theirs.detach(), atol=2e-5, rtol=0)
    assert AutoTokenizer.from_pretrained(tmp_path / "model").chat_template
    assert GenerationConfig.from_pretrained(tmp_path / "model").eos_token_id is not None
    assert (tmp_path / "model" / "adapter" / "adapter_model.safetensors").is_file() == lora
    assert [path.name for path in tmp_path.iterdir()] == ["model"], "nothing temporary is left"


def test_several_updates_per_step_use_the_log_probs_from_before(tiny_model: Path) -> None:
    """By the second pass over a minibatch the policy has moved: its KL to the old one is no longer 0."""
    one = Ranks(config_of(EngineName.fsdp2, 1), tiny_model, None).train()
    assert one["approx_kl"] == 0.0 and one["clip_fraction"] == 0.0
    several = config_of(EngineName.fsdp2, 1, minibatches=2, epochs_per_step=2, lr=1e-2, warmup_steps=0)
    metrics = Ranks(several, tiny_model, None).train()
    assert metrics["approx_kl"] != 0.0 and metrics["clip_fraction"] > 0.0


def test_warm_up_is_linear_then_constant() -> None:
    config = LearnerConfig(lr=4.0, warmup_steps=4)
    assert [learning_rate(updates, config) for updates in range(6)] == [1.0, 2.0, 3.0, 4.0, 4.0, 4.0]
    assert learning_rate(0, replace(config, warmup_steps=0)) == 4.0


def test_an_error_names_rank_phase_and_cause_and_breaks_the_group(
    two_actors: LearnerGroup, tiny_model: Path, tmp_path: Path
) -> None:
    broken = LearnerGroup(two_actors.config, tiny_model)
    broken._ranks, broken._nodes, broken._places = two_actors._ranks, two_actors._nodes, two_actors._places
    with pytest.raises(
        LearnerError, match=r"learner rank 0 on node \S+ failed during load: FileNotFoundError.*nothing"
    ):
        broken.load(tmp_path / "nothing")
    with pytest.raises(LearnerError, match="during load"):
        broken.train(GROUPS, 1.0)


def test_a_killed_rank_is_the_one_that_is_named(two_actors: LearnerGroup) -> None:
    """Last: it ends the two actors."""
    victim = two_actors._ranks[1]
    ray.kill(victim)
    with pytest.raises(LearnerError, match=r"learner rank 1 .* during train: its process died") as caught:
        two_actors.train(GROUPS, 1.0)
    assert caught.value.rank == 1
