"""The shipped scorer's recipe: which texts it learns from, and the report on the conversations it never saw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Group
from rich.table import Table

from reward_servers.empathy.data import RatedReply, held_out_conversations, load_ratings, split_by_conversation
from reward_servers.empathy.embedding import TextEmbedder
from reward_servers.empathy.evaluation import (
    Agreement,
    FamilyReport,
    Predictor,
    expert_agreement,
    judge_agreement,
    off_topic_share,
    rank_probes,
)
from reward_servers.empathy.features import plain_text
from reward_servers.empathy.fluency import build_table, mint_texts
from reward_servers.empathy.network import EmpathyNetwork
from reward_servers.empathy.probes import ProbeKind
from reward_servers.empathy.scorer import EmpathyScorer, save_scorer
from reward_servers.empathy.training import (
    InputCache,
    TrainingConfig,
    aggregated,
    babble_examples,
    honest_examples,
    probe_examples,
    train,
)
from reward_servers.protocol import ScoreRequest


def fluency_table(mint: Path) -> bytes:
    """The bigram table of the 322 conversations below `mint`."""
    return bytes(build_table(map(plain_text, mint_texts(mint))).tolist())


def train_scorer(mint: Path, out: Path, cache: Path, seed: int) -> list[float]:
    """Train on every conversation but the held-out ones and write the weights to `out`.

    Returns:
        The mean loss of each epoch.
    """
    torch.set_num_threads(1)
    config = TrainingConfig(seed=seed)
    replies, _ = split_by_conversation(load_ratings(mint), held_out_conversations())
    table = fluency_table(mint)
    examples = [
        *honest_examples(replies),
        *probe_examples(replies, config),
        *babble_examples(replies, config, cache),
    ]
    store = InputCache(cache / "inputs.safetensors")
    inputs = store.inputs(TextEmbedder(), table, [example.request for example in examples])
    network, losses = train(inputs, examples, config)
    save_scorer(network, table, out)
    return losses


def cached_predictor(network: EmpathyNetwork, store: InputCache, table: bytes, embedder: TextEmbedder) -> Predictor:
    """Aggregated empathy by a network in training, on cached inputs."""

    def predict(requests: Sequence[ScoreRequest]) -> list[float]:
        with torch.inference_mode():
            dimensions, _ = network(store.inputs(embedder, table, requests).float())
            return [float(value) for value in aggregated(dimensions)]

    return predict


@dataclass(frozen=True, slots=True)
class Report:
    """What `rapport scorer check` shows."""

    judge: Agreement
    experts: Agreement
    off_topic: float
    families: dict[ProbeKind, FamilyReport]

    def table(self) -> Group:
        """For a terminal."""
        agreements = Table("against", "Spearman", "MAE", "n", title="held-out conversations")
        for name, value in (("judge, per reply", self.judge), ("experts, per conversation", self.experts)):
            agreements.add_row(name, f"{value.spearman:.3f}", f"{value.mae:.3f}", str(value.count))
        families = Table("family", "mean score", "below every honest", "below its own", title="cheating replies")
        for kind, family in self.families.items():
            shares = f"{family.below_every_honest:.1%}", f"{family.below_its_honest:.1%}"
            families.add_row(kind.value, f"{family.mean:.2f}", *shares)
        families.caption = f"a system's reply beats its reply to another seeker in {self.off_topic:.1%} of turns"
        return Group(agreements, families)


def evaluate_scorer(scorer: EmpathyScorer, mint: Path, on_reply: Callable[[int, int], None] | None = None) -> Report:
    """All figures on the held-out conversations; `on_reply` is told the replies of a part that are done, and all."""
    known: dict[tuple[object, ...], float] = {}

    def predict(requests: Sequence[ScoreRequest]) -> list[float]:
        values = []
        for done, request in enumerate(requests, start=1):
            key = (tuple((m["role"], m["content"]) for m in request.history), request.response)
            if key not in known:  # several figures are of the same replies
                known[key] = scorer.score([request])[0].aggregated
            values.append(known[key])
            if on_reply is not None:
                on_reply(done, len(requests))
        return values

    held_out = held_out_conversations()
    _, unseen = split_by_conversation(load_ratings(mint), held_out)
    gold: list[RatedReply] = [reply for reply in unseen if reply.system == "gold"]
    experts = sorted((mint / "lend_an_ear" / "expert_ratings").glob("expert*.csv"))
    return Report(
        judge=judge_agreement(predict, unseen),
        experts=expert_agreement(predict, gold, experts, held_out),
        off_topic=off_topic_share(predict, unseen),
        families=rank_probes(predict, unseen),
    )
