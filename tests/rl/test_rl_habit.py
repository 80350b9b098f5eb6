"""A tactic is a habit where the replies to other people are full of it; the replies to one person may agree."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dialogue.tactics import Tactic
from rl.habit import habit_shares

A, Q, V = (Tactic.ADVICE,), (Tactic.QUESTIONING,), (Tactic.VALIDATION,)
NONE: tuple[Tactic, ...] = ()


def test_by_hand():
    shares = habit_shares([[(V, Q), (A,)], [(Q, Q)], [(Q, V)]], ceiling=0.25)
    # To the others the first prompt's policy asked in 3 of 4 sentences and validated in 1 of 4.
    assert shares[0] == [pytest.approx((0.0 + (3 / 4 - 1 / 4)) / 2), 0.0]
    # For the second, the others have 5 sentences: two ask, two validate, one advises.
    assert shares[1] == [pytest.approx(2 / 5 - 1 / 4)]
    # For the third, three of five ask, one validates.
    assert shares[2] == [pytest.approx((3 / 5 - 1 / 4) / 2)]


def test_a_sentence_counts_as_much_as_its_most_overused_tactic():
    both = (Tactic.QUESTIONING, Tactic.VALIDATION)
    assert habit_shares([[(both,)], [(Q, Q, Q, V)]], 0.0)[0] == [pytest.approx(3 / 4)]


def test_replies_to_the_same_prompt_may_agree_and_up_to_the_ceiling_all_may():
    assert habit_shares([[(Q,)] * 8, [(V, A, NONE, NONE)]], 0.25) == [[0.0] * 8, [0.0]]


def test_nothing_to_compare_with():
    assert habit_shares([[(Q, Q), ()]], 0.0) == [[0.0, 0.0]]
    assert habit_shares([[(Q,)], [()]], 0.0) == [[0.0], [0.0]]
    assert habit_shares([], 0.0) == []


replies = st.lists(st.lists(st.sets(st.sampled_from(Tactic)).map(tuple), max_size=4).map(tuple), max_size=3)


@given(st.lists(replies, max_size=4), st.floats(0, 1))
def test_a_share_lies_between_nothing_and_what_the_ceiling_leaves(tactics, ceiling):
    shares = habit_shares(tactics, ceiling)
    assert [len(group) for group in shares] == [len(group) for group in tactics]
    assert all(0 <= share <= max(0.0, 1 - ceiling) + 1e-12 for group in shares for share in group)
