"""From labels to a tagger: the recipe, the data it needs, the two stages, and the cross-validation of the second."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dialogue.tactics import TACTICS
from reward_servers.encoder import encoder_folder
from reward_servers.tactics.data import (
    TagDataError,
    TaggedReply,
    TagSource,
    held_out_conversations,
    load_annotations,
    load_outputs,
    load_weak_labels,
    without_sentences_of,
)
from reward_servers.tactics.evaluation import DEFAULT_THRESHOLD, Evaluation, best_thresholds, evaluate, macro_f1
from reward_servers.tactics.network import TacticNetwork, encoder_digest, pooling_matrix
from reward_servers.tactics.shipping import TaggerConfig
from reward_servers.tactics.training import Example, Progress, StageConfig, examples_of, train_stage
from reward_servers.tactics.windows import SentenceWindows

Probabilities = NDArray[np.float32]
State = Mapping[str, Tensor]
OnStep = Callable[[str, int, int, float], None]
"""Called after every step with the stage's name, steps done, steps in all and the step's loss."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides what the tagger becomes, besides the data."""

    rank: int = 16
    scale: float = 32.0
    adapted_layers: int = 3
    machine_stage: StageConfig = field(default_factory=lambda: StageConfig(epochs=5, learning_rate=1e-3))
    weak_weight: float = 3.0
    human_stage: StageConfig = field(default_factory=lambda: StageConfig(3, learning_rate=5e-4, batch_tokens=1024))
    human_weight: float = 2.0
    replayed_system_replies: int = 60


@dataclass(frozen=True, slots=True)
class TagData:
    """All labelled replies; `machine` and `weak` are without the held-out conversations, which are in `held_out`."""

    machine: tuple[TaggedReply, ...]
    weak: tuple[TaggedReply, ...]
    human: tuple[TaggedReply, ...]
    held_out: tuple[TaggedReply, ...]


@dataclass(frozen=True, slots=True)
class CrossValidation:
    """What models that never saw a reply say of it: (N, K) each, N sentences of all human-labelled replies."""

    truth: Probabilities
    probabilities: Probabilities
    decisions: Probabilities
    replies: tuple[int, ...]

    def evaluation(self) -> Evaluation:
        return evaluate(self.truth, self.decisions, self.replies)

    def evaluation_at_one_half(self) -> Evaluation:
        """With the threshold 0.5 for every tactic: nothing is chosen on human labels but the weights."""
        return evaluate(self.truth, (self.probabilities >= DEFAULT_THRESHOLD).astype(np.float32), self.replies)


def load_tag_data(root: Path) -> TagData:
    """Labels below `root`, the folder that holds `mint/`.

    Raises:
        TagDataError: a file is missing or malformed.
    """
    outputs = load_outputs(root / "mint" / "outputs")
    held_out = held_out_conversations()
    return TagData(
        machine=tuple(r for r in outputs if r.group not in held_out),
        weak=tuple(load_weak_labels(root / "mint" / "conversations_322.json")),
        human=tuple(load_annotations(root / "mint" / "tagger_annotations" / "val")),
        held_out=tuple(r for r in outputs if r.group in held_out),
    )


