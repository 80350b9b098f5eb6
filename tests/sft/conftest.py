"""One thread, the tokenizer of the tiny model, and a small run on it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sft.emotions import EMOTIONS
from sft.model import SftModel, build_model
from sft.preparing import Prepared, prepare
from sft.strategies import STRATEGIES

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer(tiny_model: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 short conversations; every one feeds all losses, and a third of them touches a safety topic."""
    file = tmp_path_factory.mktemp("own") / "labelled.jsonl"
    lines = []
    for number in range(20):
        said = "I want to die." if number % 3 == 0 else f"My day {number} was long."
        seeker = {"role": "seeker", "text": said, "emotions": [EMOTIONS[number % 27]]}
        reply = {"role": "supporter", "text": f"I hear you, {number}.", "strategy": STRATEGIES[number % 8]}
        lines.append(json.dumps({"id": f"c{number}", "turns": [seeker, reply]}))
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


@pytest.fixture
def run_of(tiny_model: Path, labelled: Path, tmp_path: Path) -> Callable[..., Prepared]:
    """Prepare a run of the tiny model on `labelled`, with overrides."""
    from sft.config_loading import load_config

    def make(*overrides: str) -> Prepared:
        small = [
            f"model.path={tiny_model}",
            f"data.own={labelled}",
            f"output_dir={tmp_path}",
            "name=run",
            "steps=4",
            "save_every=2",
            "tensorboard=false",
            "optimizer.batch=2",
            "optimizer.accumulation=2",
            "data.length_window=2",
            "dev.every=0",
            "dev.patience=0",
            "safety.scope=sensitive",
        ]
        return prepare(load_config("quickstart", [*small, *overrides]))

    return make


@pytest.fixture
def model_of() -> Callable[..., SftModel]:
    """A new model for a run. A new adapter changes nothing: with `stirred` it has weights that do."""

    def make(prepared: Prepared, stirred: bool = False) -> SftModel:
        model = build_model(prepared.config, prepared.base, torch.device("cpu"))
        with torch.no_grad():
            for name, value in model.trained().items():
                if stirred and "lora_B" in name:
                    value.normal_(0, 0.1, generator=torch.Generator().manual_seed(1))
        return model

    return make
