"""How usual the neighbouring words of a text are: hashed bigram counts, which word salad cannot fake.

The table is made from the 322 MINT conversations, none of which is scored in training or test. It stores rounded log
counts by hash, no text.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from zlib import crc32

import torch
from torch import Tensor

SLOTS = 1 << 20
FLUENCY_NAMES = ("unseen_pairs", "mean_pair_count", "worst_stretch", "unseen_words", "usual_end", "unseen_end_pairs")
_TOKEN = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*|[.!?,;:]")
_STRETCH = 8


def build_table(texts: Iterable[str]) -> Tensor:
    """(SLOTS,) uint8: log2(1 + count) * 8 of each hashed word and pair of neighbouring words."""
    counts = [0] * SLOTS
    for text in texts:
        words = _tokens(text)
        for slot in [*map(_slot, words), *_pair_slots(words)]:
            counts[slot] += 1
    return (torch.log2(1 + torch.tensor(counts, dtype=torch.float32)) * 8).round().clamp(max=255).to(torch.uint8)


def mint_texts(mint: Path) -> list[str]:
    """Every turn of the 322 conversations below `mint`."""
    texts: list[str] = []

    def collect(node: object) -> None:
        if isinstance(node, dict):
            texts.extend(v for k, v in node.items() if k == "content" and isinstance(v, str))
            for value in node.values():
                collect(value)
        elif isinstance(node, list):
            for value in node:
                collect(value)

    collect(json.loads((mint / "conversations_322.json").read_text(encoding="utf-8")))
    return texts


def fluency_features(table: Sequence[int], text: str) -> list[float]:
    """One number of about 0 to 1 per name of `FLUENCY_NAMES`; `table` is `build_table`'s as a list or bytes."""
    words = _tokens(text)
    if not words:
        return [1.0, 0.0, 1.0, 1.0, 0.0, 1.0]
    pairs = [table[slot] / 8 for slot in _pair_slots(words)]
    unseen = [float(count == 0) for count in pairs]
    stretches = [unseen[i : i + _STRETCH] for i in range(max(1, len(unseen) - _STRETCH + 1))]
    return [
        sum(unseen) / len(unseen),
        sum(pairs) / len(pairs) / 8,
        max(sum(part) / len(part) for part in stretches),
        sum(table[_slot(word)] == 0 for word in words) / len(words),
        pairs[-1] / 8,
        sum(unseen[-4:]) / len(unseen[-4:]),
    ]


def _tokens(text: str) -> list[str]:
    return _TOKEN.findall(text.lower())


def _slot(word: str) -> int:
    return crc32(word.encode()) % SLOTS


def _pair_slots(words: Sequence[str]) -> list[int]:
    """Neighbours, the text's beginning and end counted as words."""
    padded = ["<start>", *words, "<end>"]
    return [crc32(f"{a} {b}".encode()) % SLOTS for a, b in itertools.pairwise(padded)]
