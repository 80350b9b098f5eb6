"""How good the scorer is: agreement with the judge and with experts, and how cheating replies rank.

Everything takes a `Predictor`, aggregated empathy of requests, so that the shipped scorer and the networks of a
cross-check are measured by the same lines.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from scipy.stats import spearmanr

from reward_servers.empathy.data import RatedReply, by_place
from reward_servers.empathy.phrases import Pool
from reward_servers.empathy.probes import ProbeKind, build_probes
from reward_servers.protocol import Dimension, EmpathyScore, ScoreRequest

Predictor = Callable[[Sequence[ScoreRequest]], list[float]]


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of N predictions with N ratings: rank correlation, and mean absolute error on the scale of 1 to 5."""

    spearman: float
    mae: float
    count: int


@dataclass(frozen=True, slots=True)
class FamilyReport:
    """How one family of probes ranks over N turns.

    Attributes:
        mean: mean aggregated empathy of its texts.
        below_every_honest: share of turns where the probe scores below all systems' replies to that turn.
        below_its_honest: share where it scores below the one reply that it was made from.
    """

    mean: float
    below_every_honest: float
    below_its_honest: float
    count: int


def agreement(predicted: Sequence[float], wanted: Sequence[float]) -> Agreement:
    """Spearman's rho and mean absolute error."""
    rho = float(spearmanr(predicted, wanted).statistic)
    return Agreement(rho, fmean(abs(p - w) for p, w in zip(predicted, wanted, strict=True)), len(predicted))


def judge_agreement(predict: Predictor, replies: Sequence[RatedReply]) -> Agreement:
    """Agreement of the aggregated empathy with the judge's."""
    return agreement(predict([reply.request for reply in replies]), [reply.rating.aggregated for reply in replies])


def probe_bases(replies: Sequence[RatedReply]) -> list[RatedReply]:
    """One honest reply per turn, the systems in rotation."""
    groups = sorted(by_place(replies).items(), key=lambda item: item[0])
    return [group[number % len(group)] for number, (_, group) in enumerate(groups)]


def probe_requests(base: RatedReply, number: int, pool: Pool = Pool.TEST) -> dict[ProbeKind, ScoreRequest]:
    """The probes made of one honest reply."""
    texts = build_probes(base.history, base.reply, seed=number, pool=pool)
    return {kind: ScoreRequest(f"{kind}/{number}", base.history, text) for kind, text in texts.items()}


def rank_probes(predict: Predictor, replies: Sequence[RatedReply]) -> dict[ProbeKind, FamilyReport]:
    """Every family against all honest replies to the same turn, the stock phrases being ones never trained on."""
    honest: dict[tuple[str, int], list[float]] = defaultdict(list)
    own: dict[str, float] = {}
    for reply, score in zip(replies, predict([reply.request for reply in replies]), strict=True):
        honest[reply.place].append(score)
        own[reply.request.id] = score
    bases = probe_bases(replies)
    probes = [probe_requests(base, number) for number, base in enumerate(bases)]
    reports = {}
    for kind in ProbeKind:
        scores = predict([requests[kind] for requests in probes])
        pairs = list(zip(scores, bases, strict=True))
        reports[kind] = FamilyReport(
            mean=fmean(scores),
            below_every_honest=fmean(score < min(honest[base.place]) for score, base in pairs),
            below_its_honest=fmean(score < own[base.request.id] for score, base in pairs),
            count=len(pairs),
        )
    return reports


def off_topic_share(predict: Predictor, replies: Sequence[RatedReply]) -> float:
    """Share of turns where a system's reply beats the same system's reply to another conversation at that place."""
    bases = probe_bases(replies)
    swapped = []
    for number, base in enumerate(bases):
        others = [r for r in replies if r.system == base.system and r.conversation != base.conversation]
        other = others[(number * 37) % len(others)]
        swapped.append(ScoreRequest(f"swapped/{number}", base.history, other.reply))
    own, foreign = predict([base.request for base in bases]), predict(swapped)
    return fmean(a > b for a, b in zip(own, foreign, strict=True))


def expert_agreement(
    predict: Predictor, gold: Sequence[RatedReply], experts: Iterable[Path], held_out: frozenset[str]
) -> Agreement:
    """Mean predicted empathy of a conversation's gold replies against the mean of the experts' aggregates.

    Args:
        gold: rated replies of the human system.
        experts: csv files with one row per conversation.
        held_out: the conversations to compare on.
    """
    ratings: dict[str, list[float]] = defaultdict(list)
    for path in experts:
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                values = EmpathyScore(tuple(float(row[dimension.value]) for dimension in Dimension))
                ratings[row["conversation_id"]].append(values.aggregated)
    chosen = [reply for reply in gold if reply.conversation in held_out and reply.conversation in ratings]
    scores: dict[str, list[float]] = defaultdict(list)
    for reply, score in zip(chosen, predict([reply.request for reply in chosen]), strict=True):
        scores[reply.conversation].append(score)
    names = sorted(scores)
    return agreement([fmean(scores[name]) for name in names], [fmean(ratings[name]) for name in names])
