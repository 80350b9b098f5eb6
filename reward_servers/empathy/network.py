"""The scorer's network: frozen MiniLM states and a few counts in, six dimensions out.

    reply, seeker's latest turn, supporter's previous turn -> MiniLM, each alone (embedding.py) \
    reply, history -> surface counts (features.py), bigram fluency (fluency.py)                 -> x, D inputs
    x -> quality head -> six dimensions from 1 to 5      x -> genuineness head -> g in [0, 1]
    dimensions = g * quality + (1 - g) * WORST

Quality is learnt from the judge, who only rated fluent replies; genuineness from honest replies against probes. An
honest reply keeps its quality; a cheating one falls to the worst score whatever its quality looks like. Several heads
from different seeds are averaged. Only heads and the bigram table are stored; the encoder is the installed one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reward_servers.empathy.embedding import HIDDEN, MEANING, REPLY_PARTS, TextEmbedder
from reward_servers.empathy.features import FEATURE_NAMES, latest_reply, latest_seeker, plain_text, surface_features
from reward_servers.empathy.fluency import FLUENCY_NAMES, fluency_features
from reward_servers.protocol import Dimension, ScoreRequest

WORST = tuple(5.0 if dimension.lower_is_better else 1.0 for dimension in Dimension)
COUNTS = len(FEATURE_NAMES) + len(FLUENCY_NAMES) + 2
INPUTS = (REPLY_PARTS + 3) * HIDDEN + COUNTS

# Chosen by cross-validation over the training conversations: the judge's fine grades overfit, cheats do not.
_QUALITY_DROPOUT = 0.6
_GENUINE_DROPOUT = 0.3


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """Shapes, stored beside the weights.

    Attributes:
        heads: how many independently trained heads are averaged.
        quality_width: hidden size of the quality part of a head.
        genuine_width: hidden size of its genuineness part.
    """

    heads: int = 3
    quality_width: int = 96
    genuine_width: int = 64


def request_inputs(embedder: TextEmbedder, table: Sequence[int], request: ScoreRequest) -> Tensor:
    """(D,) inputs of one request, float32; a pure function of history and response."""
    text = plain_text(request.response)
    reply = embedder.embed(text)
    seeker = embedder.embed(latest_seeker(request.history))[MEANING]
    previous = embedder.embed(latest_reply(request.history))[MEANING]
    meaning = reply[MEANING]
    likeness = [_cosine(meaning, seeker), _cosine(meaning, previous)]
    counts = [*surface_features(request), *fluency_features(table, text), *likeness]
    return torch.cat([reply, seeker, meaning * seeker, meaning * previous, torch.tensor(counts)])


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(nn.functional.cosine_similarity(a, b, dim=0))


class Head(nn.Module):
    """One head on standardised inputs. B requests, D inputs."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.quality = _perceptron(config.quality_width, len(Dimension), _QUALITY_DROPOUT)
        self.genuine = _perceptron(config.genuine_width, 1, _GENUINE_DROPOUT)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 6) quality from 1 to 5, before genuineness, and (B,) logits of genuineness."""
        return 1 + 4 * torch.sigmoid(self.quality(x)), self.genuine(x).squeeze(-1)


def _perceptron(width: int, outputs: int, dropout: float) -> nn.Sequential:
    layers = (nn.Dropout(dropout), nn.Linear(INPUTS, width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, outputs))
    return nn.Sequential(*layers)


class EmpathyNetwork(nn.Module):
    """The averaged heads with the standardisation of their inputs."""

    mean: Tensor
    scale: Tensor

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.heads = nn.ModuleList(Head(config) for _ in range(config.heads))
        self.register_buffer("mean", torch.zeros(INPUTS))
        self.register_buffer("scale", torch.ones(INPUTS))

    def standardise(self, x: Tensor) -> Tensor:
        """(B, D) inputs to mean 0 and spread 1 over the training texts, cut at 4 so that no input can run away."""
        return ((x - self.mean) * self.scale).clamp(-4, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, D) raw inputs -> (B, 6) final dimensions and (B,) genuineness."""
        x = self.standardise(x)
        answers = [head(x) for head in self.heads]
        quality = torch.stack([quality for quality, _ in answers]).mean(0)
        g = genuineness(torch.stack([logit for _, logit in answers]).mean(0))
        return compose(quality, g), g


def compose(quality: Tensor, g: Tensor) -> Tensor:
    """(B, 6) quality and (B,) genuineness to the final dimensions."""
    g = g.unsqueeze(-1)
    return g * quality + (1 - g) * quality.new_tensor(WORST)


def genuineness(logit: Tensor) -> Tensor:
    """A probability above 0.6 counts as 1: doubt about an honest reply costs it nothing, sure cheats stay in order."""
    return (torch.sigmoid(logit) / 0.6).clamp(max=1)
