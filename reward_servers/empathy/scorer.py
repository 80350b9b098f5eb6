"""The trained scorer: (history, reply) -> six Lend-an-Ear dimensions.

Every text goes through the encoder alone, unpadded and on one thread, so its score is bitwise the same whatever else
was asked in the same call: an exact resume of a training run depends on that.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from reward_servers.empathy.embedding import TextEmbedder
from reward_servers.empathy.features import plain_text
from reward_servers.empathy.network import WORST, EmpathyNetwork, NetworkConfig, request_inputs
from reward_servers.protocol import EmpathyScore, ScoreRequest

WEIGHTS = Path(__file__).resolve().parent / "weights"
_TABLE = "fluency_table"
_TENSORS = "scorer.safetensors"
_CONFIG = "config.json"


class ScorerWeightsError(ValueError):
    """The weights folder is incomplete or does not fit this code. The message names the file."""


class EmpathyScorer:
    """Predicts what the judge would say. Not safe for concurrent calls from several threads of one process."""

    def __init__(self, network: EmpathyNetwork, table: bytes, version: str) -> None:
        self._network = network.eval()
        self._table = table
        self._embedder = TextEmbedder()
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
                raise ScorerWeightsError(
                    f"{folder} has no {name}; train one with `rapport scorer distill --out {folder}`"
                )
        try:
            config = NetworkConfig(**json.loads((folder / _CONFIG).read_text(encoding="utf-8")))
        except (TypeError, json.JSONDecodeError) as error:
            raise ScorerWeightsError(f"{folder / _CONFIG} is not a scorer's configuration: {error}") from error
        network, table = _read(EmpathyNetwork(config), folder / _TENSORS)
        return cls(network, table, weights_version(folder))

    def score(self, requests: Sequence[ScoreRequest]) -> list[EmpathyScore]:
        """One score per request, in order. Any text is scored; one with nothing to read gets the worst score."""
        with _one_thread(), torch.inference_mode():
            return [self._score(request) for request in requests]

    def _score(self, request: ScoreRequest) -> EmpathyScore:
        if not any(c.isalnum() for c in plain_text(request.response)):
            return EmpathyScore(WORST)
        inputs = request_inputs(self._embedder, self._table, request)
        dimensions, _ = self._network(inputs.unsqueeze(0))
        return EmpathyScore(tuple(dimensions[0].tolist()))


def save_scorer(network: EmpathyNetwork, table: bytes, folder: Path) -> None:
    """Write the heads in half precision, the bigram table and the configuration, each file whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: _stored(name, tensor) for name, tensor in network.state_dict().items()}
    tensors[_TABLE] = torch.frombuffer(bytearray(table), dtype=torch.uint8)
    weights, described = (folder / f".{name}.part" for name in (_TENSORS, _CONFIG))
    save_file(tensors, weights)
    described.write_text(json.dumps(asdict(network.config), indent=2) + "\n", encoding="utf-8")
    weights.replace(folder / _TENSORS)
    described.replace(folder / _CONFIG)


def _stored(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Matrices in half precision; the standardisation keeps its full range."""
    return tensor.to(torch.float16 if name.startswith("heads.") else torch.float32).contiguous()


def weights_version(folder: Path) -> str:
    """Hash of the files that decide a score: 12 hexadecimal digits."""
    digest = hashlib.sha256()
    for name in (_CONFIG, _TENSORS):
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()[:12]


def _read(network: EmpathyNetwork, path: Path) -> tuple[EmpathyNetwork, bytes]:
    found = load_file(path)
    if _TABLE not in found:
        raise ScorerWeightsError(f"{path} lacks the tensor {_TABLE}; train the scorer again")
    table = bytes(found.pop(_TABLE).tolist())
    try:
        network.load_state_dict(found)
    except RuntimeError as error:
        raise ScorerWeightsError(f"{path} does not fit its {_CONFIG}: {error}") from error
    return network, table


@contextmanager
def _one_thread() -> Iterator[None]:
    """How a product is split over threads can change its last bit; one thread is always the same."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
