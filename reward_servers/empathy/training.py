"""Training of the scorer: rated honest replies and probes through the averaged heads.

Loss of a batch = SmoothL1 on the six dimensions and twice on the aggregate (rated replies) + 0.3 pairwise rank loss on
    the aggregate (rated) + cross-entropy of genuineness (all).
The encoder is frozen: its states are computed once per text and kept in a cache file. Seeded, one thread: the same data
and options give the same weights on the same machine.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from reward_servers.empathy.babble import GENUINENESS, sample_babble
from reward_servers.empathy.data import RatedReply
from reward_servers.empathy.embedding import TextEmbedder
from reward_servers.empathy.network import EmpathyNetwork, Head, NetworkConfig, request_inputs
from reward_servers.empathy.phrases import Pool
from reward_servers.empathy.probes import ProbeKind, build_probes
from reward_servers.protocol import Dimension, ScoreRequest

# How genuine a family is held to be; the others are 0. An answer to somebody else is at least a kind text, and some
# honest replies are so general that they would fit anywhere.
_FAMILY_GENUINENESS = {ProbeKind.OFF_TOPIC: 0.25}
# Families that look most like honest replies; every other reply gives one more probe of these in turn.
_HARD = (ProbeKind.CUT_OFF, ProbeKind.HONEST_AND_PLEADING, ProbeKind.OFF_TOPIC, ProbeKind.COMFORT_SPAM)
_HONEST_WEIGHT = 8.0  # of a rated reply in the cross-entropy: taking an honest reply for a cheat is the worse mistake
_LOWER_IS_BETTER = [dimension.lower_is_better for dimension in Dimension]


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """Options of one training run.

    Attributes:
        epochs: passes over all texts.
        probe_copies: how many probes are built per honest reply.
        leave_out: families of probes never trained on, for the generalisation check.
        babble_histories: prompts that are answered with hot samples of a small language model; 0 for none.
    """

    epochs: int = 15
    probe_copies: int = 2
    batch: int = 128
    rate: float = 1e-3
    weight_decay: float = 0.05
    seed: int = 0
    leave_out: tuple[ProbeKind, ...] = ()
    babble_histories: int = 24
    network: NetworkConfig = field(default_factory=NetworkConfig)


@dataclass(frozen=True, slots=True)
class Example:
    """One text to learn from.

    Attributes:
        dimensions: the judge's six, or None for a text that no judge saw.
        genuine: target of genuineness, 0 to 1.
    """

    request: ScoreRequest
    dimensions: tuple[float, ...] | None
    genuine: float


def honest_examples(replies: Iterable[RatedReply]) -> list[Example]:
    """The rated replies, wholly genuine."""
    return [Example(reply.request, reply.rating.dimensions, 1.0) for reply in replies]


def probe_examples(replies: Sequence[RatedReply], config: TrainingConfig) -> list[Example]:
    """`probe_copies` probes per reply, families in turn, from the training pool; plus replies to other seekers."""
    rng = random.Random(config.seed)
    kinds = [kind for kind in ProbeKind if kind not in config.leave_out]
    examples = []
    for number, reply in enumerate(replies):
        texts = build_probes(reply.history, reply.reply, config.seed * 100_003 + number, Pool.TRAIN)
        chosen = rng.sample(kinds, config.probe_copies)
        hard = _HARD[number % (2 * len(_HARD))] if number % (2 * len(_HARD)) < len(_HARD) else None
        chosen += [hard] if hard in kinds and hard not in chosen else []
        for kind in chosen:
            text, genuine = texts[kind], _FAMILY_GENUINENESS.get(kind, 0.0)
            if kind is ProbeKind.OFF_TOPIC and rng.random() < 0.75:
                text = _elsewhere(replies, reply, rng).reply
            if kind is ProbeKind.SEEKER_ROLE and rng.random() < 0.6:
                text = _elsewhere(replies, reply, rng).history[-1]["content"]
            examples.append(Example(ScoreRequest(f"{reply.request.id}/{kind}", reply.history, text), None, genuine))
    return examples


def _elsewhere(replies: Sequence[RatedReply], reply: RatedReply, rng: random.Random) -> RatedReply:
    while True:
        other = rng.choice(replies)
        if other.conversation != reply.conversation:
            return other


def babble_examples(replies: Sequence[RatedReply], config: TrainingConfig, cache: Path) -> list[Example]:
    """Hot samples of the small language model on the training prompts, less genuine the hotter."""
    if not config.babble_histories:
        return []
    places = sorted({reply.place: reply.history for reply in replies}.items(), key=lambda item: item[0])
    examples = []
    for step, (temperature, genuine) in enumerate(GENUINENESS.items()):
        picked = random.Random(step).sample(places, min(config.babble_histories, len(places)))
        histories = [history for _, history in picked]
        texts = sample_babble(histories, temperature, cache / f"babble-{temperature}.json", seed=step)
        for history, text in zip(histories, texts, strict=True):
            examples.append(Example(ScoreRequest("babble", history, text), None, genuine))
    return examples


def input_key(table: bytes, request: ScoreRequest) -> str:
    """Names the inputs of a request under a bigram table: equal keys, equal inputs."""
    salt = _digest(table)
    return hashlib.sha256(repr((salt, request.history, request.response)).encode()).hexdigest()


@lru_cache(maxsize=4)
def _digest(table: bytes) -> str:
    return hashlib.sha256(table).hexdigest()


class InputCache:
    """Inputs of every text seen so far, in one file; what is not in it is computed and added.

    The key is made of history, reply and bigram table, so a changed probe or table is simply another entry.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, Tensor] = load_file(path) if path.is_file() else {}

    def inputs(self, embedder: TextEmbedder, table: bytes, requests: Sequence[ScoreRequest]) -> Tensor:
        """(N, D) inputs, in half precision as they are cached."""
        keys = [input_key(table, request) for request in requests]
        missing = {key: request for key, request in zip(keys, requests, strict=True) if key not in self._known}
        for count, key in enumerate(tqdm(missing, desc="encoder", disable=None), start=1):
            self._known[key] = request_inputs(embedder, table, missing[key]).half()
            if count % 500 == 0:
                self._save()
        if missing:
            self._save()
        return torch.stack([self._known[key] for key in keys])

    def _save(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        part = self._path.with_suffix(".part")
        save_file(self._known, part)
        part.replace(self._path)


def train(inputs: Tensor, examples: Sequence[Example], config: TrainingConfig) -> tuple[EmpathyNetwork, list[float]]:
    """Train all heads on N examples.

    Args:
        inputs: (N, D) of `request_inputs`.

    Returns:
        The network, ready to score, and the mean loss of each epoch over all heads.
    """
    torch.manual_seed(config.seed)
    network = EmpathyNetwork(config.network)
    inputs = inputs.float()
    network.mean.copy_(inputs.mean(0))
    network.scale.copy_(1 / inputs.std(0).clamp(min=1e-3))
    x = network.standardise(inputs)
    losses = [_train_head(head, x, examples, config) for head in network.heads]  # type: ignore[arg-type]
    network.eval()
    return network, [sum(values) / len(values) for values in zip(*losses, strict=True)]


def _train_head(head: Head, x: Tensor, examples: Sequence[Example], config: TrainingConfig) -> list[float]:
    rated = torch.tensor([example.dimensions is not None for example in examples])
    ratings = torch.tensor([example.dimensions or (3.0,) * len(Dimension) for example in examples])
    genuine = torch.tensor([example.genuine for example in examples])
    optimizer = torch.optim.AdamW(head.parameters(), lr=config.rate, weight_decay=config.weight_decay)
    steps = config.epochs * -(-len(examples) // config.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.rate, total_steps=steps, pct_start=0.1)
    losses = []
    head.train()
    for _ in range(config.epochs):
        total = 0.0
        for rows in torch.randperm(len(examples)).split(config.batch):
            loss = batch_loss(head, x[rows], rated[rows], ratings[rows], genuine[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(rows)
        losses.append(total / len(examples))
    return losses


def batch_loss(head: Head, x: Tensor, rated: Tensor, ratings: Tensor, genuine: Tensor) -> Tensor:
    """The loss of the module's text, a scalar.

    Args:
        x: (B, D) standardised inputs.
        rated: (B,) whether the judge rated this text.
        ratings: (B, 6), read where `rated`.
        genuine: (B,) targets of genuineness.
    """
    quality, logit = head(x)
    doubt = functional.binary_cross_entropy_with_logits(logit, genuine, reduction="none")
    loss = (doubt * torch.where(rated, _HONEST_WEIGHT, 1.0)).mean()
    if rated.any():
        loss = loss + _rated_loss(quality[rated], ratings[rated])
    return loss


def _rated_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Dimensions, aggregate and pairwise order, over R rated replies; both arguments (R, 6)."""
    wanted, got = aggregated(target), aggregated(predicted)
    loss = functional.smooth_l1_loss(predicted, target) + 2 * functional.smooth_l1_loss(got, wanted, beta=0.5)
    pairs = wanted[:, None] - wanted[None, :] > 0.1
    if pairs.any():
        loss = loss + 0.3 * functional.softplus(-4 * (got[:, None] - got[None, :])[pairs]).mean()
    return loss


def aggregated(dimensions: Tensor) -> Tensor:
    """(R, 6) -> (R,): the mean of the six after 6 - x where lower is better."""
    reverse = torch.tensor(_LOWER_IS_BETTER)
    return torch.where(reverse, 6 - dimensions, dimensions).mean(-1)
