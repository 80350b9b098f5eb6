"""Mixing: the shares are those of the formula, nothing is skipped, and a resumed run draws the same."""

from __future__ import annotations

import json
import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sft.batching import LengthGroups
from sft.examples import Source
from sft.mixing import Draw, MixingError, MixtureSampler, mixing_shares

A, B, C = Source.EMPATHETIC_DIALOGUES, Source.ESCONV, Source.GOEMOTIONS
REAL = {A: 19_564, B: 987, C: 30_587}


def test_shares_by_hand() -> None:
    """Square roots of 400, 100 and 2,500 are 20, 10 and 50."""
    assert mixing_shares({A: 400, B: 100, C: 2500}, 0.5) == pytest.approx({A: 0.25, B: 0.125, C: 0.625})
    assert mixing_shares({A: 30, B: 10}, 1.0) == pytest.approx({A: 0.75, B: 0.25})
    assert mixing_shares({A: 30, B: 10}, 0.0) == pytest.approx({A: 0.5, B: 0.5})


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_realised_shares_match_the_formula(alpha: float) -> None:
    """Within four standard errors of a binomial, on the sizes of the real data."""
    sampler = MixtureSampler(REAL, alpha, seed=1)
    counted = Counter(sampler.draw().source for _ in range(10_000))
    assert counted == sampler.drawn
    for source, share in mixing_shares(REAL, alpha).items():
        bound = 4 * math.sqrt(share * (1 - share) / 10_000)
        assert sampler.realised_shares()[source] == pytest.approx(share, abs=bound)


sizes_of = st.dictionaries(st.sampled_from(list(Source)), st.integers(1, 30), min_size=1)


@settings(max_examples=40, deadline=None)
@given(sizes_of, st.floats(0, 1), st.integers(0, 9), st.integers(0, 80))
def test_a_resumed_sampler_draws_what_the_first_would_have(
    sizes: dict[Source, int], alpha: float, seed: int, before: int
) -> None:
    sampler, other = MixtureSampler(sizes, alpha, seed), MixtureSampler(sizes, alpha, seed)
    for _ in range(before):
        sampler.draw()
    other.load_state_dict(json.loads(json.dumps(sampler.state_dict())))
    assert [sampler.draw() for _ in range(50)] == [other.draw() for _ in range(50)]


@settings(max_examples=40, deadline=None)
@given(sizes_of, st.integers(0, 9))
def test_every_example_comes_once_before_any_comes_again(sizes: dict[Source, int], seed: int) -> None:
    sampler = MixtureSampler(sizes, 0.5, seed)
    draws = [sampler.draw() for _ in range(sampler.draws_per_epoch)]
    for source, size in sizes.items():
        places = [draw.place for draw in draws if draw.source is source]
        for start in range(0, len(places), size):
            one_pass = places[start : start + size]
            assert len(set(one_pass)) == len(one_pass) and set(one_pass) <= set(range(size))


def test_passes_differ_and_so_do_seeds() -> None:
    sampler = MixtureSampler({A: 50}, 0.5, seed=0)
    first, second = ([sampler.draw().place for _ in range(50)] for _ in range(2))
    assert first != second and sorted(first) == sorted(second) == list(range(50))
    other = MixtureSampler({A: 50}, 0.5, seed=1)
    assert [other.draw().place for _ in range(50)] != first


@pytest.mark.parametrize(
    ("sizes", "alpha", "said"),
    [({}, 0.5, "no source"), ({A: 0, B: 1}, 0.5, "empathetic_dialogues has no examples"), ({A: 1}, -1, "alpha is -1")],
)
def test_mixtures_that_cannot_be(sizes: dict[Source, int], alpha: float, said: str) -> None:
    with pytest.raises(MixingError, match=said):
        MixtureSampler(sizes, alpha, 0)


def test_a_state_of_another_mixture_is_refused() -> None:
    state = MixtureSampler({A: 5}, 0.5, 0).state_dict()
    for other in (MixtureSampler({A: 6}, 0.5, 0), MixtureSampler({A: 5}, 1.0, 0), MixtureSampler({A: 5}, 0.5, 1)):
        with pytest.raises(MixingError, match="differs from the checkpoint"):
            other.load_state_dict(state)


def length(draw: Draw) -> int:
    """Made up: from 1 to 100, without order."""
    return draw.place * 37 % 100 + 1


def groups(batch_size: int = 4, window_batches: int = 8) -> LengthGroups:
    return LengthGroups(MixtureSampler({A: 500, B: 100}, 0.5, 3), length, batch_size, window_batches)


def test_length_groups_use_the_draws_of_the_sampler_once_each_and_waste_little() -> None:
    grouped = groups()
    batches = [grouped.next_batch() for _ in range(16)]
    sampler = MixtureSampler({A: 500, B: 100}, 0.5, 3)
    plain = [sampler.draw() for _ in range(64)]
    for start in (0, 32):
        window = [draw for batch in batches[start // 4 : start // 4 + 8] for draw in batch]
        assert Counter(window) == Counter(plain[start : start + 32])

    def padded(rows: list[list[Draw]]) -> int:
        return sum(max(map(length, row)) * len(row) for row in rows)

    assert padded(batches) < 0.8 * padded([plain[start : start + 4] for start in range(0, 64, 4)])
    longest = [max(map(length, batch)) for batch in batches[:8]]
    assert longest != sorted(longest), "batches are shuffled, so that training does not go from short to long"


@pytest.mark.parametrize("before", [0, 1, 7, 8, 9, 20])
def test_length_groups_resume_in_the_middle_of_a_window(before: int) -> None:
    first, second = groups(), groups()
    for _ in range(before):
        first.next_batch()
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert [first.next_batch() for _ in range(20)] == [second.next_batch() for _ in range(20)]


def test_length_groups_refuse_other_sizes() -> None:
    with pytest.raises(ValueError, match="checkpoint"):
        groups(batch_size=2).load_state_dict(groups().state_dict())
    with pytest.raises(ValueError, match="at least 1"):
        groups(batch_size=0)
