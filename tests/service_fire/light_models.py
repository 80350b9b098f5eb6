"""Models without weights for tests of the service's own behaviour: what they say is a digest of what they are asked.

A score depends on the version, so that one said by the wrong version would be seen. The folder's name is the version
and how long a batch takes: `a-0.02` is version a-0.02, 20 ms a batch.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path

from dialogue.tactics import TACTICS, Tactic
from reward_servers.protocol import EmpathyScore, ScoreRequest


def fractions(count: int, *parts: str) -> tuple[float, ...]:
    """`count` numbers in [0, 1) that depend on all of `parts`."""
    digest = hashlib.sha256("\x00".join(parts).encode()).digest()
    return tuple(byte / 256 for byte in digest[:count])


class LightTagger:
    version = "light-tagger"

    @classmethod
    def load(cls, folder: Path | None = None) -> LightTagger:
        return cls()

    def tag(self, replies: Sequence[Sequence[str]]) -> list[list[tuple[float, ...]]]:
        return [[fractions(len(TACTICS), self.version, sentence) for sentence in reply] for reply in replies]

    def decide(self, probabilities: Sequence[Sequence[float]]) -> tuple[tuple[Tactic, ...], ...]:
        return tuple(tuple(t for t, p in zip(TACTICS, row, strict=True) if p > 0.5) for row in probabilities)


class LightScorer:
    def __init__(self, folder: Path | None) -> None:
        self.version = folder.name if folder else "light-0"
        self._pause_s = float(self.version.rpartition("-")[2])

    @classmethod
    def load(cls, folder: Path | None = None) -> LightScorer:
        return cls(folder)

    def score(self, requests: Sequence[ScoreRequest]) -> list[EmpathyScore]:
        time.sleep(self._pause_s)
        return [empathy_of(self.version, request) for request in requests]


def empathy_of(version: str, request: ScoreRequest) -> EmpathyScore:
    """What a scorer of this version says of a request."""
    said = [message["content"] for message in request.history]
    return EmpathyScore(tuple(1 + 4 * x for x in fractions(6, version, *said, request.response)))
