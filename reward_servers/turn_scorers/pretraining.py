"""GoEmotions pre-training of an encoder (Yun 2025): its 28 labels, several a comment, 2 epochs.

L = binary cross-entropy over 28 labels, on one linear layer that is thrown away. What is kept is the encoder, a Hugging
Face folder that `rapport scorer train --encoder` takes. GoEmotions is CC BY 4.0 (Demszky et al. 2020): name the source.

    text <tab> label numbers joined by commas <tab> id        train.tsv and dev.tsv, no header
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dialogue.conversation import Message
from dialogue.emotions import Emotion
from dialogue.library_noise import quiet_transformers
from reward_servers.turn_scorers.batches import by_length, epoch_batches, step_seed
from reward_servers.turn_scorers.encoding import encode, freeze
from reward_servers.turn_scorers.network import TextViews, Views
from reward_servers.turn_scorers.recipe import SHIPPED, Pooling, load_encoder
from reward_servers.turn_scorers.saved import (
    STATE,
    TrainingDivergedError,
    TurnScorerError,
    load_state,
    save_state,
)

TRAIN, DEV = "train.tsv", "dev.tsv"
SAVE_EVERY_S = 120.0
_STAGE = "goemotions"
_COLUMNS = 3


class GoEmotionsError(ValueError):
    """GoEmotions that cannot be read. The message names file, line and what is expected."""


@dataclass(frozen=True, slots=True)
class Comment:
    """One comment with its labels, at least one."""

    text: str
    labels: tuple[Emotion, ...]


@dataclass(frozen=True, slots=True)
class Pretraining:
    """Options; the fields mean what they mean in `Recipe`."""

    encoder: str = SHIPPED
    batch: int = 16
    rate: float = 2e-5
    epochs: int = 2
    max_length: int = 128
    pooling: Pooling = Pooling.FIRST
    tuned_layers: int | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Pretrained:
    """F1 over the 28 labels on the dev file, a label counted where its probability is above a half."""

    micro_f1: float
    macro_f1: float
    comments: int


def read_comments(path: Path) -> list[Comment]:
    """The comments of one file.

    Raises:
        GoEmotionsError: no such file, or a line without text and known labels.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise GoEmotionsError(f"{path}: cannot be read ({error})") from error
    comments = [_comment(line, f"{path}, line {n}") for n, line in enumerate(lines, start=1) if line.strip()]
    if not comments:
        raise GoEmotionsError(f"{path}: no comment")
    return comments


def _comment(line: str, where: str) -> Comment:
    names = list(Emotion)
    fields = line.rstrip("\r").split("\t")
    numbers = fields[1].split(",") if len(fields) == _COLUMNS and fields[0].strip() else []
    if not numbers or any(not (n.isascii() and n.isdigit() and int(n) < len(names)) for n in numbers):
        raise GoEmotionsError(f"{where}: {line[:60]!r}; expected text, label numbers from 0 to 27, id, parted by tabs")
    return Comment(fields[0], tuple(names[int(n)] for n in numbers))


def pretrain(
    folder: Path,
    out: Path,
    options: Pretraining,
    on_step: Callable[[int, int, float], None] | None = None,
    limit: int | None = None,
    save_every_s: float = SAVE_EVERY_S,
) -> Pretrained:
    """Train on `folder`/train.tsv and write the encoder to `out`. A training that was killed goes on where it saved.

    Args:
        on_step: is told steps done, steps in all, and the loss.
        limit: the first so many comments of either file; all if None.

    Raises:
        GoEmotionsError: a file is missing or faulty.
        RecipeError: the encoder cannot be loaded.
        TurnScorerError: `out` cannot be written, or holds an unfinished training with other options or comments.
        TrainingDivergedError: the loss became infinite or NaN.
    """
    train, dev = (read_comments(folder / name)[:limit] for name in (TRAIN, DEV))
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TurnScorerError(f"{out}: cannot be made ({error.strerror}); give another --out") from error
    identity = _identity(options, train)
    state = _unfinished(out, identity)
    torch.manual_seed(options.seed)
    tokenizer, encoder = load_encoder(options.encoder)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = _Tagger(encoder, options).to(device)
    views = TextViews(tokenizer, options.max_length)
    place = _Place(out, identity, save_every_s)
    _learn(network, _rows(train, views), options, state, place, on_step)
    result = _measure(network.eval(), _rows(dev, views))
    with quiet_transformers():
        network.encoder.save_pretrained(out)
        tokenizer.save_pretrained(out)
    (out / STATE).unlink(missing_ok=True)
    return result