class Builder:
    """Trains taggers of one recipe on one set of data."""

    def __init__(self, data: TagData, recipe: Recipe | None = None, on_step: OnStep | None = None) -> None:
        self.data = data
        self.recipe = recipe or Recipe()
        self._on_step = on_step
        self._encoder = encoder_folder()
        self._windows = SentenceWindows(self._encoder)

    def new_network(self, state: State | None = None) -> TacticNetwork:
        """A fresh network of the recipe's shape, seeded, with `state` in it where given."""
        torch.manual_seed(0)
        network = TacticNetwork(self._encoder, self.recipe.rank, self.recipe.scale, self.recipe.adapted_layers)
        if state is not None:
            network.load_trained_state(state)
        return network

    @property
    def machine_identity(self) -> str:
        """Names all that the first stage is made from: recipe, encoder and labels."""
        recipe = self.recipe
        shape = [recipe.rank, recipe.scale, recipe.adapted_layers, asdict(recipe.machine_stage), recipe.weak_weight]
        digest = hashlib.sha256(json.dumps([shape, encoder_digest(self._encoder)]).encode())
        for reply in (*self.data.machine, *self.data.weak, *self.data.human):
            digest.update(json.dumps([reply.source, reply.group, reply.sentences, reply.labels.tolist()]).encode())
        return digest.hexdigest()[:16]

    def machine_stage(self) -> TacticNetwork:
        """Stage 1. No human-labelled reply is used, nor any sentence that occurs in one."""
        network = self.new_network()
        listeners, systems = self._machine_replies()
        weak = without_sentences_of(self.data.weak, self.data.human)
        examples = examples_of(listeners + systems, network, self._windows)
        examples += examples_of(weak, network, self._windows, self.recipe.weak_weight)
        train_stage(network, examples, self.recipe.machine_stage, self._telling("machine tags"))
        return network

    def human_stage(
        self,
        machine_state: State,
        human: Sequence[TaggedReply],
        held_out: Sequence[TaggedReply] = (),
        name: str = "human labels",
    ) -> TacticNetwork:
        """Stage 2 on `human`; no label of a sentence that occurs in `held_out` is used. `name` is for the progress."""
        network = self.new_network(machine_state)
        listeners, systems = self._machine_replies()
        replay = listeners[::6] + _drawn(systems, self.recipe.replayed_system_replies, seed=1)
        replay += without_sentences_of(self.data.weak, self.data.human)[::2]
        examples = examples_of(
            without_sentences_of(human, held_out), network, self._windows, self.recipe.human_weight
        ) + examples_of(replay, network, self._windows)
        train_stage(network, examples, self.recipe.human_stage, self._telling(name))
        return network

    def cross_validate(self, machine_state: State, folds: int = 5) -> CrossValidation:
        """K-fold over the human-labelled replies.

        A fold's probabilities come from a model that saw none of its replies; its thresholds are the best ones on
        the other folds' out-of-fold probabilities, so no label of the fold takes part in choosing them.

        Raises:
            TagDataError: there are fewer replies than folds.
        """
        self.check_folds(folds)
        human = list(self.data.human)
        truth = np.concatenate([r.labels for r in human])
        probabilities, decisions = (np.zeros_like(truth) for _ in range(2))
        rows = _rows_of(human)
        for number, (train, test) in enumerate(fold_indices(len(human), folds), start=1):
            held_out = [human[i] for i in test]
            name = f"fold {number} of {folds}"
            network = self.human_stage(machine_state, [human[i] for i in train], held_out, name)
            for i in test:
                probabilities[rows[i]] = self.probabilities(network, [human[i]])
        for train, test in fold_indices(len(human), folds):
            known, asked = (np.concatenate([np.arange(len(truth))[rows[i]] for i in part]) for part in (train, test))
            decisions[asked] = probabilities[asked] >= best_thresholds(truth[known], probabilities[known])
        return CrossValidation(truth, probabilities, decisions, _reply_numbers(human))

    def check_folds(self, folds: int) -> None:
        """To be asked before the first stage is trained; raises TagDataError for more folds than replies."""
        if folds > len(self.data.human):
            raise TagDataError(f"{folds} folds, but people labelled {len(self.data.human)} replies: give fewer --folds")

    def probabilities(self, network: TacticNetwork, replies: Sequence[TaggedReply]) -> Probabilities:
        """(N, K) probabilities of all sentences of `replies` in order."""
        with torch.inference_mode():
            return np.concatenate([_probabilities(network, e) for e in examples_of(replies, network, self._windows)])

    def config(self, thresholds: NDArray[np.floating]) -> TaggerConfig:
        """What is stored with the weights."""
        named = {tactic.value: round(float(x), 3) for tactic, x in zip(TACTICS, thresholds, strict=True)}
        recipe = self.recipe
        return TaggerConfig(recipe.rank, recipe.scale, recipe.adapted_layers, named, encoder_digest(self._encoder))

    def agreement_on_held_out(self, network: TacticNetwork, thresholds: NDArray[np.floating]) -> NDArray[np.floating]:
        """(K,) macro F1 against the released tags of the conversations held out of all training."""
        replies = self.data.held_out
        truth = np.concatenate([r.labels for r in replies])
        return macro_f1(truth, (self.probabilities(network, replies) >= thresholds).astype(np.float32))

    def _telling(self, stage: str) -> Progress | None:
        return None if self._on_step is None else partial(self._on_step, stage)

    def _machine_replies(self) -> tuple[list[TaggedReply], list[TaggedReply]]:
        usable = without_sentences_of(self.data.machine, self.data.human)
        listeners = [r for r in usable if r.source is TagSource.LISTENER]
        return listeners, [r for r in usable if r.source is TagSource.SYSTEM]


def fold_indices(replies: int, folds: int, seed: int = 0) -> Iterator[tuple[list[int], list[int]]]:
    """Training and test indices of each of `folds` folds; every reply is in exactly one test fold."""
    order = list(range(replies))
    random.Random(seed).shuffle(order)
    for fold in range(folds):
        test = set(order[fold::folds])
        yield [i for i in range(replies) if i not in test], sorted(test)


def _drawn(replies: list[TaggedReply], count: int, seed: int) -> list[TaggedReply]:
    return random.Random(seed).sample(replies, min(count, len(replies)))


def _reply_numbers(replies: Sequence[TaggedReply]) -> tuple[int, ...]:
    return tuple(i for i, reply in enumerate(replies) for _ in reply.sentences)


def _rows_of(replies: Sequence[TaggedReply]) -> list[slice]:
    ends = np.cumsum([len(r.sentences) for r in replies])
    return [slice(int(end) - len(r.sentences), int(end)) for end, r in zip(ends, replies, strict=True)]


def _probabilities(network: TacticNetwork, example: Example) -> Probabilities:
    hidden = example.hidden[None].float()
    return torch.sigmoid(network.upper(hidden, None, pooling_matrix([example.window], hidden.shape[1]))[0]).numpy()
