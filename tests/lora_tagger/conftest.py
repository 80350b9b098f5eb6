"""Annotations in words of our own, ten random adapters on the tiny model, and the tagger that vLLM makes of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from lora_cases import REPLY, SENTENCES, chat, random_adapters

from dialogue.tactics import TACTICS
from reward_servers.lora_tagger.folder import EngineSettings, LoraTaggerConfig, save_config
from reward_servers.lora_tagger.prompts import load_tactic_annotations
from reward_servers.lora_tagger.tagger import LoraTagger


@pytest.fixture(scope="session", name="annotations")
def annotation_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of `<tactic>.jsonl`, three sentences each."""
    folder = tmp_path_factory.mktemp("annotations")
    for tactic in TACTICS:
        lines = [chat(tactic, REPLY, sentence, tactic == label) for sentence, label in SENTENCES]
        (folder / f"{tactic}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def tagger_folder(tiny_model: Path, annotations: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete LoRA tagger of random adapters. Read-only: copy it to change it."""
    folder = tmp_path_factory.mktemp("lora-tagger")
    random_adapters(tiny_model, folder)
    prompts = {tactic: found.prompt for tactic, found in load_tactic_annotations(annotations).items()}
    engine = EngineSettings(max_tokens=1024, kv_cache_gib=0.1)
    save_config(folder, LoraTaggerConfig(str(tiny_model), prompts, engine=engine))
    return folder


@pytest.fixture(scope="session")
def tagger(tagger_folder: Path) -> LoraTagger:
    return LoraTagger.load(tagger_folder)
