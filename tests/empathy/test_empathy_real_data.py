"""Floors on the held-out conversations, a little below what the shipped weights were measured at (see their card)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from reward_servers.empathy.data import by_place, held_out_conversations, load_ratings, split_by_conversation
from reward_servers.empathy.evaluation import judge_agreement, rank_probes
from reward_servers.empathy.probes import ProbeKind
from reward_servers.empathy.recipe import evaluate_scorer
from reward_servers.empathy.scorer import EmpathyScorer
from reward_servers.protocol import ScoreRequest

# Share of held-out turns where a probe ranks below all twelve honest replies; measured on all 93 turns.
FLOORS = {
    ProbeKind.SHUFFLED_WORDS: 0.94,
    ProbeKind.SHUFFLED_TAIL: 0.93,
    ProbeKind.TOKEN_NOISE: 0.97,
    ProbeKind.SPLICED_WORDS: 0.95,
    ProbeKind.CHAIN_BABBLE: 0.92,
    ProbeKind.REPEATED_SENTENCE: 0.97,
    ProbeKind.REPEATED_PHRASE: 0.97,
    ProbeKind.COPIED_SEEKER: 0.84,
    ProbeKind.CUT_OFF: 0.70,
    ProbeKind.PLEADING: 0.97,
    ProbeKind.HONEST_AND_PLEADING: 0.88,
    ProbeKind.COMFORT_SPAM: 0.89,
    ProbeKind.TACTIC_LIST: 0.97,
    ProbeKind.HEADINGS: 0.96,
    ProbeKind.OFF_TOPIC: 0.52,
    ProbeKind.SEEKER_ROLE: 0.88,
    ProbeKind.OTHER_LANGUAGE: 0.97,
    ProbeKind.ONE_WORD: 0.97,
    ProbeKind.EMPTY: 1.0,
}


def test_a_few_held_out_turns(real_data: Path):
    scorer = EmpathyScorer.load()

    def predict(requests: Sequence[ScoreRequest]) -> list[float]:
        return [score.aggregated for score in scorer.score(requests)]

    _, unseen = split_by_conversation(load_ratings(real_data / "mint"), held_out_conversations())
    turns = sorted(by_place(unseen))[::12]
    replies = [reply for reply in unseen if reply.place in turns]
    assert judge_agreement(predict, replies).spearman > 0.75
    families = rank_probes(predict, replies)
    assert sum(family.below_every_honest for family in families.values()) / len(families) > 0.85


@pytest.mark.slow
def test_all_held_out_conversations(real_data: Path):
    report = evaluate_scorer(EmpathyScorer.load(), real_data / "mint")
    assert report.judge.spearman > 0.84
    assert report.judge.mae < 0.29
    assert report.off_topic > 0.5
    missed = {kind: family for kind, family in report.families.items() if family.below_every_honest < FLOORS[kind]}
    assert not missed
