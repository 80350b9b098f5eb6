"""Sixteen labelled conversations, and a small ablation on the tiny model."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from sft.config import SftConfig
from sft.config_loading import load_config

torch.set_num_threads(1)

FEELINGS = ("sadness", "sadness", "joy", "fear")
STRATEGIES = ("Question", "Question", "Self-disclosure", "Information")


@pytest.fixture(scope="session")
def talks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("talks") / "talks.jsonl"
    lines = []
    for number in range(20):
        seeker = {"role": "seeker", "text": f"My day {number} was long.", "emotions": [FEELINGS[number % 4]]}
        reply = {"role": "supporter", "text": f"I hear you, {number}.", "strategy": STRATEGIES[number % 4]}
        lines.append(json.dumps({"id": f"t{number}", "turns": [seeker, reply]}))
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


@pytest.fixture(scope="session")
def config_in(tiny_model: Path, talks: Path) -> Callable[..., SftConfig]:
    """A small run of the tiny model below a folder."""

    def make(folder: Path, *overrides: str) -> SftConfig:
        small = [f"model.path={tiny_model}", f"data.own={talks}", f"output_dir={folder}", "name=small", "steps=2"]
        rest = ["save_every=1", "tensorboard=false", "optimizer.batch=2", "optimizer.accumulation=1", "dev.every=0"]
        return load_config("quickstart", [*small, *rest, "dev.patience=0", "data.length_window=2", *overrides])

    return make


@pytest.fixture
def ablation_config(config_in: Callable[..., SftConfig], tmp_path: Path) -> Callable[..., SftConfig]:
    return partial(config_in, tmp_path)
