"""Labels that were meant for the supporter only must be caught; the same words in plain speech must not."""

from __future__ import annotations

import pytest

from dialogue.leaks import leaks_labels

LEAKS = [
    "**Validation**: Of course you are tired.",
    "*Paraphrasing* It sounds like a lot.",
    "(Empowerment) You got this far.",
    "Validation: that makes sense.",
    "I hear you. Questioning: what happened?",
    "1. Reappraisal: maybe it was not about you.",
    "**1. Reappraisal** maybe it was not about you.",
    "### My answer\nI am sorry.",
    "I used emotional_expression here.",
    "- Self-disclosure\nI lost a dog once.",
    "[questioning] How long has it been?",
    "Emotional Expression: I'm so sorry.",
]
PLAIN = [
    "That is good advice from your sister.",
    "I do not have enough information to say.",
    "You were questioning yourself all week.",
    "Validation is something we all need.",
    "Here is one thing: rest.",
    "I am *so* sorry (and a little angry too).",
    "My advice? Sleep first.",
    "Room #3 is where they sent you, right?",
    "",
]


@pytest.mark.parametrize("text", LEAKS)
def test_a_label_is_a_leak(text):
    assert leaks_labels(text)


@pytest.mark.parametrize("text", PLAIN)
def test_plain_speech_is_not(text):
    assert not leaks_labels(text)
