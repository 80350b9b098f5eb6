"""Small made-up dialogues, labels and an encoder for the tests of this folder. The texts are ours."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from dialogue.emotions import Feeling
from reward_servers.encoder import encoder_folder
from reward_servers.turn_scorers.augment import candidates
from reward_servers.turn_scorers.dialogues import read_listener_turns
from reward_servers.turn_scorers.labels import LabelledReply, labelled

THEMES = {
    Feeling.AFRAID: ("A dog chased me through the park.", "That sounds scary, did the dog bite you?"),
    Feeling.PROUD: ("My niece won the chess cup.", "Congratulations, chess takes patience."),
    Feeling.LONELY: ("Nobody rang on my birthday.", "I'm so sorry. Who do you usually celebrate a birthday with?"),
    Feeling.ANGRY: ("The neighbour cut my roses down.", "Roses take years to grow."),
}


def dialogue(number: int, feeling: Feeling, split: str) -> dict:
    said, answer = THEMES[feeling]
    texts = [f"{said} It was number {number}.", answer, "It stays on my mind.", f"I understand. Was it the {number}th?"]
    turns = [{"role": ("speaker", "listener")[i % 2], "text": text} for i, text in enumerate(texts)]
    return {"conv_id": f"c{number}", "emotion": feeling.value, "split": split, "turns": turns}


def write_dialogues(folder: Path, train: int = 8, others: int = 4) -> Path:
    """`conversations.jsonl` with so many dialogues of each split; two replies of the listener in each."""
    splits = ["train"] * train + ["valid"] * others + ["test"] * others
    feelings = list(THEMES)
    lines = [json.dumps(dialogue(n, feelings[n % len(feelings)], split)) for n, split in enumerate(splits)]
    (folder / "conversations.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def made_labels(folder: Path) -> list[LabelledReply]:
    """Labels of the formula for `write_dialogues`."""
    return [labelled(candidate, None) for candidate in candidates(read_listener_turns(write_dialogues(folder)), 0)]


def build_encoder(folder: Path) -> str:
    """A two-layer BERT with random weights and MiniLM's tokenizer: a real encoder that costs nothing."""
    from transformers import AutoTokenizer, BertConfig, BertModel

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(encoder_folder())
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
