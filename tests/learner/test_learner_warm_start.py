"""Warm start: it learns the marked tokens, only those, the same way every time, and leaves a loadable folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from learner_cases import load_plain

from cluster.session import ray_session
from rl.config import Dtype, LoraConfig, ModelConfig, RunConfig, WarmStartConfig
from rl.learner import LearnerError
from rl.warm_start import Example, check_examples, fine_tune, warm_start

CONFIG = RunConfig(
    model=ModelConfig(dtype=Dtype.float32), warm_start=WarmStartConfig(epochs=4, lr=1e-3, batch_conversations=4)
)


def conversations() -> list[Example]:
    """Prompts that differ, always answered by 7 8 9; the tokens before the answer are not to be learnt."""
    return [([20 + n, 30 + n, 40, 7, 8, 9], [0, 0, 0, 1, 1, 1]) for n in range(8)]


def mean_logprob(folder: Path, ids: list[int], positions: slice) -> float:
    with torch.no_grad():
        logprobs = load_plain(folder)(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    return float(logprobs[:-1].gather(1, torch.tensor(ids[1:])[:, None])[positions].mean())


def fine_tuned(config: RunConfig, base: Path, folder: Path) -> Path:
    losses = [loss for loss, _ in fine_tune(config, base, conversations(), folder)]
    assert losses[-1] < losses[0] - 2
    return folder


def test_marked_tokens_are_learnt_and_the_result_is_reproducible(tiny_model: Path, tmp_path: Path) -> None:
    first, second = (fine_tuned(CONFIG, tiny_model, tmp_path / name) for name in ("a", "b"))
    unseen = [20, 35, 40, 7, 8, 9]
    assert mean_logprob(first, unseen, slice(2, None)) > mean_logprob(tiny_model, unseen, slice(2, None)) + 2
    assert mean_logprob(first, unseen, slice(0, 2)) < -4, "the seeker's tokens are no target"
    weights = [load_plain(folder).state_dict() for folder in (first, second)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert (first / "tokenizer_config.json").is_file() and (first / "generation_config.json").is_file()


def test_an_adapter_is_trained_and_merged_where_the_run_uses_one(tiny_model: Path, tmp_path: Path) -> None:
    lora = replace(CONFIG.model, lora=LoraConfig(rank=8, alpha=64))
    config = replace(CONFIG, model=lora, warm_start=replace(CONFIG.warm_start, lr=1e-2))
    merged = load_plain(fine_tuned(config, tiny_model, tmp_path / "a")).state_dict()
    base = load_plain(tiny_model).state_dict()
    changed = {name for name in base if not torch.equal(base[name], merged[name])}
    assert changed and all(name.split(".")[-2] in lora.lora.target_modules for name in changed)
    assert merged.keys() == base.keys()


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with ray_session(parallel_actors=1):
        yield


@pytest.mark.usefixtures("cluster")
def test_progress_comes_update_by_update(tiny_model: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    losses = warm_start(
        CONFIG, tiny_model, conversations(), tmp_path / "warm", lambda done, count: seen.append((done, count))
    )
    assert seen == [(n, 8) for n in range(1, 9)] and len(losses) == 8
    assert (tmp_path / "warm" / "model.safetensors").is_file()


def test_updates_stop_at_their_limit(tiny_model: Path, tmp_path: Path) -> None:
    short = replace(CONFIG, warm_start=replace(CONFIG.warm_start, max_updates=3))
    steps = list(fine_tune(short, tiny_model, conversations(), tmp_path / "warm"))
    assert [count for _, count in steps] == [3, 3, 3]


@pytest.mark.usefixtures("cluster")
def test_a_failure_says_what_failed(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(LearnerError, match=r"during warm start: .*no-such-model"):
        warm_start(CONFIG, tmp_path / "no-such-model", conversations(), tmp_path / "warm")
    assert not (tmp_path / "warm").exists()


@pytest.mark.parametrize(
    ("examples", "said"),
    [([([1, 2], [0])], "example 0: 2 tokens but 1 mask"), ([([1, 2], [1, 0])], "no example has a supporter token")],
)
def test_examples_that_teach_nothing_are_refused(examples: list[Example], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_examples(examples)
