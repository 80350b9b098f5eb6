"""A trained Baseline, STM or MVC as a scorer: (history, reply) -> one number from 1 to 5.

    quality:                      # in the file that `rapport serve` reads
      folder: runs/scorers/mvc/seed-0

Every reply goes through the network alone, unpadded and on one thread, so its score is bitwise the same whatever else
was asked in the same call: an exact resume of a training run depends on that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from dialogue.emotions import Feeling
from reward_servers.protocol import ScoreRequest
from reward_servers.turn_scorers.labels import HIGHEST, LOWEST
from reward_servers.turn_scorers.network import TextViews, TurnNetwork
from reward_servers.turn_scorers.saved import Card, TurnScorerError, load_network, weights_version

_FEELINGS = list(Feeling)


@dataclass(frozen=True, slots=True)
class Reading:
    """What the network says of one reply: empathy from 1 to 5, and the speaker's feeling."""

    empathy: float
    feeling: Feeling


class TurnScorer:
    """Not safe for concurrent calls from several threads of one process."""

    def __init__(self, network: TurnNetwork, views: TextViews, card: Card, version: str) -> None:
        self._network = network.eval()
        self._views = views
        self.card = card
        self.version = version

    @classmethod
    def load(cls, folder: Path | None = None) -> TurnScorer:
        """The scorer of `folder`.

        Raises:
            TurnScorerError: no folder was given, or it holds no finished scorer.
        """
        if folder is None:
            raise TurnScorerError("a turn scorer needs `folder`, the one that `rapport scorer train` wrote; none ships")
        network, views, card = load_network(folder)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return cls(network.to(device), views, card, f"{card.recipe.variant}-{weights_version(folder)}")

    def quality(self, requests: Sequence[ScoreRequest]) -> list[float]:
        """One number per request, in order. A reply with nothing to read gets the lowest."""
        return [reading.empathy for reading in self.read(requests)]

    def read(self, requests: Sequence[ScoreRequest]) -> list[Reading]:
        """Empathy and feeling of each request, in order."""
        with _one_thread(), torch.inference_mode():
            return [self._read(request) for request in requests]

    def _read(self, request: ScoreRequest) -> Reading:
        empathy, emotions = self._network([self._views(request.history, request.response)])
        readable = any(c.isalnum() for c in request.response)
        value = min(max(float(empathy[0]), LOWEST), HIGHEST) if readable else LOWEST
        return Reading(value, _FEELINGS[int(emotions[0].argmax())])


@contextmanager
def _one_thread() -> Iterator[None]:
    """How a product is split over threads can change its last bit; one thread is always the same."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