class _Tagger(nn.Module):
    def __init__(self, encoder: Any, options: Pretraining) -> None:
        super().__init__()
        self.encoder, self._pooling = encoder, options.pooling
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(int(encoder.config.hidden_size), len(Emotion))
        freeze(encoder, options.tuned_layers)

    def forward(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """(B, 28) logits."""
        return self.head(self.dropout(encode(self.encoder, rows, None, self._pooling)))


def _rows(comments: Sequence[Comment], views: TextViews) -> tuple[list[Views], Tensor]:
    names = list(Emotion)
    turns = [views((Message(role="user", content=comment.text),), "") for comment in comments]
    targets = torch.tensor([[float(name in comment.labels) for name in names] for comment in comments])
    return turns, targets


class _Place:
    """Saves a training by the clock: weights, optimizer, and the next batch to be learned."""

    def __init__(self, folder: Path, identity: str, every_s: float) -> None:
        self._folder, self._identity, self._every_s = folder, identity, every_s
        self._saved_at = time.monotonic()

    def save_if_due(self, network: _Tagger, optimizer: torch.optim.Optimizer, epoch: int, step: int) -> None:
        if time.monotonic() - self._saved_at < self._every_s:
            return
        learned = {"network": network.state_dict(), "optimizer": optimizer.state_dict()}
        save_state(self._folder, {"identity": self._identity, "epoch": epoch, "step": step, **learned})
        self._saved_at = time.monotonic()


def _learn(
    network: _Tagger,
    rows: tuple[list[Views], Tensor],
    options: Pretraining,
    state: dict[str, Any] | None,
    place: _Place,
    on_step: Callable[[int, int, float], None] | None,
) -> None:
    """All epochs, or what `state` leaves of them. Order and dropout depend on seed, epoch and step alone."""
    turns, targets = rows
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=options.rate)
    first = skip = 0
    if state is not None:
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        first, skip = int(state["epoch"]), int(state["step"])
    per_epoch = -(-len(turns) // options.batch)
    for epoch in range(first, options.epochs):
        batches = epoch_batches(len(turns), options.batch, options.seed, _STAGE, epoch)
        for step in range(skip if epoch == first else 0, per_epoch):
            torch.manual_seed(step_seed(options.seed, _STAGE, epoch, step))
            loss = _step(network, optimizer, [turns[row].context for row in batches[step]], targets[batches[step]])
            if on_step is not None:
                on_step(epoch * per_epoch + step + 1, options.epochs * per_epoch, loss)
            place.save_if_due(network, optimizer, epoch, step + 1)


def _step(network: _Tagger, optimizer: torch.optim.Optimizer, rows: Sequence[Sequence[int]], targets: Tensor) -> float:
    """Learn one batch; its loss."""
    logits = network.train()(rows)
    loss = functional.binary_cross_entropy_with_logits(logits, targets.to(logits.device))
    if not torch.isfinite(loss):
        raise TrainingDivergedError(f"the loss of the pre-training is {loss.item()}; lower the rate and begin anew")
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def _identity(options: Pretraining, comments: Sequence[Comment]) -> str:
    rows = json.dumps([[comment.text, *comment.labels] for comment in comments])
    return f"{asdict(options)} {hashlib.sha256(rows.encode()).hexdigest()[:12]}"


def _unfinished(out: Path, identity: str) -> dict[str, Any] | None:
    """Where this training was left, if it was begun."""
    state = load_state(out)
    if state is not None and state["identity"] != identity:
        raise TurnScorerError(
            f"{out} holds an unfinished pre-training with other options or comments; give another folder, or remove "
            f"{out / STATE}"
        )
    return state


@torch.inference_mode()
def _measure(network: _Tagger, rows: tuple[list[Views], Tensor]) -> Pretrained:
    from sklearn.metrics import f1_score

    turns, targets = rows
    found = torch.zeros_like(targets)
    for batch in by_length([len(turn.context) for turn in turns], 64):
        found[batch] = (network([turns[row].context for row in batch]) > 0).float().cpu()
    wanted, given = targets.numpy(), found.numpy()
    micro, macro = (float(f1_score(wanted, given, average=kind, zero_division=0)) for kind in ("micro", "macro"))
    return Pretrained(micro, macro, len(turns))
