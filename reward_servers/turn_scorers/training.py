"""Training of one scorer with one seed; killed and started again it goes on where it last saved, with equal results.

    stage emotion   STM only: cross-entropy of the 32 feelings, at `emotion_rate`
    stage empathy   SmoothL1 of the label + `emotion_weight` x cross-entropy

Each stage has an AdamW of its own, at a constant rate. The order of the rows and the dropout of a step depend on seed,
stage, epoch and step alone, so weights, optimizer and place are all that a resume needs.

On CUDA the forward runs in half precision with scaled gradients, as published; on a CPU in float32.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from dialogue.emotions import Feeling
from reward_servers.turn_scorers.augment import Kind
from reward_servers.turn_scorers.batches import by_length, epoch_batches, step_seed
from reward_servers.turn_scorers.dialogues import LICENCE_NOTE, Split
from reward_servers.turn_scorers.frozen import KeptStates
from reward_servers.turn_scorers.labels import HIGHEST, LOWEST, LabelledReply, digest
from reward_servers.turn_scorers.network import TextViews, TurnNetwork, Views
from reward_servers.turn_scorers.recipe import Recipe, RecipeError, load_encoder
from reward_servers.turn_scorers.saved import (
    CARD,
    METRICS,
    STATE,
    Card,
    TrainingDivergedError,
    TurnScorerError,
    load_state,
    read_card,
    save_scorer,
    save_state,
    write_whole,
)

SAVE_EVERY_S = 120.0
_FEELINGS = list(Feeling)
_EMOTION, _EMPATHY = "emotion", "empathy"


@dataclass(frozen=True, slots=True)
class Step:
    """What a progress line shows: steps are counted over both stages."""

    stage: str
    epoch: int
    done: int
    steps: int
    loss: float


OnStep = Callable[[Step], None]


def train_scorer(
    replies: Sequence[LabelledReply],
    recipe: Recipe,
    folder: Path,
    on_step: OnStep | None = None,
    save_every_s: float = SAVE_EVERY_S,
    device: str | None = None,
    states: KeptStates | None = None,
) -> Path:
    """Train on the train split, measure the valid split after every epoch, and write the scorer to `folder`.

    A folder that holds the finished scorer of the same recipe and labels is left as it is. Frozen layers read each text
    once; `states` lets several trainings of one encoder and one `tuned_layers` share that.

    Raises:
        RecipeError: no rows of a split, or the encoder cannot be loaded.
        TurnScorerError: `folder` holds a training with another recipe or other labels.
        TrainingDivergedError: the loss became infinite or NaN.
    """
    card = _card(replies, recipe, _checked_labels(replies))
    if _is_finished(folder, card):
        return folder
    rows = {split: [reply for reply in replies if reply.split is split] for split in (Split.TRAIN, Split.VALID)}
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    tokenizer, encoder = load_encoder(recipe.encoder)
    _check_length(recipe, encoder)
    views = TextViews(tokenizer, recipe.max_length)
    network = TurnNetwork(encoder, recipe).to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if recipe.tuned_layers is not None:
        network.remember(KeptStates() if states is None else states)
    _Training(network, views, rows, card, folder, on_step, save_every_s).run()
    save_scorer(network.eval(), views, card, folder)
    (folder / STATE).unlink(missing_ok=True)
    return folder


def check_folders(replies: Sequence[LabelledReply], folders: Mapping[Path, Recipe]) -> None:
    """To be asked of all trainings before the first of them: errors of `train_scorer` that need no encoder.

    Raises:
        RecipeError: no rows of a split.
        TurnScorerError: a folder cannot be written, or holds a training with another recipe or other labels.
    """
    labels = _checked_labels(replies)
    for folder, recipe in folders.items():
        card = _card(replies, recipe, labels)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TurnScorerError(f"{folder}: cannot be made ({error.strerror}); give another --out") from error
        if not _is_finished(folder, card):
            _unfinished(folder, card)


def _checked_labels(replies: Sequence[LabelledReply]) -> str:
    """The digest of labels that have rows of both splits."""
    for split in (Split.TRAIN, Split.VALID):
        if not any(reply.split is split for reply in replies):
            raise RecipeError(f"the labels hold no reply of the split {split}; make them of more conversations")
    return digest(replies)


def _card(replies: Sequence[LabelledReply], recipe: Recipe, labels: str) -> Card:
    return Card(recipe, labels, replies[0].llm is not None, LICENCE_NOTE)


def _is_finished(folder: Path, card: Card) -> bool:
    if not (folder / CARD).is_file():
        return False
    if read_card(folder) != card:
        raise TurnScorerError(f"{folder} holds a scorer of another recipe or other labels; give another folder")
    return True


def _unfinished(folder: Path, card: Card) -> dict[str, Any] | None:
    """Where a training of this card was left, if it was begun."""
    state = load_state(folder)
    if state is not None and state["identity"] != _identity(card):
        raise TurnScorerError(
            f"{folder} holds an unfinished training of another recipe or other labels; give another folder, "
            f"or remove {folder / STATE}"
        )
    return state


def _identity(card: Card) -> str:
    return json.dumps(asdict(card), sort_keys=True)


def _check_length(recipe: Recipe, encoder: Any) -> None:
    most = int(getattr(encoder.config, "max_position_embeddings", recipe.max_length) or recipe.max_length)
    if recipe.max_length > most:
        raise RecipeError(f"max_length is {recipe.max_length}, but the encoder {recipe.encoder!r} reads {most} tokens")


class _Training:
    """One run of `train_scorer`. The place is (stage, epoch, step): the next batch to be learned."""

    def __init__(
        self,
        network: TurnNetwork,
        views: TextViews,
        rows: dict[Split, list[LabelledReply]],
        card: Card,
        folder: Path,
        on_step: OnStep | None,
        save_every_s: float,
    ) -> None:
        self._network, self._recipe, self._folder, self._card = network, card.recipe, folder, card
        self._on_step, self._save_every_s = on_step, save_every_s
        self._rows = {split: _Rows(own, views, network) for split, own in rows.items()}
        self._device = network.emotion.weight.device
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=self._device.type == "cuda")
        self._saved_at = time.monotonic()

    def run(self) -> None:
        stages = [(_EMOTION, self._recipe.emotion_epochs), (_EMPATHY, self._recipe.epochs)]
        per_epoch = -(-len(self._rows[Split.TRAIN]) // self._recipe.batch)
        steps = per_epoch * sum(epochs for _, epochs in stages)
        state = self._restored()
        done = 0
        for stage, epochs in stages:
            optimizer = self._optimizer(stage)
            first, skip = 0, 0
            if state is not None and stage == _EMOTION and state["stage"] == _EMPATHY:
                done += per_epoch * epochs
                continue
            if state is not None:
                optimizer.load_state_dict(state["optimizer"])
                self._scaler.load_state_dict(state["scaler"])
                first, skip, state = state["epoch"], state["step"], None
            done += per_epoch * first + skip
            for epoch in range(first, epochs):
                done = self._epoch(stage, epoch, skip, optimizer, done, steps)
                skip = 0

    def _epoch(self, stage: str, epoch: int, skip: int, optimizer: torch.optim.Optimizer, done: int, steps: int) -> int:
        recipe, rows = self._recipe, self._rows[Split.TRAIN]
        batches = epoch_batches(len(rows), recipe.batch, recipe.seed, stage, epoch)
        for step in range(skip, len(batches)):
            loss = self._learn(stage, epoch, step, batches[step], optimizer)
            done += 1
            if self._on_step is not None:
                self._on_step(Step(stage, epoch, done, steps, loss))
            if step + 1 < len(batches):
                self._save_if_due(stage, epoch, step + 1, optimizer)
        self._report(stage, epoch)
        self._save_if_due(stage, epoch + 1, 0, optimizer)
        return done

    def _learn(self, stage: str, epoch: int, step: int, batch: list[int], optimizer: torch.optim.Optimizer) -> float:
        torch.manual_seed(step_seed(self._recipe.seed, stage, epoch, step))
        self._network.train()
        half = self._device.type == "cuda"
        with torch.autocast("cuda", torch.float16) if half else nullcontext():
            loss = self._rows[Split.TRAIN].loss(batch, stage, self._recipe.emotion_weight)
        if not torch.isfinite(loss):
            raise TrainingDivergedError(
                f"{self._folder}: the loss of stage {stage}, epoch {epoch}, step {step} is {loss.item()}; "
                "lower the rate and begin anew"
            )
        optimizer.zero_grad()
        self._scaler.scale(loss).backward()
        self._scaler.step(optimizer)
        self._scaler.update()
        return loss.item()

    def _optimizer(self, stage: str) -> torch.optim.Optimizer:
        recipe = self._recipe
        rate = recipe.emotion_rate if stage == _EMOTION else recipe.rate
        encoder = [p for p in self._network.encoder.parameters() if p.requires_grad]
        heads = [*self._network.emotion.parameters(), *self._network.empathy.parameters()]
        groups = [{"params": heads, "lr": recipe.head_rate or rate}]
        groups += [{"params": encoder, "lr": rate}] if encoder else []
        return torch.optim.AdamW(groups, weight_decay=recipe.weight_decay)

    def _report(self, stage: str, epoch: int) -> None:
        """One line for this epoch; that of an earlier try at it, killed before it was saved, is replaced."""
        path = self._folder / METRICS
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        mine = {"stage": stage, "epoch": epoch}
        kept = [line for line in lines if not mine.items() <= json.loads(line).items()]
        kept.append(json.dumps({**mine, **self._rows[Split.VALID].measure()}))
        write_whole(path, ("\n".join(kept) + "\n").encode())

    def _save_if_due(self, stage: str, epoch: int, step: int, optimizer: torch.optim.Optimizer) -> None:
        if time.monotonic() - self._saved_at < self._save_every_s:
            return
        place = {"stage": stage, "epoch": epoch, "step": step}
        learned = {"optimizer": optimizer.state_dict(), "scaler": self._scaler.state_dict()}
        network = self._network.state_dict()
        save_state(self._folder, {"identity": _identity(self._card), **place, **learned, "network": network})
        self._saved_at = time.monotonic()

    def _restored(self) -> dict[str, Any] | None:
        state = _unfinished(self._folder, self._card)
        if state is None:
            (self._folder / METRICS).unlink(missing_ok=True)
            return None
        self._network.load_state_dict(state["network"])
        return state


class _Rows:
    """One split as tokens and targets."""

    def __init__(self, replies: Sequence[LabelledReply], views: TextViews, network: TurnNetwork) -> None:
        self._network = network
        self._device = network.emotion.weight.device
        self._views: list[Views] = [views(reply.history, reply.reply) for reply in replies]
        self._labels = torch.tensor([reply.label for reply in replies], device=self._device)
        self._feelings = torch.tensor([_FEELINGS.index(reply.feeling) for reply in replies], device=self._device)
        self._original = torch.tensor([reply.kind is Kind.ORIGINAL for reply in replies], device=self._device)

    def __len__(self) -> int:
        return len(self._views)

    def loss(self, batch: list[int], stage: str, emotion_weight: float) -> Tensor:
        """The loss of a stage, a scalar."""
        turns = [self._views[row] for row in batch]
        if stage == _EMOTION:
            return functional.cross_entropy(self._network.emotions(turns), self._feelings[batch])
        empathy, emotions = self._network(turns)
        cross_entropy = functional.cross_entropy(emotions, self._feelings[batch])
        return functional.smooth_l1_loss(empathy.float(), self._labels[batch]) + emotion_weight * cross_entropy

    @torch.inference_mode()
    def measure(self, batch: int = 64) -> dict[str, float]:
        """Mean absolute error of the empathy, and share of right feelings on the listener's own replies."""
        self._network.eval()
        error, right = torch.zeros(()), 0
        for rows in by_length([len(views.both) for views in self._views], batch):
            empathy, emotions = self._network([self._views[row] for row in rows])
            error += (empathy.clamp(LOWEST, HIGHEST) - self._labels[rows]).abs().sum().cpu()
            hits = (emotions.argmax(-1) == self._feelings[rows]) & self._original[rows]
            right += int(hits.sum())
        originals = int(self._original.sum())
        accuracy = right / originals if originals else float("nan")
        return {"valid_mae": error.item() / len(self), "valid_emotion_accuracy": accuracy}
