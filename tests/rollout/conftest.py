"""Rollout workers on the tiny model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rollout_agreement import CONFIG, LORA, make_prompt
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from cluster.session import ray_session
from rl.config import AdapterUse
from rl.rollout import RolloutPool
from rl.types import Prompt


@pytest.fixture(scope="package")
def ray_cluster() -> Iterator[None]:
    with ray_session(parallel_actors=8):
        yield


@pytest.fixture(scope="module")
def pool(ray_cluster: None, tiny_model: Path) -> Iterator[RolloutPool]:
    """Two workers, full fine-tuning, float32."""
    pool = RolloutPool(CONFIG, tiny_model)
    try:
        pool.start()
        yield pool
    finally:
        pool.close()


@pytest.fixture(scope="module", params=["merged", pytest.param("separate", marks=pytest.mark.slow)])
def lora_pool(request: pytest.FixtureRequest, ray_cluster: None, tiny_model: Path) -> Iterator[RolloutPool]:
    """One worker that takes adapters, and folds them into its weights or keeps them apart."""
    rollout = replace(CONFIG.rollout, workers=1, adapter=AdapterUse(request.param))
    config = replace(CONFIG, model=replace(CONFIG.model, lora=LORA), rollout=rollout)
    pool = RolloutPool(config, tiny_model)
    try:
        pool.start()
        yield pool
    finally:
        pool.close()


@pytest.fixture
def policy(tiny_model: Path) -> nn.Module:
    """The model of the workers, in transformers: what a learner would hold."""
    return AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)


@pytest.fixture(scope="package")
def prompts(tiny_model: Path) -> tuple[Prompt, ...]:
    """Eight prompts of different lengths."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    texts = [f"Day {day}: " + "my brother has not called and I miss him. " * (1 + day % 4) for day in range(8)]
    return tuple(make_prompt(f"talk-{i}/1", tokenizer.encode(text)) for i, text in enumerate(texts))
