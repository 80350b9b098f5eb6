"""Small real models for the tests of the service: MiniLM with a seeded linear head, and triggers for trouble.

They have the interface of the real tagger and scorer. A reply containing one of the words below makes the scorer
misbehave on purpose; every other reply is honestly computed, one at a time, so that batching cannot matter.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from dialogue.tactics import TACTICS, Tactic
from reward_servers.encoder import encoder_folder
from reward_servers.protocol import EmpathyScore, ScoreRequest

POISON = "POISON"  # the scorer raises
NOT_A_NUMBER = "NOTANUMBER"  # the scorer answers NaN
GATE = "GATE"  # the scorer, if it has a folder, says there that it holds the reply and waits for a file `open`
LONGEST_GATE_S = 40.0


class SeededEncoder:
    """MiniLM sentence vectors (mean pooling) and one linear layer drawn from a seed."""

    def __init__(self, outputs: int, seed: int) -> None:
        from transformers import AutoModel, AutoTokenizer

        torch.set_num_threads(1)
        folder = encoder_folder()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.encoder = AutoModel.from_pretrained(folder).eval()
        generator = torch.Generator().manual_seed(seed)
        self.head = torch.randn(384, outputs, generator=generator)

    def __call__(self, text: str) -> np.ndarray:
        """(outputs,) in (0, 1)."""
        tokens = self.tokenizer(text, truncation=True, max_length=64, return_tensors="pt")
        with torch.inference_mode():
            states = self.encoder(**tokens).last_hidden_state
        return torch.sigmoid(states.mean(1) @ self.head)[0].numpy()


class SeededTagger:
    version = "seeded-tagger-1"

    def __init__(self) -> None:
        self.encoder = SeededEncoder(len(TACTICS), seed=1)

    @classmethod
    def load(cls, folder: Path | None = None) -> SeededTagger:
        return cls()

    def tag(self, replies: Sequence[Sequence[str]]) -> list[np.ndarray]:
        return [np.stack([self.encoder(sentence) for sentence in reply]) for reply in replies]

    def decide(self, probabilities: np.ndarray) -> tuple[tuple[Tactic, ...], ...]:
        return tuple(tuple(t for t, p in zip(TACTICS, row, strict=True) if p > 0.5) for row in probabilities)


class SeededScorer:
    version = "seeded-scorer-1"

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.encoder = SeededEncoder(6, seed=2)

    @classmethod
    def load(cls, folder: Path | None = None) -> SeededScorer:
        return cls(folder)

    def score(self, requests: Sequence[ScoreRequest]) -> list[EmpathyScore]:
        return [self._one(request) for request in requests]

    def _one(self, request: ScoreRequest) -> EmpathyScore:
        if POISON in request.response:
            raise ValueError("this reply cannot be read")
        if NOT_A_NUMBER in request.response:
            return EmpathyScore((float("nan"),) * 6)
        if GATE in request.response and self.folder is not None:
            self._wait_at_gate(self.folder)
        text = " ".join(message["content"] for message in request.history) + " [SEP] " + request.response
        return EmpathyScore(tuple(1 + 4 * float(x) for x in self.encoder(text)))

    def _wait_at_gate(self, folder: Path) -> None:
        (folder / f"held-{os.getpid()}").touch()
        deadline = time.monotonic() + LONGEST_GATE_S
        while not (folder / "open").exists() and time.monotonic() < deadline:
            time.sleep(0.02)


class WordCount:
    """A quality that everybody can check."""

    version = "word-count-1"

    @classmethod
    def load(cls, folder: Path | None = None) -> WordCount:
        return cls()

    def quality(self, requests: Sequence[ScoreRequest]) -> list[float]:
        if any(POISON in request.response for request in requests):
            raise ValueError("this reply has no quality")
        return [float(len(request.response.split())) for request in requests]
