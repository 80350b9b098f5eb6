"""The trained scorer: (history, reply) -> six Lend-an-Ear dimensions.

Every request goes through the network alone, unpadded and on one thread, so its score is bitwise the same whatever else
was asked in the same call: an exact resume of a training run depends on that.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from reward_servers.empathy.features import plain_text, surface_features
from reward_servers.empathy.network import WORST, EmpathyNetwork, NetworkConfig, encode
from reward_servers.encoder import encoder_folder
from reward_servers.protocol import EmpathyScore, ScoreRequest

WEIGHTS = Path(__file__).resolve().parent / "weights"
_TENSORS = "scorer.safetensors"
_CONFIG = "config.json"


class ScorerWeightsError(ValueError):
    """The weights folder is incomplete or does not fit this code. The message names the file."""


class EmpathyScorer:
    """Predicts what the judge would say. Not safe for concurrent calls from several threads of one process."""

    def __init__(self, network: EmpathyNetwork, tokenizer: Any, version: str) -> None:
        self._network = network.eval()
        self._tokenizer = tokenizer
        self.version = version

    @classmethod
    def load(cls, folder: Path | None = None) -> EmpathyScorer:
        """The scorer of `folder`, by default the shipped one.

        Raises:
            ScorerWeightsError: files missing, or tensors that do not fit.
            EncoderNotFoundError: the MiniLM encoder is not installed.
        """
        folder = folder or WEIGHTS
        for name in (_TENSORS, _CONFIG):
            if not (folder / name).is_file():
                raise ScorerWeightsError(f"{folder} has no {name}; train one with `rapport scorer train --out {folder}`")
        try:
            config = NetworkConfig(**json.loads((folder / _CONFIG).read_text(encoding="utf-8")))
        except (TypeError, json.JSONDecodeError) as error:
            raise ScorerWeightsError(f"{folder / _CONFIG} is not a scorer's configuration: {error}") from error
        network, tokenizer = new_network(config)
        _fill(network, folder / _TENSORS)
        network.merge()
        return cls(network, tokenizer, weights_version(folder))

    def score(self, requests: Sequence[ScoreRequest]) -> list[EmpathyScore]:
        """One score per request, in order. Any text is scored; one with nothing to read gets the worst score."""
        with _one_thread(), torch.inference_mode():
            return [self._score(request) for request in requests]

    def _score(self, request: ScoreRequest) -> EmpathyScore:
        if not any(c.isalnum() for c in plain_text(request.response)):
            return EmpathyScore(WORST)
        encoded = encode(self._tokenizer, request, self._network.config)
        ids, segments = torch.tensor([encoded.ids]), torch.tensor([encoded.segments])
        mask = torch.ones(ids.shape)
        states = self._network.lower_states(ids, segments, mask)
        features = torch.tensor([surface_features(request)])
        dimensions, _ = self._network(states, segments, mask, features)
        return EmpathyScore(tuple(dimensions[0].tolist()))


def new_network(config: NetworkConfig, seed: int = 0) -> tuple[EmpathyNetwork, Any]:
    """An untrained network on the installed encoder, and the encoder's tokenizer."""
    from transformers import AutoModel, AutoTokenizer

    folder = encoder_folder()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder = AutoModel.from_pretrained(folder, dtype=torch.float32)
        network = EmpathyNetwork(encoder, config)
    return network, AutoTokenizer.from_pretrained(folder)


def save_scorer(network: EmpathyNetwork, folder: Path) -> None:
    """Write adapters and head in half precision, and the configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.to(torch.float16).contiguous() for name, tensor in network.trained().items()}
    save_file(tensors, folder / _TENSORS)
    (folder / _CONFIG).write_text(json.dumps(asdict(network.config), indent=2) + "\n", encoding="utf-8")


def weights_version(folder: Path) -> str:
    """Hash of the files that decide a score: 12 hexadecimal digits."""
    digest = hashlib.sha256()
    for name in (_CONFIG, _TENSORS):
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()[:12]


def _fill(network: EmpathyNetwork, path: Path) -> None:
    wanted = network.trained()
    found = load_file(path)
    if set(wanted) != set(found):
        differing = sorted(set(wanted) ^ set(found))
        raise ScorerWeightsError(f"{path} does not fit the network: {len(differing)} names differ, e.g. {differing[0]}")
    for name, tensor in wanted.items():
        if tensor.shape != found[name].shape:
            raise ScorerWeightsError(
                f"{path}: {name} has shape {tuple(found[name].shape)}, wanted {tuple(tensor.shape)}"
            )
        tensor.copy_(found[name])


@contextmanager
def _one_thread() -> Iterator[None]:
    """How a product is split over threads can change its last bit; one thread is always the same."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
