"""The scorer's network: MiniLM with low-rank adapters in its upper layers, and one head.

    history tail, reply -> tokens -> layers 0-2 (frozen) -> layers 3-5 (frozen + adapters) -> pooled states
    pooled states, surface features -> quality (six dimensions) and genuineness g in [0, 1]
    dimensions = g * quality + (1 - g) * WORST

Quality is learnt from the judge, who only rated fluent replies; genuineness from honest replies against probes. An
honest reply keeps its quality; a cheating one falls to the worst score whatever its quality looks like.
Only adapters and head are stored; the encoder is the installed one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dialogue.conversation import Message
from reward_servers.empathy.features import FEATURE_NAMES, plain_text
from reward_servers.protocol import Dimension, ScoreRequest

WORST = tuple(5.0 if dimension.lower_is_better else 1.0 for dimension in Dimension)


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """Shapes of the network, stored beside the weights.

    Attributes:
        frozen_layers: encoder layers below the adapters; their output is computed once per text in training.
        rank: of the adapters on every linear map of the upper layers.
        scale: factor on the adapters' output.
        head_width: hidden size of the head.
        history_tokens: at most so many tokens of the history's tail.
        reply_tokens: at most so many tokens of the reply; of a longer one the beginning and the end are read.
    """

    frozen_layers: int = 3
    rank: int = 16
    scale: float = 2.0
    head_width: int = 128
    history_tokens: int = 64
    reply_tokens: int = 256


@dataclass(frozen=True, slots=True)
class Encoded:
    """Tokens of one request: ids and segment ids (0 history, 1 reply), T each."""

    ids: tuple[int, ...]
    segments: tuple[int, ...]


def encode(tokenizer: Any, request: ScoreRequest, config: NetworkConfig) -> Encoded:
    """[CLS] history tail [SEP] reply [SEP]. The history keeps its end: the seeker's latest turn matters most."""
    history = _ids(tokenizer, _history_text(request.history))[-config.history_tokens :]
    reply = _ids(tokenizer, plain_text(request.response).replace("\n", " | "))
    if len(reply) > config.reply_tokens:
        half = config.reply_tokens // 2
        reply = reply[:half] + reply[-half:]
    ids = [tokenizer.cls_token_id, *history, tokenizer.sep_token_id, *reply, tokenizer.sep_token_id]
    segments = [0] * (len(history) + 2) + [1] * (len(reply) + 1)
    return Encoded(tuple(ids), tuple(segments))


def _history_text(history: Sequence[Message]) -> str:
    return " | ".join(plain_text(message["content"]) for message in history[-3:])


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"])


class LoraLinear(nn.Module):
    """A frozen linear map plus `scale` * B A x. B starts at zero, so the start is the frozen map."""

    def __init__(self, base: nn.Linear, rank: int, scale: float) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(rank, base.in_features) / base.in_features**0.5)
        self.up = nn.Parameter(torch.zeros(base.out_features, rank))
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.scale * ((x @ self.down.T) @ self.up.T)

    def merged(self) -> nn.Linear:
        """The same map as one linear layer."""
        self.base.weight.data += self.scale * (self.up.data @ self.down.data)
        return self.base


class EmpathyNetwork(nn.Module):
    """See the module's text. B requests, T tokens, H = 384, F surface features."""

    def __init__(self, encoder: Any, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        encoder.requires_grad_(False)
        self.embeddings = encoder.embeddings
        layers = list(encoder.encoder.layer)
        self.lower = nn.ModuleList(layers[: config.frozen_layers])
        self.upper = nn.ModuleList(layers[config.frozen_layers :])
        for layer in self.upper:
            _adapt(layer, config)
        width = 3 * encoder.config.hidden_size + len(FEATURE_NAMES)
        self.hidden = nn.Sequential(nn.Linear(width, config.head_width), nn.GELU(), nn.Dropout(0.1))
        self.quality = nn.Linear(config.head_width, len(Dimension))
        self.genuine = nn.Linear(config.head_width, 1)

    def lower_states(self, ids: Tensor, segments: Tensor, mask: Tensor) -> Tensor:
        """Output of the frozen layers, (B, T, H)."""
        states = self.embeddings(input_ids=ids, token_type_ids=segments)
        return _run(self.lower, states, mask)

    def forward(self, states: Tensor, segments: Tensor, mask: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 6) final dimensions from 1 to 5, and (B,) logits of genuineness."""
        states = _run(self.upper, states, mask)
        reply = (segments * mask).unsqueeze(-1).to(states.dtype)  # (B, T, 1)
        mean = (states * reply).sum(1) / reply.sum(1).clamp(min=1)
        highest = states.masked_fill(reply == 0, -1e4).amax(1).clamp(min=-10)
        hidden = self.hidden(torch.cat([states[:, 0], mean, highest, features], dim=-1))
        quality = 1 + 4 * torch.sigmoid(self.quality(hidden))
        logit = self.genuine(hidden).squeeze(-1)
        g = genuineness(logit).unsqueeze(-1)
        return g * quality + (1 - g) * quality.new_tensor(WORST), logit

    def trained(self) -> dict[str, Tensor]:
        """What was trained, by name: adapters and head."""
        return {name: p.detach() for name, p in self.named_parameters() if p.requires_grad}

    def merge(self) -> None:
        """Fold the adapters into the upper layers, for scoring. Not to be trained any more after that."""
        for layer in self.upper:
            for parent, name in _linears(layer):
                setattr(parent, name, getattr(parent, name).merged())


def genuineness(logit: Tensor) -> Tensor:
    """A sigmoid stretched by a tenth and cut, so that a sure honest reply keeps its whole quality."""
    return (1.1 * torch.sigmoid(logit) - 0.05).clamp(0, 1)


def _linears(layer: Any) -> list[tuple[Any, str]]:
    """Where the linear maps of one BERT layer hang."""
    attention = layer.attention.self
    return [
        (attention, "query"),
        (attention, "key"),
        (attention, "value"),
        (layer.attention.output, "dense"),
        (layer.intermediate, "dense"),
        (layer.output, "dense"),
    ]


def _adapt(layer: Any, config: NetworkConfig) -> None:
    for parent, name in _linears(layer):
        setattr(parent, name, LoraLinear(getattr(parent, name), config.rank, config.scale))


def _run(layers: nn.ModuleList, states: Tensor, mask: Tensor) -> Tensor:
    """`mask` is (B, T) with 1 at real tokens."""
    additive = (1.0 - mask.to(states.dtype))[:, None, None, :] * torch.finfo(states.dtype).min
    for layer in layers:
        out = layer(states, additive)
        states = out[0] if isinstance(out, tuple) else out
    return states
