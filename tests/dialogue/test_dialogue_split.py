"""Splits are by conversation, deterministic, and blind to the order of the input."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dialogue.conversation import Conversation, Role, Turn
from dialogue.split import split_conversations
from dialogue.thinking import strip_thinking


def talks(count: int) -> list[Conversation]:
    return [Conversation(f"c{i}", (Turn(Role.SEEKER, "a"), Turn(Role.SUPPORTER, "b"))) for i in range(count)]


@given(st.integers(2, 40), st.floats(0.01, 0.99), st.integers(0, 5), st.randoms())
def test_a_split_is_a_partition_that_ignores_order(count: int, fraction: float, seed: int, random: object) -> None:
    conversations = talks(count)
    shuffled = list(conversations)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    train, held_out = split_conversations(conversations, fraction, seed)
    assert (train, held_out) == split_conversations(shuffled, fraction, seed)
    assert sorted(c.id for c in train + held_out) == sorted(c.id for c in conversations)
    assert len(held_out) == min(max(round(fraction * count), 1), count - 1)


def test_a_split_written_down_stays_what_it_was() -> None:
    _, held_out = split_conversations(talks(10), 0.3, seed=0)
    assert [c.id for c in held_out] == ["c4", "c7", "c9"]


def test_seeds_give_different_splits() -> None:
    splits = {tuple(c.id for c in split_conversations(talks(40), 0.2, seed)[1]) for seed in range(5)}
    assert len(splits) == 5


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_impossible_fractions(fraction: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        split_conversations(talks(5), fraction, 0)


def test_one_conversation_cannot_be_split() -> None:
    with pytest.raises(ValueError, match="cannot split 1"):
        split_conversations(talks(1), 0.5, 0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I hear you.", "I hear you."),
        ("<think>\nhe is sad\n</think>\n\nI hear you.", "I hear you."),
        ("\n <think></think>I hear you. ", "I hear you. "),
        ("<think>a</think> <think>b</think> I hear you.", "I hear you."),
        ("<think>he is sad and", ""),
        ("I <think>hear</think> you.", "I <think>hear</think> you."),
        ("", ""),
    ],
)
def test_thinking_is_taken_off_only_at_the_start(text: str, expected: str) -> None:
    assert strip_thinking(text) == expected


@given(st.lists(st.sampled_from(["<think>", "</think>", "a", " "])).map("".join))
def test_stripping_twice_is_stripping_once(text: str) -> None:
    assert strip_thinking(strip_thinking(text)) == strip_thinking(text)
    assert not strip_thinking(text).lstrip().startswith("<think>")
