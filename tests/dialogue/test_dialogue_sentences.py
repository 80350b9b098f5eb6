"""Sentences are exact slices of the reply, and there are as many as the released tags say."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dialogue.sentences import sentence_spans, split_sentences
from dialogue.thinking import strip_thinking

# Any text, and text made of what makes cutting hard.
texts = st.one_of(
    st.text(max_size=200),
    st.lists(
        st.sampled_from(["Dr.", "no", "Why", "?", "!", ".", "...", "\u2026", "\u201d", '"', ")", " ", "\n", "3."])
    ).map("".join),
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" \n\t ", []),
        ("I hear you", ["I hear you"]),
        ("  I hear you.  What happened?\n", ["I hear you.", "What happened?"]),
        ("Dr. Ahn called. She was kind.", ["Dr. Ahn called.", "She was kind."]),
        ("No!! Really? Yes.", ["No!!", "Really?", "Yes."]),
        ('He said "go." Then he left.', ['He said "go."', "Then he left."]),
        ("Stay.\n\nBreathe.", ["Stay.", "Breathe."]),
    ],
)
def test_plain_cuts(text: str, expected: list[str]) -> None:
    assert split_sentences(text) == expected


@pytest.mark.parametrize(
    "text",
    ["He said \u201cgo.\u201d Then he left.", "I waited\u2026 Nobody came.", "She said \u2018stop.\u2019 I did."],
)
def test_curly_quotes_and_the_ellipsis_character_never_close_a_sentence(text: str) -> None:
    assert split_sentences(text) == [text]


@settings(deadline=None)  # the first example may load the model
@given(texts)
def test_only_white_space_lies_between_sentences_and_order_is_kept(text: str) -> None:
    end_before = 0
    for start, end in sentence_spans(text):
        assert start >= end_before
        assert not text[end_before:start].strip()
        assert text[start:end] and text[start:end] == text[start:end].strip()
        end_before = end
    assert not text[end_before:].strip()


@settings(deadline=None)  # the first example may load the model
@given(texts)
def test_sentences_are_the_text_at_their_spans(text: str) -> None:
    assert split_sentences(text) == [text[start:end] for start, end in sentence_spans(text)]


@settings(deadline=None)  # the first example may load the model
@given(st.lists(st.sampled_from(["I hear you.", "What happened?", "Oh no!", "That was brave of you."]), max_size=6))
def test_a_sentence_cut_out_of_plain_prose_stays_whole(sentences: list[str]) -> None:
    text = " ".join(sentences)
    assert split_sentences(text) == sentences
    assert [split_sentences(sentence) for sentence in sentences] == [[sentence] for sentence in sentences]


def test_threads_that_ask_first_at_once_get_the_same_sentences() -> None:
    text = "I hear you. What happened? Dr. Ahn is in."
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(split_sentences, [text] * 64))
    assert results == [["I hear you.", "What happened?", "Dr. Ahn is in."]] * 64


def test_as_many_sentences_as_released_tags(real_data: Path) -> None:
    checked, wrong = 0, []
    for file in sorted((real_data / "mint" / "outputs").glob("*/conversations_tagged.json")):
        for i, row in enumerate(json.loads(file.read_text(encoding="utf-8"))):
            found, tagged = len(split_sentences(strip_thinking(row["model_response"]))), len(row["sentence_tactics"])
            checked += 1
            if found != tagged:
                wrong.append(f"{file.parent.name}[{i}]: {found} sentences, {tagged} tags")
    assert (checked, wrong) == (3780, [])
