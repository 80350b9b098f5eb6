"""What every test shares: an environment that never reaches a hub, a tiny real model, the real data where it is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["VLLM_NO_USAGE_STATS"] = "1"
os.environ["VLLM_DO_NOT_TRACK"] = "1"

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a 4M-parameter Qwen3 with random weights and its own tokenizer. Read-only: copy it to change it."""
    from rl.models import build_tiny_qwen3

    folder = tmp_path_factory.mktemp("tiny-qwen3")
    build_tiny_qwen3(folder)
    return folder


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the research data (mint/, goemotions/, ...), which this repository does not hold."""
    folder = Path(os.environ.get("RAPPORT_DATA") or ROOT.parent / "shared" / "data").resolve()
    if not (folder / "mint").is_dir():
        pytest.skip(f"the research data is not at {folder}: set RAPPORT_DATA to its folder")
    return folder
