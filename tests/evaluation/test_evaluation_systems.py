"""The released layout: what is read of it, how systems are paired, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up_systems import (
    GOLD_RATINGS,
    GOLD_TURNS,
    HEADER,
    SYSTEM_RATINGS,
    SYSTEM_TURNS,
    entries,
    entry,
    rating_rows,
    write_outputs,
    write_ratings,
    write_replies,
)

from dialogue.tactics import Tactic, tactics_of_counts
from evaluation.diversity import diversity_of
from evaluation.files import EvaluationDataError
from evaluation.ratings import aggregated, read_conversation_ratings
from evaluation.systems import align, load_system, load_systems, previous_replies
from reward_servers.protocol import Dimension, EmpathyScore


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    return write_outputs(tmp_path / "outputs")


def fault(outputs: Path) -> str:
    """What reading and pairing the systems of `outputs` complains about."""
    with pytest.raises(EvaluationDataError) as caught:
        systems = load_systems(outputs, outputs / "gold")
        align(systems, systems[0])
    assert isinstance(caught.value, ValueError)
    return str(caught.value)


def test_replies_are_read_with_their_tactics_and_ratings(outputs: Path) -> None:
    ours = load_system(outputs / "ours")
    reply = ours.replies[4]
    assert (reply.place, reply.number, reply.previous_place) == (("b", 3), 2, ("b", 1))
    assert tactics_of_counts(reply.counts) == (Tactic.ADVICE, Tactic.EMPOWERMENT)
    assert ours.replies[2].counts[list(Tactic).index(Tactic.QUESTIONING)] == 2
    assert ours.ratings.tolist() == SYSTEM_RATINGS
    assert ours.replies[0].previous_place is None


def test_gold_comes_first_and_only_once(outputs: Path) -> None:
    (outputs / "notes").mkdir()
    assert [system.name for system in load_systems(outputs, outputs / "ours")] == ["ours", "gold"]
    assert [system.name for system in load_systems(outputs)] == ["gold", "ours"]


def test_gold_may_lie_elsewhere(outputs: Path, tmp_path: Path) -> None:
    (outputs / "gold").rename(tmp_path / "people")
    assert [system.name for system in load_systems(outputs, tmp_path / "people")] == ["people", "ours"]


def test_turns_are_paired_whatever_their_order(outputs: Path) -> None:
    write_replies(outputs / "ours", entries(SYSTEM_TURNS)[::-1])
    write_ratings(outputs / "ours", rating_rows(SYSTEM_TURNS, SYSTEM_RATINGS)[::-1])
    gold, ours = load_systems(outputs, outputs / "gold")
    assert ours.places == gold.places[::-1]
    aligned = align([ours], gold)[0]
    assert aligned.places == gold.places
    assert aligned.ratings.tolist() == SYSTEM_RATINGS


def test_shared_turns_on_request(outputs: Path) -> None:
    write_replies(outputs / "ours", entries(SYSTEM_TURNS[:3]))
    write_ratings(outputs / "ours", rating_rows(SYSTEM_TURNS[:3], SYSTEM_RATINGS[:3]))
    gold, ours = load_systems(outputs, outputs / "gold")
    shared = align([gold, ours], gold, shared_only=True)
    assert [system.places for system in shared] == [(("a", 1), ("a", 3), ("a", 5))] * 2
    assert "5" in fault(outputs) and "--shared-turns" in fault(outputs)


def test_the_previous_turn_is_looked_up_in_its_source(outputs: Path) -> None:
    gold, ours = load_systems(outputs, outputs / "gold")
    texts = [reply.text if reply else None for reply in previous_replies(ours.replies, gold)]
    assert texts == [None, "Oh no. What happened?", "What did he say?", None, "Call a friend."]


def test_systems_without_ratings_can_be_read_for_what_needs_none(outputs: Path) -> None:
    (outputs / "ours" / "gpt-oss-120b_ratings.csv").unlink()
    ours = load_systems(outputs, ratings_file=None)[1]
    assert ours.blank_ratings() == 5 * 6


def test_the_aggregate_is_the_protocols_and_skips_a_blank() -> None:
    ratings = np.array([[4, 5, 2, 1, 2, 1], [4, 5, 2, 1, np.nan, 1], [np.nan] * 6])
    whole = EmpathyScore(tuple(ratings[0])).aggregated
    # Without `self_oriented`: (4 + 5 + 2 + (6 - 1) + (6 - 1)) / 5.
    np.testing.assert_allclose(aggregated(ratings), [whole, 4.2, np.nan])


def test_a_rater_of_turns_is_the_mean_over_a_conversation(outputs: Path) -> None:
    means = read_conversation_ratings(outputs / "gold" / "gpt-oss-120b_ratings.csv")
    assert means["b"].tolist() == [2.5, 1, 1.5, 3, 1, 2.5]
    np.testing.assert_allclose(means["a"], np.mean(GOLD_RATINGS[:3], axis=0))


def change(**changes: Any) -> Callable[[Path], None]:
    """Rewrite the third of our entries with other values."""

    def rewrite(folder: Path) -> None:
        array = entries(SYSTEM_TURNS)
        array[2] = entry(*SYSTEM_TURNS[2], **changes)
        write_replies(folder, array)

    return rewrite


def without(key: str) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        array = entries(SYSTEM_TURNS)
        del array[2][key]
        write_replies(folder, array)

    return rewrite


@pytest.mark.parametrize(
    ("rewrite", "parts"),
    [
        (without("sentence_tactics"), ["entry 2, conversation 'a'", "missing 'sentence_tactics'"]),
        (without("conversation_id"), ["entry 2", "missing 'conversation_id'"]),
        (change(conversation_id=7), ["entry 2", "'conversation_id' is 7", "a text"]),
        (change(conversation_id=" "), ["entry 2", "empty"]),
        (change(model_response=None), ["entry 2", "'model_response' is None"]),
        (change(sentence_tactics="advice"), ["entry 2", "'sentence_tactics' is 'advice'", "a list"]),
        (change(sentence_tactics=["advice"]), ["entry 2", "sentence 0", "a list of names"]),
        (change(sentence_tactics=[[], ["advise"]]), ["entry 2", "sentence 1", "'advise' is no tactic", "empowerment"]),
        (change(conversation_history=[]), ["entry 2", "a history of 0 messages"]),
        (change(conversation_history=[{"role": "system"}]), ["entry 2", "message 0", "'user'"]),
        (change(conversation_history=["hello"]), ["entry 2", "message 0", "'hello'"]),
        (lambda folder: write_replies(folder, []), ["the array is empty"]),
        (
            lambda folder: write_replies(folder, entries([*SYSTEM_TURNS, SYSTEM_TURNS[1]])),
            ["entry 5", "turn 3", "already"],
        ),
        (lambda folder: write_replies(folder, entries(SYSTEM_TURNS[:4])), ["line 6", "turn 3", "does not hold"]),
    ],
)
def test_faulty_replies_are_named(outputs: Path, rewrite: Callable[[Path], object], parts: list[str]) -> None:
    rewrite(outputs / "ours")
    message = fault(outputs)
    for part in [str(outputs / "ours"), *parts]:
        assert part in message


def with_cell(row: int, column: str, value: str) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        rows = rating_rows(SYSTEM_TURNS, SYSTEM_RATINGS)
        rows[row][HEADER.index(column)] = value
        write_ratings(folder, rows)

    return rewrite


ROWS = rating_rows(SYSTEM_TURNS, SYSTEM_RATINGS)


@pytest.mark.parametrize(
    ("rewrite", "parts"),
    [
        (
            lambda f: write_ratings(f, [r[:7] + r[8:] for r in ROWS], HEADER[:7] + HEADER[8:]),
            ["line 1", "dismissing_emotions"],
        ),
        (
            lambda f: write_ratings(f, [[r[0], *r[2:]] for r in ROWS], [HEADER[0], *HEADER[2:]]),
            ["line 1", "turn_index"],
        ),
        (with_cell(1, "advice_giving", "six"), ["line 3", "advice_giving is 'six'", "1 to 5"]),
        (with_cell(1, "advice_giving", "6"), ["line 3", "advice_giving is '6'"]),
        (with_cell(1, "advice_giving", "nan"), ["line 3", "advice_giving is 'nan'"]),
        (with_cell(2, "turn_index", "5.0"), ["line 4", "turn_index is '5.0'"]),
        (with_cell(2, "turn_index", "0"), ["line 4", "above 0"]),
        (with_cell(2, "turn_index", "7"), ["none for conversation 'a', turn 5"]),
        (with_cell(2, "conversation_id", " "), ["line 4", "conversation_id is empty"]),
        (with_cell(2, "turn_index", "3"), ["line 4", "conversation 'a', turn 3", "line 3 already"]),
        (lambda folder: write_ratings(folder, ROWS[:4]), ["4 ratings for 5 turns", "conversation 'b', turn 3"]),
    ],
)
def test_faulty_ratings_are_named(outputs: Path, rewrite: Callable[[Path], object], parts: list[str]) -> None:
    rewrite(outputs / "ours")
    message = fault(outputs)
    for part in [str(outputs / "ours" / "gpt-oss-120b_ratings.csv"), *parts]:
        assert part in message


def test_a_blank_rating_is_no_fault_and_is_counted(outputs: Path) -> None:
    with_cell(2, Dimension.SELF_ORIENTED.value, "")(outputs / "ours")
    assert load_system(outputs / "ours").blank_ratings() == 1


def test_turns_that_gold_does_not_have(outputs: Path) -> None:
    more = [*SYSTEM_TURNS, ("b", 5, "Good night.", [[]])]
    write_replies(outputs / "ours", entries(more))
    write_ratings(outputs / "ours", rating_rows(more, [*SYSTEM_RATINGS, [1] * 6]))
    assert "6 turns where gold has 5: conversation 'b', turn 5 is not in gold" in fault(outputs)


def test_a_talk_that_a_system_led_by_itself_is_not_set_against_peoples_turns(outputs: Path) -> None:
    own = entries(SYSTEM_TURNS)
    own[1]["conversation_history"][1]["content"] = "what the system itself had said"
    write_replies(outputs / "ours", own)
    gold, ours = load_systems(outputs, outputs / "gold")
    told = r"ours/conversations_tagged\.json: conversation 'a', turn 3: another history than in .*gold; "
    with pytest.raises(EvaluationDataError, match=told):
        align([gold, ours], gold, shared_only=True)
    with pytest.raises(EvaluationDataError, match=told):
        diversity_of(ours, gold)
    assert diversity_of(ours, ours).system == "ours"


def test_a_gap_in_gold_is_named(outputs: Path) -> None:
    for name, turns, ratings in (("gold", GOLD_TURNS, GOLD_RATINGS), ("ours", SYSTEM_TURNS, SYSTEM_RATINGS)):
        write_replies(outputs / name, entries([*turns[:1], *turns[2:]]))
        write_ratings(outputs / name, rating_rows([*turns[:1], *turns[2:]], [*ratings[:1], *ratings[2:]]))
    gold, ours = load_systems(outputs, outputs / "gold")
    with pytest.raises(EvaluationDataError, match=r"gold.*conversation 'a', turn 3 is missing"):
        previous_replies(ours.replies, gold)


def test_half_a_system_folder_is_not_passed_over(outputs: Path) -> None:
    (outputs / "ours" / "conversations_tagged.json").unlink()
    assert "conversations_tagged.json: there is no such file" in fault(outputs)


def test_a_file_cut_off_in_the_middle(outputs: Path) -> None:
    path = outputs / "ours" / "conversations_tagged.json"
    text = path.read_text(encoding="utf-8")
    path.write_text(text[: text.index('"sentence_tactics"')], encoding="utf-8")
    lines = text[: text.index('"sentence_tactics"')].count("\n") + 1
    assert f"{path}, line {lines}" in fault(outputs)


def test_a_folder_without_systems(tmp_path: Path) -> None:
    with pytest.raises(EvaluationDataError, match="holds no <system>"):
        load_systems(tmp_path)
    gold = write_outputs(tmp_path / "elsewhere") / "gold"
    (tmp_path / "empty").mkdir()
    with pytest.raises(EvaluationDataError, match="empty holds no <system>"):
        load_systems(tmp_path / "empty", gold)  # a table of gold alone would hide the wrong folder
    with pytest.raises(EvaluationDataError, match="not a folder"):
        load_systems(tmp_path / "nowhere")


def test_two_folders_of_one_name(outputs: Path, tmp_path: Path) -> None:
    write_outputs(tmp_path / "other")
    with pytest.raises(EvaluationDataError, match="name of the gold folder"):
        load_systems(outputs, tmp_path / "other" / "gold")


def test_released_files_hold_one_blank_and_the_same_turns(real_data: Path) -> None:
    outputs = real_data / "mint" / "outputs"
    gold = load_system(outputs / "gold")
    collapsed = load_system(outputs / "ours2_q_h_Qwen3-1.7B")
    assert collapsed.blank_ratings() == 1 and gold.blank_ratings() == 0
    assert align([collapsed], gold)[0].places == gold.places
    stored = json.loads((outputs / "gold" / "conversations_tagged.json").read_text(encoding="utf-8"))
    assert [sum(reply.counts) for reply in gold.replies] == [sum(e["tactic_counts"].values()) for e in stored]
