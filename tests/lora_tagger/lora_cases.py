"""A reply with known tactics, annotations of it, and random adapters: made for these tests."""

from __future__ import annotations

from pathlib import Path

import torch

from dialogue.tactics import TACTICS

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


def random_adapters(base: Path, folder: Path) -> None:
    """Ten adapters made by peft, in the released layout, each of which changes the answers a lot."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    torch.manual_seed(5)  # peft draws one of the two matrices
    settings = LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj", "o_proj", "down_proj"])
    model = get_peft_model(model, settings, adapter_name=TACTICS[0].value)
    for tactic in TACTICS[1:]:
        model.add_adapter(tactic.value, settings)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.2)
    model.save_pretrained(folder)
