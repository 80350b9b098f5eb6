"""The tagger's network: MiniLM with low-rank adapters on every linear layer, sentence pooling and a linear head."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from dialogue.library_noise import quiet_transformers
from dialogue.tactics import TACTICS
from reward_servers.tactics.windows import Window


class LowRankLinear(nn.Module):
    """A frozen linear layer plus a trained update of rank r: y = W x + b + (scale / r) B A x (arXiv 2106.09685)."""

    def __init__(self, base: nn.Linear, rank: int, scale: float) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.factor = scale / rank
        self.lora_a = nn.Parameter(torch.randn(rank, base.in_features) / base.in_features**0.5)
        self.lora_b = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + (x @ self.lora_a.T) @ self.lora_b.T * self.factor

    def merged(self) -> nn.Linear:
        """The same map as one plain linear layer; the base layer is changed in place and returned."""
        with torch.no_grad():
            self.base.weight += self.factor * self.lora_b @ self.lora_a
        return self.base


class TacticNetwork(nn.Module):
    """Windows of a reply in, one logit per sentence and tactic out.

    The lower layers are those of MiniLM as published; only the upper `adapted_layers` have adapters. Training can
    therefore read the lower layers' output from memory (`lower`) and pay for the upper ones alone (`upper`).
    """

    def __init__(self, encoder_folder: Path, rank: int, scale: float, adapted_layers: int = 3) -> None:
        super().__init__()
        encoder = _plain_encoder(encoder_folder).requires_grad_(False)
        hidden_size, layers = encoder.config.hidden_size, encoder.encoder.layer
        self.embeddings: nn.Module = encoder.embeddings
        self.lower_layers: nn.ModuleList = layers[: len(layers) - adapted_layers]
        self.upper_layers: nn.ModuleList = layers[len(layers) - adapted_layers :]
        _replace_layers(
            self.upper_layers, lambda m: LowRankLinear(m, rank, scale) if isinstance(m, nn.Linear) else None
        )
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(2 * hidden_size, len(TACTICS))

    def forward(self, token_ids: Tensor, mask: Tensor | None, pooling: Tensor) -> Tensor:
        """Logits (B, S, K) of every sentence, meaningless for absent ones.

        Args:
            token_ids: (B, T) ids, padded with anything.
            mask: (B, T) True at real tokens; None where no row is padded.
            pooling: (B, S, T), each row 1 / length on the sentence's tokens; zero rows for absent sentences.
        """
        return self.upper(self.lower(token_ids, mask), mask, pooling)

    def lower(self, token_ids: Tensor, mask: Tensor | None) -> Tensor:
        """(B, T, H) output of the layers that are never trained."""
        with torch.no_grad():
            return _through(self.lower_layers, self.embeddings(input_ids=token_ids), mask)

    def upper(self, hidden: Tensor, mask: Tensor | None, pooling: Tensor) -> Tensor:
        """(B, S, K) logits from the output of `lower`; the head reads both levels, averaged over each sentence."""
        top = _through(self.upper_layers, hidden, mask)
        sentences = torch.cat([pooling @ hidden, pooling @ top], dim=-1)  # (B, S, 2 H)
        return self.head(self.dropout(sentences))

    def trained_state(self) -> dict[str, Tensor]:
        """What training changes: adapters and head, by name."""
        return {name: p.detach() for name, p in self.named_parameters() if p.requires_grad}

    def load_trained_state(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `trained_state` gave.

        Raises:
            ValueError: names or shapes do not fit this network; the message lists the first of them.
        """
        own = self.trained_state()
        wrong = sorted(own.keys() ^ state.keys()) or [n for n, t in own.items() if t.shape != state[n].shape]
        if wrong:
            raise ValueError(f"tagger weights do not fit the network: {len(wrong)} tensors differ, first {wrong[0]}")
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name in state:
                    parameter.copy_(state[name])

    def merge_adapters(self) -> None:
        """Fold the adapters into the encoder: same outputs, less work per forward. Training is over after this."""
        _replace_layers(self.upper_layers, lambda layer: layer.merged() if isinstance(layer, LowRankLinear) else None)


def pooling_matrix(windows: Sequence[Window], tokens: int) -> Tensor:
    """(B, S, T) means over sentence spans, S the most sentences of any window."""
    pooling = torch.zeros(len(windows), max(len(w.spans) for w in windows), tokens)
    for row, window in enumerate(windows):
        for sentence, (start, end) in enumerate(window.spans):
            pooling[row, sentence, start:end] = 1.0 / (end - start)
    return pooling


def padded_batch(windows: Sequence[Window]) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids (B, T), mask (B, T) and pooling (B, S, T) of windows of different lengths."""
    tokens = max(len(w.token_ids) for w in windows)
    ids = torch.zeros(len(windows), tokens, dtype=torch.long)
    mask = torch.zeros(len(windows), tokens, dtype=torch.bool)
    for row, window in enumerate(windows):
        ids[row, : len(window.token_ids)] = torch.tensor(window.token_ids)
        mask[row, : len(window.token_ids)] = True
    return ids, mask, pooling_matrix(windows, tokens)


def padded_states(states: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Hidden states (B, T, H) in float32 and mask (B, T) of windows whose lower output, (T, H) each, is at hand."""
    hidden = nn.utils.rnn.pad_sequence(list(states), batch_first=True).float()
    lengths = torch.tensor([len(s) for s in states])
    return hidden, torch.arange(hidden.shape[1])[None, :] < lengths[:, None]


def encoder_digest(encoder_folder: Path) -> str:
    """SHA-256 of the encoder's weights: adapters made for other weights would give nonsense without an error."""
    digest = hashlib.sha256()
    for path in sorted(encoder_folder.glob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _plain_encoder(folder: Path) -> Any:
    """The encoder in float32, without its pooler (never used) and without dropout inside.

    Dropout on attention weights keeps torch from its fused kernel, several times faster on a CPU; the adapters are
    few enough that dropout before the head suffices.
    """
    config = AutoConfig.from_pretrained(folder, attention_probs_dropout_prob=0.0, hidden_dropout_prob=0.0)
    with quiet_transformers():
        return AutoModel.from_pretrained(folder, config=config, add_pooling_layer=False, dtype=torch.float32)


def _through(layers: nn.ModuleList, hidden: Tensor, mask: Tensor | None) -> Tensor:
    seen = None if mask is None else mask[:, None, None, :].expand(-1, 1, hidden.shape[1], -1)  # (B, 1, T, T)
    for layer in layers:
        hidden = layer(hidden, seen)
    return hidden


def _replace_layers(root: nn.Module, replacement_of: Callable[[nn.Module], nn.Module | None]) -> None:
    for name, child in root.named_children():
        replacement = replacement_of(child)
        if replacement is not None:
            setattr(root, name, replacement)
        elif not isinstance(child, LowRankLinear):
            _replace_layers(child, replacement_of)
