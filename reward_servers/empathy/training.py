"""Training of the scorer: rated honest replies and probes through one network.

Loss of a batch = SmoothL1 on the six dimensions (honest) + 2 SmoothL1 on the aggregate (all with a target)
    + 0.3 pairwise rank loss on the aggregate (honest) + 0.5 cross-entropy of genuineness (all).
The frozen lower layers run once per text; their output is kept in half precision. Seeded, one thread: the same data and
options give the same weights on the same machine.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from reward_servers.empathy.babble import GENUINENESS, sample_babble
from reward_servers.empathy.data import RatedReply
from reward_servers.empathy.features import surface_features
from reward_servers.empathy.network import EmpathyNetwork, Encoded, NetworkConfig, encode
from reward_servers.empathy.phrases import Pool
from reward_servers.empathy.probes import ProbeKind, build_probes
from reward_servers.protocol import Dimension, ScoreRequest

# How genuine a family is held to be; the others are 0. An answer to somebody else is at least a kind text, and some
# honest replies are so general that they would fit anywhere.
_FAMILY_GENUINENESS = {ProbeKind.OFF_TOPIC: 0.12, ProbeKind.SEEKER_ROLE: 0.05}
_SIGNS = [-1.0 if dimension.lower_is_better else 1.0 for dimension in Dimension]


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """Options of one training run.

    Attributes:
        epochs: passes over the honest replies.
        probes_per_epoch: probes drawn per epoch for each honest reply, on average.
        probe_copies: how many probes per honest reply are built in all; each epoch draws from these.
        leave_out: families of probes never trained on, for the generalisation check.
        babble_histories: prompts that are answered with hot samples of a small language model; 0 for none.
    """

    epochs: int = 5
    probes_per_epoch: float = 1.0
    probe_copies: int = 2
    batch: int = 16
    adapter_rate: float = 1e-3
    head_rate: float = 2e-3
    seed: int = 0
    leave_out: tuple[ProbeKind, ...] = ()
    babble_histories: int = 144
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


@dataclass(slots=True)
class Prepared:
    """An example with what the frozen part makes of it: (T, H) half-precision states, (T,) segments, (F,) features."""

    states: Tensor
    segments: Tensor
    features: Tensor
    example: Example


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
        for kind in rng.sample(kinds, config.probe_copies):
            text, genuine = texts[kind], _FAMILY_GENUINENESS.get(kind, 0.0)
            if kind is ProbeKind.OFF_TOPIC and rng.random() < 0.75:
                text = _elsewhere(replies, reply, rng).reply
            if kind is ProbeKind.SEEKER_ROLE and rng.random() < 0.6:
                text = _elsewhere(replies, reply, rng).history[-1]["content"]
            examples.append(Example(ScoreRequest(str(number), reply.history, text), None, genuine))
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


def prepare(network: EmpathyNetwork, tokenizer: Any, examples: Sequence[Example]) -> list[Prepared]:
    """Run the frozen layers once over every example."""
    encoded = [encode(tokenizer, example.request, network.config) for example in examples]
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i].ids))
    prepared: dict[int, Prepared] = {}
    network.eval()
    with torch.no_grad():
        for start in tqdm(range(0, len(order), 32), desc="frozen layers", disable=None):
            rows = order[start : start + 32]
            ids, segments, mask = pad([encoded[i] for i in rows])
            states = network.lower_states(ids, segments, mask)
            for row, i in enumerate(rows):
                length = len(encoded[i].ids)
                features = torch.tensor(surface_features(examples[i].request))
                kept = states[row, :length].to(torch.float16).clone()
                prepared[i] = Prepared(kept, segments[row, :length].clone(), features, examples[i])
    return [prepared[i] for i in range(len(examples))]


def pad(rows: Sequence[Encoded]) -> tuple[Tensor, Tensor, Tensor]:
    """ids, segments and mask, each (B, T), padded with zeros on the right."""
    width = max(len(row.ids) for row in rows)

    def padded(values: Iterable[int]) -> list[int]:
        kept = list(values)
        return kept + [0] * (width - len(kept))

    ids = torch.tensor([padded(row.ids) for row in rows])
    segments = torch.tensor([padded(row.segments) for row in rows])
    mask = torch.tensor([padded([1] * len(row.ids)) for row in rows])
    return ids, segments, mask


def train(
    network: EmpathyNetwork,
    honest: Sequence[Prepared],
    probes: Sequence[Prepared],
    config: TrainingConfig,
    report: Callable[[int, float], None] = lambda epoch, loss: None,
) -> list[float]:
    """Train adapters and head in place.

    Args:
        report: called after each epoch with its number and mean loss.

    Returns:
        The mean loss of each epoch.
    """
    torch.manual_seed(config.seed)
    rng = random.Random(config.seed)
    drawn = min(len(probes), round(config.probes_per_epoch * len(honest)))
    steps = config.epochs * math.ceil((len(honest) + drawn) / config.batch)
    optimizer = _optimizer(network, config)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [config.adapter_rate, config.head_rate], total_steps=steps + 1, pct_start=0.1
    )
    losses = []
    for epoch in range(config.epochs):
        rows = [*honest, *rng.sample(list(probes), drawn)]
        network.train()
        total = 0.0
        batches = _batches(rows, config.batch, rng)
        for batch in tqdm(batches, desc=f"epoch {epoch + 1} of {config.epochs}", disable=None):
            loss = batch_loss(network, batch)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_([p for p in network.parameters() if p.requires_grad], 1.0)
            optimizer.step()
            schedule.step()
            total += loss.item() * len(batch)
        losses.append(total / len(rows))
        report(epoch, losses[-1])
    network.eval()
    return losses


def _optimizer(network: EmpathyNetwork, config: TrainingConfig) -> torch.optim.Optimizer:
    adapters = [p for p in network.upper.parameters() if p.requires_grad]
    head = [*network.hidden.parameters(), *network.quality.parameters(), *network.genuine.parameters()]
    groups = [{"params": adapters, "lr": config.adapter_rate}, {"params": head, "lr": config.head_rate}]
    return torch.optim.AdamW(groups, weight_decay=0.01)


def _batches(rows: list[Prepared], size: int, rng: random.Random) -> list[list[Prepared]]:
    """Batches of similar length in random order: sorted within chunks of 16 batches."""
    rng.shuffle(rows)
    batches = []
    for start in range(0, len(rows), 16 * size):
        chunk = sorted(rows[start : start + 16 * size], key=lambda row: len(row.states))
        batches += [chunk[i : i + size] for i in range(0, len(chunk), size)]
    rng.shuffle(batches)
    return batches


def batch_loss(network: EmpathyNetwork, batch: Sequence[Prepared]) -> Tensor:
    """The loss of the module's text over B examples, a scalar."""
    width = max(len(row.states) for row in batch)
    states = torch.stack([functional.pad(row.states.float(), (0, 0, 0, width - len(row.states))) for row in batch])
    segments = torch.stack([functional.pad(row.segments, (0, width - len(row.segments))) for row in batch])
    mask = torch.stack([functional.pad(torch.ones(len(row.states)), (0, width - len(row.states))) for row in batch])
    features = torch.stack([row.features for row in batch])
    dimensions, logits = network(states, segments, mask, features)
    genuine = torch.tensor([row.example.genuine for row in batch])
    loss = 0.5 * functional.binary_cross_entropy_with_logits(logits, genuine)
    rated = [i for i, row in enumerate(batch) if row.example.dimensions is not None]
    if rated:
        target = torch.tensor([batch[i].example.dimensions for i in rated])
        loss = loss + _rated_loss(dimensions[rated], target)
    fake = (genuine < 0.01).nonzero().squeeze(-1)
    if len(fake):
        loss = loss + functional.smooth_l1_loss(aggregated(dimensions[fake]), torch.ones(len(fake)))
    return loss


def _rated_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Dimensions, aggregate and pairwise order, over R rated replies; both arguments (R, 6)."""
    wanted, got = aggregated(target), aggregated(predicted)
    loss = functional.smooth_l1_loss(predicted, target) + 2 * functional.smooth_l1_loss(got, wanted, beta=0.5)
    difference = wanted[:, None] - wanted[None, :]
    pairs = difference > 0.1
    if pairs.any():
        margin = (got[:, None] - got[None, :])[pairs]
        loss = loss + 0.3 * functional.softplus(-4 * margin).mean()
    return loss


def aggregated(dimensions: Tensor) -> Tensor:
    """(R, 6) -> (R,): the mean of the six after 6 - x where lower is better."""
    signs = dimensions.new_tensor(_SIGNS)
    return (torch.where(signs > 0, dimensions, 6 - dimensions)).mean(-1)
