"""What is read of a model's candidates and of a judge's ratings, and what is not."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dialogue.conversation import Message
from evaluation.lend_an_ear.judge import judge_question, read_ratings_of
from evaluation.lend_an_ear.verbalised import Candidate, instruction, parse_candidates, pick
from evaluation.replies import Reply
from reward_servers.protocol import Dimension


def block(text: str, probability: str) -> str:
    return f"<response>\n<text>{text}</text>\n<probability>{probability}</probability>\n</response>"


def test_candidates_as_they_were_asked_for() -> None:
    answer = "Here:\n" + block(" I hear you.\nGo on. ", "0.7") + block("Oh no.", "0.3")
    assert parse_candidates(answer) == (Candidate("I hear you.\nGo on.", 0.7), Candidate("Oh no.", 0.3))


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        (block("a", "25%"), 0.25),
        (block("a", " .5 "), 0.5),
        (block("a", "1"), 1.0),
        (block("a", "0.4").upper().replace("A</", "a</").replace(">A", ">a"), 0.4),
        (block("a", "0.4") + block("b", "0.6")[:-12], 0.4),  # the second was cut off
        (block("a", "0.4") + block("b", "2"), 0.4),
        (block("a", "0.4") + block(" ", "0.2"), 0.4),
        (block("b", "high") + block("a", "0.4"), 0.4),
        ("<response>" + block("a", "0.4"), 0.4),  # opened twice
        (block("a</text><text>b", "0.4"), None),  # two texts: which one?
        (block("a", "0"), None),
        (block("a", "-0.3"), None),
        (block("a", "0.3 or 0.4"), None),
        (block("a", "150%"), None),
        (block("a", ""), None),
        ("<text>a</text><probability>0.3</probability>", None),
        ("I hear you.", None),
        ("", None),
    ],
)
def test_only_whole_candidates_are_read(answer: str, read: float | None) -> None:
    assert parse_candidates(answer) == (None if read is None else (Candidate("a", read),))


@given(
    st.text(max_size=200)
    | st.lists(
        st.sampled_from(
            ["<response>", "</response>", "<text>", "</text>", "<probability>", "</probability>", "0.2", "%"]
        )
        | st.text(max_size=3),
        max_size=40,
    ).map("".join)
)
@settings(max_examples=200, deadline=None)
def test_no_answer_breaks_the_parser(answer: str) -> None:
    for candidate in parse_candidates(answer) or ():
        assert candidate.text.strip() and candidate.text in answer and 0 < candidate.probability <= 1


@given(st.lists(st.tuples(st.text("ab .!", min_size=1).filter(str.strip), st.integers(1, 100)), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_what_is_written_in_the_form_is_read_back(written: list[tuple[str, int]]) -> None:
    answer = "\n".join(block(text, f"{parts / 100}") for text, parts in written)
    expected = tuple(Candidate(text.strip(), parts / 100) for text, parts in written)
    assert parse_candidates(answer) == expected


def test_the_draw_follows_the_weights_and_its_seed() -> None:
    candidates = (Candidate("rare", 0.1), Candidate("often", 0.3))  # weights 1 : 3, though they add up to 0.4
    drawn = Counter(pick(candidates, seed, "turn") for seed in range(2000))
    assert drawn[1] / 2000 == pytest.approx(0.75, abs=0.04)
    assert [pick(candidates, 7, "turn") for _ in range(3)] == [pick(candidates, 7, "turn")] * 3
    assert len({pick(candidates, 7, f"turn {i}") for i in range(40)}) == 2  # turns do not share their luck


def test_the_instruction_can_be_followed_to_the_letter() -> None:
    example = instruction(3).splitlines()[-1].replace("a number between 0 and 1", "0.5")
    assert parse_candidates(example) == (Candidate("the reply", 0.5),)


def ratings(**changes: object) -> str:
    return json.dumps({dimension.value: 3 for dimension in Dimension} | changes)


@pytest.mark.parametrize("around", ["{}", "```json\n{}\n```", "<think>hm {{</think>\n{}"])
def test_a_judges_answer(around: str) -> None:
    answer = around.replace("{}", ratings(advice_giving=5)).replace("{{", "{")
    assert read_ratings_of(Reply("q", answer)) == (3, 3, 3, 5, 3, 3)


@pytest.mark.parametrize(
    "answer",
    [
        ratings(advice_giving=6),
        ratings(advice_giving=0),
        ratings(advice_giving=3.5),
        ratings(advice_giving="3"),
        ratings(advice_giving=True),
        ratings(advice_giving=None),
        ratings(humour=3),
        ratings()[:-4],
        json.dumps({"advice_giving": 3}),
        "All threes.",
        "",
    ],
)
def test_ratings_are_never_guessed(answer: str) -> None:
    assert read_ratings_of(Reply("q", answer)) is None


@given(st.text(max_size=200))
@settings(max_examples=60, deadline=None)
def test_no_answer_breaks_the_reading_of_ratings(answer: str) -> None:
    assert read_ratings_of(Reply("q", answer)) is None


def test_the_judge_sees_who_said_what_and_all_six_names() -> None:
    said = (("user", "I failed."), ("assistant", "Oh."), ("user", "Yes."))
    history = [Message(role=role, content=text) for role, text in said]
    system, asked = judge_question("q", history, "What now?").messages
    assert asked["content"].index("Seeker: I failed.") < asked["content"].index("Supporter: Oh.")
    assert asked["content"].endswith("[The reply to rate]\nSupporter: What now?")
    assert all(f'"{dimension.value}": n' in system["content"] for dimension in Dimension)
