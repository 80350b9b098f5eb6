"""A trained scorer on disk, and whatever else a training leaves.

<folder>/turn_scorer.json     recipe, labels' digest, licence of the data
         encoder/             the tuned encoder and its tokenizer, as any Hugging Face model
         heads.safetensors    emotion and empathy head
         metrics.jsonl        one line an epoch
         predictions.npz      what `rapport scorer eval` was told, for as long as weights and labels are the same
         state.pt             while the training goes on: weights, optimizer, place
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from dialogue.library_noise import quiet_transformers
from reward_servers.turn_scorers.network import TextViews, TurnNetwork
from reward_servers.turn_scorers.recipe import Pooling, Recipe, Variant, load_encoder

CARD, HEADS, ENCODER, METRICS, STATE = "turn_scorer.json", "heads.safetensors", "encoder", "metrics.jsonl", "state.pt"


class TurnScorerError(ValueError):
    """A folder that holds no scorer, or one that does not fit this code. The message names the file."""


class TrainingDivergedError(RuntimeError):
    """The loss is no number any more. The message says where, and what to change."""


@dataclass(frozen=True, slots=True)
class Card:
    """What is known of a trained scorer without loading it."""

    recipe: Recipe
    labels: str
    language_model_labels: bool
    licence: str


def save_scorer(network: TurnNetwork, views: TextViews, card: Card, folder: Path) -> None:
    """Write everything but the card, then the card: a folder with a card is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    with quiet_transformers():
        network.encoder.save_pretrained(folder / ENCODER)
        views.tokenizer.save_pretrained(folder / ENCODER)
    heads = {name: t.contiguous().cpu() for name, t in network.state_dict().items() if not name.startswith("encoder.")}
    save_file(heads, folder / HEADS)
    write_whole(folder / CARD, (json.dumps(asdict(card), indent=2) + "\n").encode())


def read_card(folder: Path) -> Card:
    """The card of a finished scorer.

    Raises:
        TurnScorerError: there is none, or it is not one of ours.
    """
    path = folder / CARD
    if not path.is_file():
        why = "its training is not finished: start it again" if (folder / STATE).is_file() else "no scorer is there"
        raise TurnScorerError(f"{folder} has no {CARD}: {why}; `rapport scorer train` makes one")
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        kinds = {"variant": Variant(content["recipe"]["variant"]), "pooling": Pooling(content["recipe"]["pooling"])}
        recipe = Recipe(**{**content["recipe"], **kinds})
        return Card(recipe, content["labels"], bool(content["language_model_labels"]), str(content["licence"]))
    except (ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise TurnScorerError(f"{path} is not the card of a scorer: {type(error).__name__}: {error}") from error


def load_network(folder: Path) -> tuple[TurnNetwork, TextViews, Card]:
    """The network, ready to score, on the CPU.

    Raises:
        TurnScorerError: files are missing or do not fit.
    """
    card = read_card(folder)
    for name in (HEADS, ENCODER):
        if not (folder / name).exists():
            raise TurnScorerError(f"{folder} lacks {name}; train the scorer again")
    tokenizer, encoder = load_encoder(str(folder / ENCODER))
    network = TurnNetwork(encoder, card.recipe)
    found = load_file(folder / HEADS)
    wanted = {name for name in network.state_dict() if not name.startswith("encoder.")}
    try:
        network.load_state_dict(found, strict=False)
    except RuntimeError as error:
        raise TurnScorerError(f"{folder / HEADS} does not fit its card: {error}") from error
    if found.keys() != wanted:
        raise TurnScorerError(f"{folder / HEADS} does not fit its card: {', '.join(sorted(found.keys() ^ wanted))}")
    return network.eval(), TextViews(tokenizer, card.recipe.max_length), card


def weights_version(folder: Path) -> str:
    """Hash of the files that decide a score: 12 hexadecimal digits."""
    digest = hashlib.sha256()
    for path in sorted([folder / CARD, folder / HEADS, *(folder / ENCODER).glob("*")]):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """The place of a training that goes on; whole or not at all."""
    part = folder / f".{STATE}.part"
    torch.save(state, part)
    part.replace(folder / STATE)


def load_state(folder: Path) -> dict[str, Any] | None:
    """What `save_state` wrote; None where there is none.

    Raises:
        TurnScorerError: the file cannot be read.
    """
    path = folder / STATE
    if not path.is_file():
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever its unpickler met
        raise TurnScorerError(f"{path} cannot be read ({type(error).__name__}); remove it to begin anew") from error


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under a temporary name and rename it."""
    part = path.with_name(f".{path.name}.part{os.getpid()}")
    part.write_bytes(content)
    part.replace(path)
