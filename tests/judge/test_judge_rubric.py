"""A judge's answer is six whole ratings or an error; nothing in between is made up."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dialogue.model_answer import UnreadableAnswerError
from evaluation.judge.rubric import IN_ORDER, REVERSED, judge_messages, parse_answer
from reward_servers.protocol import Dimension

SIX = (4, 3, 5, 2, 1, 1)


def answer(*values: object) -> str:
    return json.dumps({dimension.value: value for dimension, value in zip(Dimension, values, strict=True)})


@given(ratings=st.tuples(*[st.integers(1, 5)] * 6), order=st.permutations(list(Dimension)), fence=st.booleans())
def test_what_was_asked_for_is_read_in_any_order(ratings: tuple[int, ...], order: list[Dimension], fence: bool) -> None:
    of = dict(zip(Dimension, ratings, strict=True))
    text = json.dumps({dimension.value: of[dimension] for dimension in order}, indent=1)
    assert parse_answer(f"```json\n{text}\n```" if fence else text) == ratings


def test_a_thinking_block_before_the_answer_is_taken_off() -> None:
    assert parse_answer(f"<think>\nwarm, but {{advice}}\n</think>\n{answer(*SIX)}\n") == SIX


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "not one JSON object"),
        (f"Here you are: {answer(*SIX)}", "not one JSON object"),
        (f"{answer(*SIX)} I hope this helps.", "not one JSON object"),
        (f"{answer(*SIX)}{answer(*SIX)}", "not one JSON object"),
        ("[4, 3, 5, 2, 1, 1]", "expected an object"),
        (answer(*SIX).replace('"advice_giving": 2, ', ""), "missing or unknown: advice_giving"),
        (answer(*SIX).replace("{", '{"overall": 4, ', 1), "missing or unknown: overall"),
        (answer(*SIX).replace("{", '{"advice_giving": 2, ', 1), "twice"),
        (answer(4, 3, 5, 6, 1, 1), "advice_giving is 6"),
        (answer(4, 3, 5, 0, 1, 1), "advice_giving is 0"),
        (answer(4, 3, 5, 2.5, 1, 1), "advice_giving is 2.5"),
        (answer(4, 3, 5, "2", 1, 1), "advice_giving is '2'"),
        (answer(4, 3, 5, True, 1, 1), "advice_giving is True"),
        (answer(4, 3, 5, None, 1, 1), "advice_giving is None"),
        ("[" * 100_000, "not one JSON object"),
        (answer(*SIX).replace("2", "2" * 5000), "not one JSON object"),
    ],
)
def test_anything_else_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(UnreadableAnswerError, match=complaint):
        parse_answer(text)


@given(st.text() | st.recursive(st.none() | st.integers() | st.text(), lambda x: st.lists(x)).map(json.dumps))
def test_any_text_is_six_ratings_or_an_error(text: str) -> None:
    try:
        ratings = parse_answer(text)
    except UnreadableAnswerError:
        return
    assert len(ratings) == 6 and all(1 <= rating <= 5 for rating in ratings)


@pytest.mark.parametrize("order", [IN_ORDER, REVERSED])
def test_the_question_names_every_dimension_once_in_each_list_in_the_given_order(order: tuple[Dimension, ...]) -> None:
    system, user = judge_messages("Seeker: I am sad.\nSupporter: I am here.\n", order)
    places = [system["content"].index(f"- {dimension.value}:") for dimension in order]
    assert places == sorted(places)
    form = system["content"].rpartition("nothing else: ")[2]
    assert list(json.loads(form.replace(": n", ": 1"))) == [dimension.value for dimension in order]
    assert user["content"] == "<conversation>\nSeeker: I am sad.\nSupporter: I am here.\n</conversation>"
