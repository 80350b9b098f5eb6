"""What is said to everybody is found across prompts, never within the replies to one of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl.stock import stock_shares


def test_by_hand():
    shares = stock_shares(
        [
            ["I'm here for you, truly.", "The exam was unfair."],
            ["Your dog was family. I’m here for you."],
            ["What did your brother say?"],
        ]
    )
    # the phrase of four words was said to one of the two others: it weighs 1/2
    assert shares[0] == [pytest.approx(4 / 5 * 1 / 2), 0.0]
    assert shares[1] == [pytest.approx(4 / 8 * 1 / 2)]
    assert shares[2] == [0.0]


def test_a_word_counts_with_the_weightiest_phrase_that_it_stands_in():
    a, b, c = "one two three four five", "zero one two three four", "one two three four"
    # "one two three four" is in all three; "two three four five" is in the first alone
    assert stock_shares([[a], [b], [c]]) == [[pytest.approx(4 / 5)], [pytest.approx(4 / 5)], [1.0]]


def test_replies_to_the_same_prompt_may_agree():
    assert stock_shares([["it is all right to cry"] * 8, ["who told you that then"]]) == [[0.0] * 8, [0.0]]


def test_nothing_to_compare_with():
    assert stock_shares([["tell me more about that", "", "yes"]]) == [[0.0, 0.0, 0.0]]
    assert stock_shares([]) == []


@given(st.lists(st.lists(st.text(alphabet="ab. ", max_size=30), max_size=3), max_size=4))
def test_a_share_lies_between_nothing_and_all(texts):
    shares = stock_shares(texts)
    assert [len(group) for group in shares] == [len(group) for group in texts]
    assert all(0 <= share <= 1 for group in shares for share in group)
