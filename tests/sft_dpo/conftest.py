"""A fine-tuned model on the tiny base, pairs that can be learnt, and a preference stage on both."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sft.config import SftConfig
from sft.config_loading import load_config
from sft.dpo.preparing import PreparedDpo, prepare_dpo
from sft.model import SftModel, build_model
from sft.saved import save_model

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer(tiny_model: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.fixture(scope="session")
def pairs_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 pairs of twelve conversations: warm replies are chosen, cold ones rejected, every fourth of these unsafe."""
    file = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    lines = []
    for number in range(24):
        said = [{"role": "user", "content": f"I lost my keys on day {number % 12}."}]
        if number >= 12:
            said += [{"role": "assistant", "content": "Oh no."}, {"role": "user", "content": "It made me late."}]
        cold = "Whatever. Deal with it." if number % 4 else "Go and break the door then."
        pair = {"history": said, "chosen": f"That sounds hard, number {number}.", "rejected": cold}
        lines.append(json.dumps(pair | {"safety_violation": number % 4 == 0}))
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


@pytest.fixture(scope="session")
def tuned(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of `rapport sft`, whose adapter and heads are random but not zero."""
    run = tmp_path_factory.mktemp("tuned")
    config: SftConfig = load_config("quickstart", [f"model.path={tiny_model}", "data.system=Be kind."])
    model: SftModel = build_model(config, tiny_model, torch.device("cpu"))
    with torch.no_grad():
        for name, value in model.trained().items():
            if "lora_B" in name:
                value.normal_(0, 0.1, generator=torch.Generator().manual_seed(1))
    (run / "best").mkdir()
    save_model(model, config, run / "best")
    return run


@pytest.fixture
def dpo_of(tuned: Path, pairs_file: Path, tmp_path: Path) -> Callable[..., PreparedDpo]:
    """Prepare a preference stage on `tuned`, or on `start`, with overrides."""

    def make(*overrides: str, start: Path | None = None, pairs: Path | None = None) -> PreparedDpo:
        small = [f"output_dir={tmp_path}", "name=run", "steps=4", "save_every=2", "tensorboard=false"]
        batches = ["optimizer.batch=2", "optimizer.accumulation=2", "optimizer.warmup=0", "pairs.length_window=2"]
        return prepare_dpo(str(start or tuned), str(pairs or pairs_file), [*small, *batches, *overrides])

    return make
