"""The builders of cheating replies: deterministic, each what its name says."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dialogue.conversation import Message
from reward_servers.empathy.phrases import POOLS, Pool
from reward_servers.empathy.probes import ProbeKind, build_probes, probe_scores
from reward_servers.protocol import EmpathyScore, ScoreRequest

HISTORY = (Message(role="user", content="My landlord wants me out by Friday and I have no idea where to go."),)
HONEST = "That is so little time, and it must be frightening. Is there someone who could take you in for a few nights?"


def test_same_arguments_same_texts_and_another_seed_other_texts():
    first = build_probes(HISTORY, HONEST, seed=4)
    assert first == build_probes(HISTORY, HONEST, seed=4)
    assert first != build_probes(HISTORY, HONEST, seed=5)


def test_every_family_is_built():
    assert set(build_probes(HISTORY, HONEST, seed=0)) == set(ProbeKind)


@given(honest=st.text(max_size=200), seeker=st.text(max_size=100), seed=st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_any_text_can_be_made_into_probes(honest: str, seeker: str, seed: int):
    probes = build_probes((Message(role="user", content=seeker),), honest, seed)
    assert all(isinstance(text, str) for text in probes.values())


@pytest.mark.parametrize("seed", range(20))
def test_shuffling_keeps_the_words_and_splicing_keeps_their_order(seed: int):
    probes = build_probes(HISTORY, HONEST, seed)
    assert Counter(probes[ProbeKind.SHUFFLED_WORDS].split()) == Counter(HONEST.split())
    assert Counter(probes[ProbeKind.SHUFFLED_TAIL].split()) == Counter(HONEST.split())
    words = iter(probes[ProbeKind.SPLICED_WORDS].split())
    assert all(word in words for word in HONEST.split())


@pytest.mark.parametrize("seed", range(20))
def test_a_cut_reply_is_a_beginning_that_ends_in_the_open(seed: int):
    cut = build_probes(HISTORY, HONEST, seed)[ProbeKind.CUT_OFF]
    assert HONEST.startswith(cut)
    assert cut[-1] not in ".?!"


@pytest.mark.parametrize("seed", range(10))
def test_repetitions_repeat(seed: int):
    probes = build_probes(HISTORY, HONEST, seed)
    sentence = probes[ProbeKind.REPEATED_SENTENCE]
    assert max(Counter(sentence.split()).values()) >= 3
    assert max(Counter(probes[ProbeKind.REPEATED_PHRASE].split()).values()) >= 5


def test_nothing_to_read_in_the_empty_family():
    texts = {build_probes(HISTORY, HONEST, seed)[ProbeKind.EMPTY] for seed in range(20)}
    assert "" in texts
    assert not any(c.isalnum() for text in texts for c in text)


def test_the_pools_share_no_line():
    train, test = POOLS[Pool.TRAIN], POOLS[Pool.TEST]
    for field in ("comfort", "pleas", "tactics", "words", "foreign", "off_topic", "seeker"):
        assert not set(getattr(train, field)) & set(getattr(test, field)), field
    # salad words overlap only in function words
    assert len(set(train.salad.split()) & set(test.salad.split())) <= 12


class LengthScorer:
    """Scores by length: a stand-in whose ranks are known by hand."""

    def score(self, requests):
        return [EmpathyScore((min(5.0, 1 + len(r.response) / 50), 1, 1, 5, 5, 5)) for r in requests]


def test_probe_scores_by_hand():
    report = probe_scores(LengthScorer(), [ScoreRequest("a", HISTORY, HONEST)])
    assert report[ProbeKind.EMPTY].share_below_honest == 1.0
    assert report[ProbeKind.EMPTY].highest <= 1 + 3 / 50 / 6
    assert report[ProbeKind.HONEST_AND_PLEADING].share_below_honest == 0.0
    with pytest.raises(ValueError, match="at least one"):
        probe_scores(LengthScorer(), [])
