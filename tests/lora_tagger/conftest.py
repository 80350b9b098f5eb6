"""Annotations in words of our own, ten random adapters on the tiny model, and the tagger that vLLM makes of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from dialogue.tactics import TACTICS
from reward_servers.lora_tagger.folder import EngineSettings, LoraTaggerConfig, save_config
from reward_servers.lora_tagger.prompts import load_tactic_annotations
from reward_servers.lora_tagger.tagger import LoraTagger

REPLY = "Losing your flat so suddenly sounds awful. Have you a place for tonight? I once slept in my car for a week."
SENTENCES = (
    ("Losing your flat so suddenly sounds awful.", "validation"),
    ("Have you a place for tonight?", "questioning"),
    ("I once slept in my car for a week.", "self_disclosure"),
)


def chat(tactic: str, context: str, sentence: str, holds: bool) -> dict:
    """One annotation: the layout of the paper's files, in words of our own."""
    question = (
        f"### Instruction:\n\nSay 1 if the sentence shows {tactic}, else 0, as <score>[]</score>\n\n### Input:\n"
        f"- Context (Full Empathic Response):\n{context}\n\n- Sentence to Evaluate:\n{sentence}\n\n### Response:"
    )
    return {
        "messages": [
            {"role": "system", "content": f"You look for {tactic} and for nothing else."},
            {"role": "user", "content": question},
            {"role": "assistant", "content": f"<score>{int(holds)}</score>"},
        ]
    }


@pytest.fixture(scope="session")
def annotations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of `<tactic>.jsonl`, three sentences each."""
    folder = tmp_path_factory.mktemp("annotations")
    for tactic in TACTICS:
        lines = [chat(tactic, REPLY, sentence, tactic == label) for sentence, label in SENTENCES]
        (folder / f"{tactic}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return folder


def random_adapters(base: Path, folder: Path) -> None:
    """Ten adapters made by peft, in the released layout, each of which changes the answers a lot."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    settings = LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj", "o_proj", "down_proj"])
    model = get_peft_model(model, settings, adapter_name=TACTICS[0].value)
    for tactic in TACTICS[1:]:
        model.add_adapter(tactic.value, settings)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.1)
    model.save_pretrained(folder)


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
