"""The shipped conversations: enough of them, varied, short, and never the same twice."""

from __future__ import annotations

from collections import Counter, defaultdict
from statistics import mean

import pytest

from dialogue.conversation import Conversation, Role
from dialogue.leaks import leaks_labels
from dialogue.loaders import load_conversations


@pytest.fixture(scope="module")
def starter() -> list[Conversation]:
    return load_conversations("starter")


@pytest.fixture(scope="module")
def replies(starter: list[Conversation]) -> list[str]:
    return [turn.text for talk in starter for turn in talk.turns if turn.role is Role.SUPPORTER]


def test_there_are_enough_and_each_ends_with_the_supporter(starter: list[Conversation]) -> None:
    assert len(starter) >= 72
    assert all(2 <= len(talk.supporter_turns()) <= 4 for talk in starter)
    assert all(talk.turns[-1].role is Role.SUPPORTER for talk in starter)


def test_replies_are_short(replies: list[str]) -> None:
    words = [len(reply.split()) for reply in replies]
    assert min(words) >= 25
    assert max(words) <= 80
    assert 40 <= mean(words) <= 50


@pytest.mark.parametrize(("words", "share"), [(1, 0.08), (2, 0.03), (3, 0.02)])
def test_openings_vary(replies: list[str], words: int, share: float) -> None:
    openings = Counter(tuple(reply.lower().split()[:words]) for reply in replies)
    opening, count = openings.most_common(1)[0]
    assert count <= share * len(replies), f"{count} of {len(replies)} replies start with {' '.join(opening)!r}"


def test_many_replies_ask_and_many_do_not(replies: list[str]) -> None:
    asking = sum("?" in reply for reply in replies) / len(replies)
    assert 0.2 <= asking <= 0.5


def test_seekers_differ_in_length(starter: list[Conversation]) -> None:
    first = [len(talk.turns[0].text.split()) for talk in starter]
    assert min(first) <= 12
    assert max(first) >= 60


def test_no_eight_words_stand_in_two_conversations(starter: list[Conversation]) -> None:
    homes: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for talk in starter:
        for turn in talk.turns:
            words = turn.text.lower().split()
            for i in range(len(words) - 7):
                homes[tuple(words[i : i + 8])].add(talk.id)
    assert len(homes) > 10_000
    assert {" ".join(gram): ids for gram, ids in homes.items() if len(ids) > 1} == {}


def test_no_reply_shows_labels_or_headings(replies: list[str]) -> None:
    assert [reply for reply in replies if leaks_labels(reply)] == []


def test_danger_is_met_with_immediate_signposting(starter: list[Conversation]) -> None:
    in_danger = [talk for talk in starter if talk.id.startswith("crisis-")]
    assert len(in_danger) == 3
    for talk in in_danger:
        early = " ".join(turn.text.lower() for turn in talk.turns[:4] if turn.role is Role.SUPPORTER)
        assert "emergency number" in early
