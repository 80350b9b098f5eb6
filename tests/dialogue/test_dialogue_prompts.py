"""What each of the three system prompts says, and which messages a supporter turn is written from."""

from __future__ import annotations

import pytest

from dialogue.conversation import Conversation, Role, Turn
from dialogue.leaks import leaks_labels
from dialogue.prompts import PromptMode, chat_messages, system_prompt
from dialogue.tactics import DEFINITIONS, TACTICS, Tactic, count_tactics

TALK = Conversation(
    "a",
    (
        Turn(Role.SEEKER, "My cat is ill."),
        Turn(Role.SUPPORTER, "Oh no."),
        Turn(Role.SEEKER, "He sleeps."),
        Turn(Role.SUPPORTER, "Good."),
    ),
)
COUNTS = count_tactics([[Tactic.VALIDATION, Tactic.ADVICE], [Tactic.VALIDATION]])


@pytest.mark.parametrize("mode", PromptMode)
def test_every_prompt_asks_for_one_short_reply_without_headings(mode: PromptMode) -> None:
    prompt = system_prompt(mode, COUNTS)
    assert "one warm, natural reply" in prompt
    assert "under 200 tokens" in prompt
    assert "no headings" in prompt


def test_the_simple_prompt_is_short_and_names_no_tactic() -> None:
    prompt = system_prompt(PromptMode.simple)
    assert len(prompt.split()) < 45
    assert not any(definition in prompt for definition in DEFINITIONS.values())


@pytest.mark.parametrize("mode", [PromptMode.tactics, PromptMode.tactics_history])
def test_the_others_define_all_ten_tactics(mode: PromptMode) -> None:
    prompt = system_prompt(mode, COUNTS)
    assert all(f"{t.value.replace('_', ' ')}: {DEFINITIONS[t]}" in prompt for t in TACTICS)


def test_history_names_what_was_used_how_often_and_what_was_not() -> None:
    lines = system_prompt(PromptMode.tactics_history, COUNTS).splitlines()
    assert "Your previous reply used: advice (1x), validation (2x)." in lines
    assert lines[-1] == (
        "Not used yet: information, assistance, emotional expression, paraphrasing, self disclosure, questioning, "
        "reappraisal, empowerment. Prefer one of these where it fits."
    )


@pytest.mark.parametrize(
    ("counts", "ending"),
    [
        (None, "This is your first reply: nothing has been used yet."),
        ((0,) * 10, "Your previous reply used none of them."),
    ],
)
def test_history_without_tactics(counts: tuple[int, ...] | None, ending: str) -> None:
    assert system_prompt(PromptMode.tactics_history, counts).endswith(ending)


def test_history_with_all_ten_used_lists_none_as_unused() -> None:
    assert "Not used yet" not in system_prompt(PromptMode.tactics_history, (1,) * 10)


@pytest.mark.parametrize("mode", [PromptMode.simple, PromptMode.tactics])
def test_only_the_history_prompt_reads_the_counts(mode: PromptMode) -> None:
    assert system_prompt(mode, COUNTS) == system_prompt(mode, None)


def test_wrong_number_of_counts_is_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        system_prompt(PromptMode.tactics_history, (1, 2))


def test_messages_are_the_system_prompt_and_the_history_before_the_turn() -> None:
    assert chat_messages(TALK, 3, PromptMode.tactics_history, COUNTS) == [
        {"role": "system", "content": system_prompt(PromptMode.tactics_history, COUNTS)},
        {"role": "user", "content": "My cat is ill."},
        {"role": "assistant", "content": "Oh no."},
        {"role": "user", "content": "He sleeps."},
    ]


def test_the_first_supporter_turn_has_no_previous_one_even_when_given_zeros() -> None:
    first = chat_messages(TALK, 1, PromptMode.tactics_history, (0,) * 10)
    assert first[0]["content"] == system_prompt(PromptMode.tactics_history, None)
    assert len(first) == 2


@pytest.mark.parametrize("index", [0, 2, 4, -1])
def test_only_supporter_turns_are_written(index: int) -> None:
    with pytest.raises(ValueError, match=r"'a' has no supporter turn at index .* \[1, 3\]"):
        chat_messages(TALK, index, PromptMode.simple)


def test_missing_counts_are_not_taken_for_a_first_reply() -> None:
    with pytest.raises(ValueError, match=r"'a', turn 3: .*tactics_history"):
        chat_messages(TALK, 3, PromptMode.tactics_history, None)


def test_the_simple_prompt_itself_shows_no_labels() -> None:
    assert not leaks_labels(system_prompt(PromptMode.simple))
