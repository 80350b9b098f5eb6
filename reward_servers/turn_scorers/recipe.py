"""The three published recipes (Yun 2025), and where an encoder comes from."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from dialogue.library_noise import quiet_transformers
from reward_servers.encoder import encoder_folder

SHIPPED = "minilm"


class RecipeError(ValueError):
    """A training that cannot be done as asked. The message names the option, its value and what would be right."""


def _require(holds: bool, name: str, value: object, wanted: str) -> None:
    if not holds:
        raise RecipeError(f"{name} is {value!r}, but must be {wanted}")


class Variant(StrEnum):
    """The architectures. All see context and reply together; MVC sees the context alone as well."""

    BASELINE = "baseline"
    STM = "stm"
    MVC = "mvc"


class Pooling(StrEnum):
    """How states become one vector: that of the first token, as published, or the mean, as MiniLM was trained."""

    FIRST = "first"
    MEAN = "mean"


@dataclass(frozen=True, slots=True)
class Recipe:
    """One training.

    Attributes:
        encoder: `minilm` (comes with Rapport), a folder, or a name on the Hugging Face hub such as `roberta-base`.
        batch, rate, epochs: of the training on empathy and emotion together.
        emotion_epochs, emotion_rate: STM's first stage, on emotion alone; 0 epochs for the others.
        emotion_weight: lambda of L = SmoothL1 + lambda CE.
        tuned_layers: only the encoder's upper so many layers learn; None for all, embeddings too; 0 for heads alone.
        head_rate: of the two heads, which begin at random; None for `rate`, as published.
    """

    variant: Variant
    batch: int
    rate: float
    epochs: int
    emotion_epochs: int = 0
    emotion_rate: float = 5e-6
    encoder: str = SHIPPED
    emotion_weight: float = 0.1
    max_length: int = 256
    dropout: float = 0.1
    weight_decay: float = 0.01
    pooling: Pooling = Pooling.FIRST
    tuned_layers: int | None = None
    head_rate: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("batch", "epochs"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        _require(self.emotion_epochs >= 0, "emotion_epochs", self.emotion_epochs, "0 or more")
        if self.variant is not Variant.STM:
            wanted = f"0: a first stage on emotion alone is STM's, not that of {self.variant}"
            _require(not self.emotion_epochs, "emotion_epochs", self.emotion_epochs, wanted)
        for name in ("rate", "emotion_rate"):
            _require(0 < getattr(self, name) < 1, name, getattr(self, name), "between 0 and 1")
        _require(self.head_rate is None or 0 < self.head_rate < 1, "head_rate", self.head_rate, "between 0 and 1")
        _require(self.emotion_weight >= 0, "emotion_weight", self.emotion_weight, "0 or more")
        _require(self.max_length >= 16, "max_length", self.max_length, "at least 16 tokens")
        _require(0 <= self.dropout < 1, "dropout", self.dropout, "from 0 to below 1")
        _require(self.tuned_layers is None or self.tuned_layers >= 0, "tuned_layers", self.tuned_layers, "0 or more")


PUBLISHED = {
    Variant.BASELINE: Recipe(Variant.BASELINE, batch=16, rate=3e-5, epochs=5),
    Variant.STM: Recipe(Variant.STM, batch=16, rate=2e-5, epochs=10, emotion_epochs=15, emotion_rate=5e-6),
    Variant.MVC: Recipe(Variant.MVC, batch=8, rate=2e-5, epochs=4),
}

# Reported with RoBERTa-base, means of three seeds: what `rapport scorer eval` holds its own figures against.
REPORTED = {
    Variant.BASELINE: {"mae": 0.398, "spearman": 0.740, "emotion_accuracy": 0.415},
    Variant.STM: {"mae": 0.495, "spearman": 0.708, "emotion_accuracy": 0.395},
    Variant.MVC: {"mae": 0.334, "spearman": 0.757, "emotion_accuracy": 0.415},
}


def load_encoder(name: str) -> tuple[Any, Any]:
    """Tokenizer and encoder of a recipe, in float32.

    Raises:
        EncoderNotFoundError: MiniLM is not installed.
        RecipeError: there is no such encoder here or on the hub.
    """
    from transformers import AutoModel, AutoTokenizer

    source = str(encoder_folder()) if name == SHIPPED else str(Path(name).expanduser()) if Path(name).exists() else name
    try:
        with quiet_transformers():
            return AutoTokenizer.from_pretrained(source), AutoModel.from_pretrained(source, dtype="float32")
    except (OSError, ValueError) as error:
        raise RecipeError(
            f"encoder {name!r} cannot be loaded: {str(error).splitlines()[0]}. Give {SHIPPED}, the folder of a Hugging "
            "Face encoder, or a hub id where the hub can be reached"
        ) from error
