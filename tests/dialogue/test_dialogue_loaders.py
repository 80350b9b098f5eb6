"""Loading tells the format from the content, loses nothing silently, and says where a fault is."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dialogue.conversation import Conversation, Role, Turn
from dialogue.loaders import SILENCE, DataError, load_conversations, load_report, save_conversations

SEEKER, SUPPORTER = Role.SEEKER, Role.SUPPORTER
TALK = Conversation("a", (Turn(SEEKER, "My cat is ill."), Turn(SUPPORTER, "Oh no.\nHow is he now?")), "kitchen")


def ours(**changes: Any) -> dict[str, Any]:
    record = {"id": "a", "turns": [{"role": "seeker", "text": "hi"}, {"role": "supporter", "text": "hello"}]}
    return record | changes


def turns(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "text": text} for role, text in pairs]


def write_lines(folder: Path, *records: object) -> Path:
    file = folder / "talk.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return file


def write_mint(folder: Path, *talks: list[tuple[str, str]]) -> Path:
    entries = [
        {
            "conversation_id": f"c{i}",
            "source": "s",
            "model": "m",
            "conversation": [{"role": role, "content": text} for role, text in talk],
        }
        for i, talk in enumerate(talks)
    ]
    file = folder / "mint.json"
    file.write_text(json.dumps(entries), encoding="utf-8")
    return file


def test_ours_is_read(tmp_path: Path) -> None:
    file = write_lines(
        tmp_path, ours(source="kitchen", turns=turns(("seeker", " My cat is ill. "), ("supporter", "Oh.")))
    )
    assert load_conversations(file) == [
        Conversation("a", (Turn(SEEKER, "My cat is ill."), Turn(SUPPORTER, "Oh.")), "kitchen")
    ]


def test_mint_is_read(tmp_path: Path) -> None:
    file = write_mint(tmp_path, [("seeker", "My cat is ill."), ("supporter", "Oh.")])
    assert load_conversations(str(file)) == [
        Conversation("c0", (Turn(SEEKER, "My cat is ill."), Turn(SUPPORTER, "Oh.")), "s")
    ]


def test_the_format_is_told_by_content_not_by_name(tmp_path: Path) -> None:
    file = write_mint(tmp_path, [("seeker", "hi"), ("supporter", "hello")])
    assert [c.id for c in load_conversations(file.rename(tmp_path / "mint.jsonl"))] == ["c0"]


def test_a_byte_order_mark_and_blank_lines_are_no_fault(tmp_path: Path) -> None:
    file = tmp_path / "talk.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps(ours()).encode() + b"\r\n\r\n" + json.dumps(ours(id="b")).encode())
    assert [c.id for c in load_conversations(file)] == ["a", "b"]


def test_an_empty_seeker_message_in_mint_becomes_a_counted_silence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = write_mint(
        tmp_path, [("seeker", " "), ("supporter", "Are you there?"), ("seeker", "yes"), ("supporter", "Good.")]
    )
    with caplog.at_level(logging.WARNING):
        loaded = load_report(file)
    assert loaded.silent_turns == 1
    assert loaded.supporter_turns == 2
    assert loaded.conversations[0].turns[0] == Turn(SEEKER, SILENCE)
    assert "1 empty seeker turn" in caplog.text


@pytest.mark.parametrize(
    ("record", "parts"),
    [
        ({"id": "a"}, ["line 1", "missing 'turns'"]),
        ({"turns": []}, ["line 1", "missing 'id'"]),
        (ours(id=7), ["line 1", "'id' is 7", "string"]),
        (ours(id=" "), ["line 1", "non-empty"]),
        (ours(source=3), ["'a'", "'source' is 3"]),
        (ours(turns={}), ["'a'", "'turns' is {}", "list"]),
        (ours(turns=[]), ["'a'", "no turns"]),
        (ours(turns=["hi"]), ["'a'", "turn 0", '"hi"']),
        (ours(turns=[{"role": "seeker"}]), ["'a'", "turn 0", "missing 'text'"]),
        (ours(turns=turns(("user", "hi"))), ["'a'", "turn 0", '"user"', "'seeker' or 'supporter'"]),
        (ours(turns=[{"role": ["seeker"], "text": "hi"}]), ["turn 0", '["seeker"]']),
        (ours(turns=[{"role": "seeker", "text": None}]), ["turn 0", "null", "string"]),
        (ours(turns=turns(("seeker", " \n"))), ["'a'", "turn 0", "empty"]),
        (ours(turns=turns(("seeker", "half \ud83d"))), ["'a'", "turn 0", "surrogate"]),
        (ours(turns=turns(("supporter", "hi"), ("seeker", "hi"))), ["'a'", "turn 0", "supporter", "a seeker turn"]),
        (ours(turns=turns(("seeker", "a"), ("seeker", "b"))), ["'a'", "turn 1", "seeker", "a supporter turn"]),
        (ours(turns=turns(("seeker", "a"))), ["'a'", "no supporter turn"]),
    ],
)
def test_a_fault_is_named_with_its_place(tmp_path: Path, record: object, parts: list[str]) -> None:
    file = write_lines(tmp_path, record)
    with pytest.raises(DataError) as caught:
        load_conversations(file)
    for part in [str(file), "expected", *parts]:
        assert part in str(caught.value)


def test_the_line_counted_is_the_line_of_the_file(tmp_path: Path) -> None:
    file = write_lines(tmp_path, ours(), ours(id="b"), ours(id="a"))
    with pytest.raises(DataError, match=r"line 3, conversation 'a': this id was seen before"):
        load_conversations(file)


def test_mint_faults_name_entry_and_turn(tmp_path: Path) -> None:
    file = write_mint(tmp_path, [("seeker", "hi"), ("supporter", "hello")], [("seeker", "hi"), ("supporter", " ")])
    with pytest.raises(DataError, match=r"entry 1, conversation 'c1', turn 1: 'content' is empty"):
        load_conversations(file)


@pytest.mark.parametrize(
    ("data", "part"),
    [
        (b"", "the file is empty"),
        (b" \n\n", "the file is empty"),
        (b"id,text\n", "starts with b'i'"),
        (b"[]", "no conversation"),
        (b"[1]", "entry 0: found 1; expected an object with the keys 'conversation_id', 'conversation'"),
        (b'{"id": "a", "turns": [', "line 1: not valid JSON"),
        (b'[{"conversation_id": "a"', "cut off"),
        (b'{"id": "a"}\xff', "not UTF-8"),
        (b'{"id": "\xe9"}', "not UTF-8"),
        (b"[" * 200_000, "nested too deeply"),
    ],
)
def test_files_that_are_no_conversations(tmp_path: Path, data: bytes, part: str) -> None:
    file = tmp_path / "bad.json"
    file.write_bytes(data)
    with pytest.raises(DataError) as caught:
        load_conversations(file)
    assert str(file) in str(caught.value)
    assert part in str(caught.value)


def test_a_missing_file_and_a_folder_are_data_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.jsonl: there is no such file"):
        load_conversations(tmp_path / "gone.jsonl")
    with pytest.raises(DataError, match="directory"):
        load_conversations(tmp_path)


def test_saved_conversations_load_as_they_were(tmp_path: Path) -> None:
    file = tmp_path / "out.jsonl"
    other = Conversation(
        "b", (Turn(SEEKER, "line\u2028break \u00e9"), Turn(SUPPORTER, "ok \U0001f642"), Turn(SEEKER, "bye"))
    )
    save_conversations(file, [TALK, other])
    assert load_conversations(file) == [TALK, other]
    assert os.listdir(tmp_path) == ["out.jsonl"]  # noqa: PTH208


said = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).map(str.strip).filter(bool)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(st.lists(st.tuples(said, said), min_size=1, max_size=4))
def test_any_valid_conversation_survives_a_round_trip(tmp_path: Path, pairs: list[tuple[str, str]]) -> None:
    talk = tuple(turn for a, b in pairs for turn in (Turn(SEEKER, a), Turn(SUPPORTER, b)))
    save_conversations(tmp_path / "x.jsonl", [Conversation("x", talk)])
    assert load_conversations(tmp_path / "x.jsonl") == [Conversation("x", talk)]


def test_a_refused_save_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "out.jsonl"
    save_conversations(file, [TALK])
    with pytest.raises(DataError, match="written before"):
        save_conversations(file, [TALK, TALK])
    with pytest.raises(DataError, match="no supporter turn"):
        save_conversations(file, [Conversation("b", TALK.turns[:1])])
    assert load_conversations(file) == [TALK]
    assert os.listdir(tmp_path) == ["out.jsonl"]  # noqa: PTH208


def test_the_322_real_conversations_load_with_every_supporter_turn(real_data: Path) -> None:
    loaded = load_report(real_data / "mint" / "conversations_322.json")
    assert len(loaded.conversations) == 322
    assert loaded.supporter_turns == 1719
    assert loaded.silent_turns == 14
