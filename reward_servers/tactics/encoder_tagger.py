"""The encoder tactic tagger: ten probabilities for every sentence of a reply, from one small encoder.

    tagger = EncoderTagger.load()
    probabilities = tagger.tag([["I'm so sorry to hear that.", "What happened then?"]])
    tagger.decide(probabilities[0])  # ((Tactic.EMOTIONAL_EXPRESSION,), (Tactic.QUESTIONING,))

Invariant: a reply's probabilities are bitwise the same whatever other replies it is tagged with. Each window of a
reply goes through the encoder alone and without padding, so its matrix products have the same shapes every time.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from dialogue.tactics import TACTICS, Tactic
from reward_servers.encoder import encoder_folder
from reward_servers.tactics.network import TacticNetwork, pooling_matrix
from reward_servers.tactics.shipping import SHIPPED_FOLDER, load_tagger
from reward_servers.tactics.windows import SentenceWindows, Window

Probabilities = NDArray[np.float32]


class EncoderTagger:
    """Tags the sentences of replies. Safe to call from several threads; holds about 90 MB."""

    def __init__(
        self, network: TacticNetwork, windows: SentenceWindows, thresholds: dict[Tactic, float], version: str
    ) -> None:
        self._network = network
        self._windows = windows
        self._thresholds = np.array([thresholds[tactic] for tactic in TACTICS], dtype=np.float32)
        self.version = version

    @classmethod
    def load(cls, folder: Path | None = None) -> EncoderTagger:
        """The tagger in `folder`, or the one shipped with Rapport.

        Raises:
            TaggerWeightsError: no usable weights there.
            EncoderNotFoundError: the MiniLM encoder is not on this machine.
        """
        network, config, version = load_tagger(folder or SHIPPED_FOLDER)
        thresholds = {Tactic(name): value for name, value in config.thresholds.items()}
        return cls(network, SentenceWindows(encoder_folder()), thresholds, version)

    @property
    def thresholds(self) -> dict[Tactic, float]:
        """From which probability on a tactic is said to hold."""
        return {tactic: float(x) for tactic, x in zip(TACTICS, self._thresholds, strict=True)}

    def tag(self, replies: Sequence[Sequence[str]], *, threads: int | None = None) -> list[Probabilities]:
        """Probabilities of the ten tactics for every sentence of every reply.

        Args:
            replies: each the list of its sentences in order; may be empty.
            threads: torch threads to use in this process from now on; None leaves them as they are.

        Returns:
            One (S, K) float32 array per reply, independent of the other replies; (0, K) for a reply of no sentences.
        """
        if threads is not None:
            torch.set_num_threads(threads)
        with torch.inference_mode():
            return [self._tag_reply(sentences) for sentences in replies]

    def decide(self, probabilities: Probabilities) -> tuple[tuple[Tactic, ...], ...]:
        """The tactics of each of S sentences: those whose probability reaches the tactic's own threshold."""
        return tuple(
            tuple(tactic for tactic, holds in zip(TACTICS, row, strict=True) if holds)
            for row in probabilities >= self._thresholds
        )

    def _tag_reply(self, sentences: Sequence[str]) -> Probabilities:
        parts = [self._tag_window(window) for window in self._windows.of_reply(sentences)]
        return np.concatenate(parts) if parts else np.zeros((0, len(TACTICS)), dtype=np.float32)

    def _tag_window(self, window: Window) -> Probabilities:
        ids = torch.tensor([window.token_ids])
        logits = self._network(ids, None, pooling_matrix([window], ids.shape[1]))[0]  # (S, K)
        return torch.sigmoid(logits).numpy()
