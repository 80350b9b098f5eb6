"""What every test shares: an environment that never reaches a hub, a tiny real model, the real data where it is.

`make test` runs the suite in two processes (pytest-xdist). Tests that start vLLM or the reward servers are one unit of
work, so no two of them ever share the machine; every other folder or file is a unit of its own, run beside them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["VLLM_NO_USAGE_STATS"] = "1"
os.environ["VLLM_DO_NOT_TRACK"] = "1"
# One thread each: threads that spin at a barrier take the core from the tests of the other process.
for _variable in ("OMP_NUM_THREADS", "RAPPORT_THREADS"):
    os.environ.setdefault(_variable, "1")

ROOT = Path(__file__).resolve().parent.parent

# The same examples every time: a change is judged by what it does. HYPOTHESIS_PROFILE=explore looks for new ones.
settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

LEARNER_TESTS = "tests/learner/"  # over a minute in all, so they come early
ENGINE_TESTS = (
    "tests/lora_tagger/",
    "tests/rl/test_rl_end_to_end.py",
    "tests/rollout/",
    "tests/service/",
    "tests/service_fire/",
    "tests/service_http2/test_running_service.py",
)


class EnginesApart(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """All engine tests in one process, in their order; the rest goes to whichever process is free."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::", 1)[0]
        if file.startswith(ENGINE_TESTS):
            return "engines"
        return LEARNER_TESTS if file.startswith(LEARNER_TESTS) else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> EnginesApart:
    config.option.loadscopereorder = False  # else the file with the most tests comes first, not the longest
    return EnginesApart(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: (not item.nodeid.startswith(ENGINE_TESTS), not item.nodeid.startswith(LEARNER_TESTS)))


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
