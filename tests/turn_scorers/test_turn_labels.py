"""From EmpatheticDialogues to labels: the right speaker, three candidates, five items, one formula."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from turn_cases import dialogue, made_labels, write_dialogues

from dialogue.conversation import Message
from dialogue.emotions import Feeling
from dialogue.model_answer import UnreadableAnswerError
from reward_servers.turn_scorers.augment import Kind, candidates, stripped
from reward_servers.turn_scorers.dialogues import DialogueError, Split, read_listener_turns
from reward_servers.turn_scorers.items import Item, formula_items
from reward_servers.turn_scorers.labels import (
    LabelError,
    explained_by_kind,
    hybrid_label,
    labelled,
    read_labels,
    write_labels,
)
from reward_servers.turn_scorers.llm_items import item_messages, parse_items
from reward_servers.turn_scorers.original_csv import OriginalFileError

SAID = (Message(role="user", content="My sister moved abroad and the house is silent."),)


def test_every_listener_turn_is_read_with_all_that_was_said_before_it(tmp_path: Path) -> None:
    turns = read_listener_turns(write_dialogues(tmp_path, train=1, others=0))
    assert [turn.id for turn in turns] == ["c0/1", "c0/3"]
    assert [len(turn.history) for turn in turns] == [1, 3]
    assert all(turn.history[-1]["role"] == "user" for turn in turns)
    assert turns[0].reply == "That sounds scary, did the dog bite you?" and turns[0].feeling is Feeling.AFRAID


def test_a_smaller_limit_takes_conversations_of_a_larger_one(tmp_path: Path) -> None:
    write_dialogues(tmp_path, train=8, others=3)
    few, more = (read_listener_turns(tmp_path, limit) for limit in (2, 5))
    assert {turn.id for turn in few} < {turn.id for turn in more}
    assert Counter(turn.split for turn in few) == {split: 4 for split in Split}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"turns": [{"role": "listener", "text": "Hm."}]}, "has to alternate, the speaker first"),
        ({"turns": [{"role": "speaker", "text": " "}]}, "expected role speaker or listener, and a text"),
        ({"emotion": "happy"}, "happy"),
        ({"split": "dev"}, "dev"),
    ],
)
def test_a_faulty_dialogue_is_refused_with_its_line(tmp_path: Path, change: dict, said: str) -> None:
    lines = [dialogue(0, Feeling.PROUD, "train"), dialogue(1, Feeling.PROUD, "train") | change]
    path = tmp_path / "d.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    with pytest.raises(DialogueError, match="line 2") as error:
        read_listener_turns(path)
    assert said in str(error.value)


HEADER = "conv_id,utterance_idx,context,prompt,speaker_idx,utterance,selfeval,tags\n"


def test_in_the_original_files_who_speaks_first_is_the_speaker_whatever_the_number(tmp_path: Path) -> None:
    rows = [
        "c1,2,proud,p,3,Well done_comma_ you!,5|5|5,",
        "c1,1,proud,p,9,I learned to swim.,5|5|5,",
        "c1,3,proud,p,3,Was it cold?,5|5|5,",
        "c1,4,proud,p,9,A little.,5|5|5,",
    ]
    (tmp_path / "test.csv").write_text(HEADER + "\n".join(rows) + "\n", encoding="utf-8")
    [turn] = read_listener_turns(tmp_path)
    assert (turn.reply, turn.split) == ("Well done, you! Was it cold?", Split.TEST)
    assert turn.history == (Message(role="user", content="I learned to swim."),)
    (tmp_path / "valid.csv").write_text(HEADER + rows[0] + "\n", encoding="utf-8")  # utterance 1 is not there
    with pytest.raises(OriginalFileError, match="1 of 1 conversations are faulty, as at line 2"):
        read_listener_turns(tmp_path)


@pytest.mark.parametrize(
    ("reply", "items"),
    [
        ("I'm so sorry. You must miss your sister.", (1, 1, 1, 1, 0)),
        ("Calm down, you should have called her.", (0, 0, 0, 0, 0)),
        ("How are you filling the silent house?", (0, 0, 1, 1, 1)),
        ("Bananas are yellow.", (0, 0, 1, 0, 0)),
        ("", (0, 0, 0, 0, 0)),
    ],
)
def test_the_formula_reads_five_items(reply: str, items: tuple[int, ...]) -> None:
    assert dict(zip(Item, formula_items(SAID, reply), strict=True)) == dict(zip(Item, items, strict=True))


@pytest.mark.parametrize(
    ("reply", "left"),
    [
        ("I'm sorry to hear that. Where did she move?", "Where did she move?"),
        ("That sounds lonely, when is she back?", "When is she back?"),
        ("Where did she move?", None),  # nothing to take out
        ("I'm so sorry.", None),  # nothing left
    ],
)
def test_a_stripped_reply_lost_its_empathic_clauses_and_only_those(reply: str, left: str | None) -> None:
    assert stripped(reply) == left


def test_a_foreign_reply_is_of_the_same_split_and_of_another_feeling(tmp_path: Path) -> None:
    turns = read_listener_turns(write_dialogues(tmp_path))
    found = candidates(turns, seed=3)
    assert found == candidates(turns, seed=3)
    replies = {split: {(t.reply, t.feeling) for t in turns if t.split is split} for split in Split}
    foreign = [candidate for candidate in found if candidate.kind is Kind.RANDOM]
    assert len(foreign) == len(turns)
    for candidate in foreign:
        owners = {feeling for reply, feeling in replies[candidate.split] if reply == candidate.reply}
        assert owners - {candidate.feeling}


@pytest.mark.parametrize(
    ("kind", "rule", "llm", "label"),
    [
        (Kind.ORIGINAL, 3, 4, 0.2 * 3.4 + 0.3 * 4.2 + 0.5 * 5),  # 4.44
        (Kind.STRIPPED, 1, 1, 0.2 * 1.8 + 0.3 * 1.8 + 0.5 * 3),  # 2.4
        (Kind.RANDOM, 0, 0, 1.25),
        (Kind.ORIGINAL, 5, 5, 5.0),
        (Kind.ORIGINAL, 3, None, (0.2 * 3.4 + 0.5 * 5) / 0.7),
    ],
)
def test_the_label_is_the_published_formula(kind: Kind, rule: int, llm: int | None, label: float) -> None:
    def items(ones: int) -> tuple[int, ...]:
        return (1,) * ones + (0,) * (5 - ones)

    assert hybrid_label(kind, items(rule), None if llm is None else items(llm)) == pytest.approx(label, abs=1e-12)


def test_a_foreign_reply_has_no_items_whatever_it_says(tmp_path: Path) -> None:
    foreign = next(c for c in candidates(read_listener_turns(write_dialogues(tmp_path)), 0) if c.kind is Kind.RANDOM)
    assert labelled(foreign, (1, 1, 1, 1, 1)).label == 1.25


def test_labels_survive_the_file_and_tampered_ones_are_refused(tmp_path: Path) -> None:
    replies = made_labels(tmp_path)
    path = tmp_path / "labels.jsonl"
    replies[0] = replace(replies[0], reply="Two lines\u2028in one,\x85and more.")  # which are no line's end in JSON
    write_labels(path, replies)
    assert read_labels(path) == replies
    wrong = [*replies[:1], replace(replies[1], label=replies[1].label - 0.5)]
    path.write_text("\n".join(json.dumps(asdict(reply)) for reply in wrong), encoding="utf-8")
    with pytest.raises(LabelError, match="line 2: label"):
        read_labels(path)
    ones = (1,) * 5
    judged = replace(replies[0], llm=ones, label=hybrid_label(Kind.ORIGINAL, replies[0].rule, ones))
    write_labels(path, [replies[0], judged])
    with pytest.raises(LabelError, match="some labels"):
        read_labels(path)


def test_the_share_that_the_kind_explains_is_eta_squared(tmp_path: Path) -> None:
    first, *_ = made_labels(tmp_path)
    values = [(Kind.ORIGINAL, 5.0), (Kind.ORIGINAL, 4.0), (Kind.RANDOM, 1.0), (Kind.RANDOM, 2.0)]
    replies = [replace(first, kind=kind, label=label) for kind, label in values]
    assert explained_by_kind(replies) == pytest.approx(1 - 1.0 / 10.0)  # within 4 x 0.25; in all 4 + 1 + 4 + 1


def test_the_question_shows_conversation_and_reply_and_asks_for_all_items(tmp_path: Path) -> None:
    candidate = candidates(read_listener_turns(write_dialogues(tmp_path)), 0)[0]
    system, user = item_messages(candidate)
    assert all(item.value in system["content"] for item in Item)
    assert candidate.reply in user["content"] and candidate.history[0]["content"] in user["content"]


def answer_of(values: dict[str, object]) -> str:
    return json.dumps({item.value: 1 for item in Item} | values)


def test_an_answer_may_be_fenced_and_thought_about_and_in_any_order() -> None:
    backwards = json.dumps({item.value: int(item is Item.AFFIRMATION) for item in reversed(Item)})
    assert parse_items(f"<think>hm</think>\n```json\n{backwards}\n```") == (1, 0, 0, 0, 0)


@pytest.mark.parametrize(
    "answer",
    [
        "5",
        "yes",
        "[1, 1, 1, 1, 1]",
        answer_of({})[:-1],
        "I think: " + answer_of({}),
        answer_of({"affirmation": True}),
        answer_of({"affirmation": 2}),
        answer_of({"kindness": 1}),
        answer_of({})[:-1] + ', "affirmation": 0}',
    ],
)
def test_an_answer_that_is_not_what_was_asked_for_is_never_guessed(answer: str) -> None:
    with pytest.raises(UnreadableAnswerError):
        parse_items(answer)


@given(st.text() | st.recursive(st.integers() | st.text() | st.booleans(), st.lists).map(json.dumps))
def test_no_text_gives_anything_but_five_items_or_a_complaint(answer: str) -> None:
    try:
        items = parse_items(answer)
    except UnreadableAnswerError:
        return
    assert len(items) == 5 and set(items) <= {0, 1}
