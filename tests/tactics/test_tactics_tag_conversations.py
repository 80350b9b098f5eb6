"""`rapport tag` on whole conversations: MINT's file, our own, and a system's outputs that have tags already."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from dialogue.loaders import DataError, load_conversations, load_report
from dialogue.tactics import TACTICS, Tactic
from reward_servers.failures import UnfitItemError
from reward_servers.tactics.commands import app, tag
from reward_servers.tactics.encoder_tagger import EncoderTagger
from reward_servers.tactics.tag_file import TagFileError, tag_file

SEEKER = "My flight was cancelled and I miss the wedding."
SUPPORTER = "I'm so sorry to hear that. What will you do now?"


class WordTagger:
    """A tagger whose verdicts are known beforehand: questions ask, a sentence with "sorry" expresses emotion."""

    version = "words-1"

    def __init__(self, stop_at: int | None = None) -> None:
        self.calls: list[list[str]] = []
        self._stop_at = stop_at

    def tag(self, replies: Any) -> list[Any]:
        if self._stop_at is not None and len(self.calls) == self._stop_at:
            raise KeyboardInterrupt
        self.calls += [list(reply) for reply in replies]
        return [np.array([self._row(s) for s in reply], dtype=np.float32).reshape(-1, 10) for reply in replies]

    def decide(self, probabilities: Any) -> tuple[tuple[Tactic, ...], ...]:
        return tuple(tuple(t for t, p in zip(TACTICS, row, strict=True) if p >= 0.5) for row in probabilities)

    def _row(self, sentence: str) -> list[float]:
        said = {Tactic.QUESTIONING: "?" in sentence, Tactic.EMOTIONAL_EXPRESSION: "sorry" in sentence}
        return [0.9 if said.get(tactic) else 0.125 for tactic in TACTICS]


def mint(conversation_id: str, **extra: object) -> dict[str, Any]:
    turns = [{"role": "seeker", "content": SEEKER}, {"role": "supporter", "content": SUPPORTER}]
    return {"conversation_id": conversation_id, "source": "own", "conversation": turns, **extra}


def write(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_untagged_conversations_become_tagged_ones(tmp_path: Path) -> None:
    source = write(tmp_path / "in.json", [mint("a", topic="travel"), mint("b")])
    done = tag_file(source, tmp_path / "out.json", WordTagger())
    assert (done.replies, done.sentences, done.agreement) == (2, 4, None)
    first, _ = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert (first["conversation_id"], first["source"], first["topic"]) == ("a", "own", "travel")
    seeker, supporter = first["conversation"]
    assert seeker == {"role": "seeker", "content": SEEKER}
    assert supporter["sentences"] == ["I'm so sorry to hear that.", "What will you do now?"]
    assert supporter["sentence_tactics"] == [["emotional_expression"], ["questioning"]]
    assert supporter["tactic_counts"] == {"emotional_expression": 1, "questioning": 1}
    assert supporter["sentence_tactic_probabilities"][1] == [0.125] * 7 + [0.9, 0.125, 0.125]
    assert load_conversations(tmp_path / "out.json") == load_conversations(source)  # still conversations for training


def test_our_own_conversations_keep_their_layout(tmp_path: Path) -> None:
    turns = [{"role": "seeker", "text": SEEKER}, {"role": "supporter", "text": SUPPORTER}]
    source = write(tmp_path / "in.jsonl", {"id": "x", "turns": turns})
    tag_file(source, tmp_path / "out.jsonl", WordTagger())
    [line] = (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["turns"][1]["tactic_counts"] == {"emotional_expression": 1, "questioning": 1}
    assert load_conversations(tmp_path / "out.jsonl") == load_conversations(source)


def test_the_agreement_is_with_the_tags_that_were_there(tmp_path: Path) -> None:
    """20 yes-or-no of two sentences, one of which differs; the third reply is cut otherwise."""
    entries = [
        {"model_response": SUPPORTER, "sentence_tactics": [["emotional_expression"], ["questioning", "advice"]]},
        {"model_response": "Nothing."},
        {"model_response": SUPPORTER, "sentence_tactics": [["advice"]]},
    ]
    agreement = tag_file(write(tmp_path / "in.json", entries), tmp_path / "out.json", WordTagger()).agreement
    assert agreement is not None
    assert (agreement.sentences, agreement.replies_cut_otherwise) == (2, 1)
    assert agreement.equal == pytest.approx(19 / 20)
    assert agreement.macro_f1[TACTICS.index(Tactic.QUESTIONING)] == 1.0
    assert agreement.macro_f1[TACTICS.index(Tactic.ADVICE)] == pytest.approx((0 + 2 / 3) / 2)
    tagged = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert tagged[0]["sentence_tactics"] == [["emotional_expression"], ["questioning"]]


def test_a_run_that_was_stopped_goes_on_where_it_was(tmp_path: Path) -> None:
    lines = "".join(json.dumps({"response": f"Line {i}? I see."}) + "\n" for i in range(40))
    (tmp_path / "in.jsonl").write_text(lines, encoding="utf-8")
    tag_file(tmp_path / "in.jsonl", tmp_path / "whole.jsonl", WordTagger())
    with pytest.raises(KeyboardInterrupt):
        tag_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl", WordTagger(stop_at=16))
    assert not (tmp_path / "out.jsonl").exists()
    with (tmp_path / ".out.jsonl.tags").open("a", encoding="utf-8") as journal:
        journal.write('["half a li')
    second = WordTagger()
    tag_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl", second)
    assert len(second.calls) == 24
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl", "whole.jsonl"]


def test_progress_begins_with_what_an_earlier_run_did_and_ends_with_all(tmp_path: Path) -> None:
    lines = "".join(json.dumps({"response": f"Line {i}? I see."}) + "\n" for i in range(40))
    (tmp_path / "in.jsonl").write_text(lines, encoding="utf-8")
    with pytest.raises(KeyboardInterrupt):
        tag_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl", WordTagger(stop_at=16))
    told: list[tuple[int, int]] = []
    tag_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl", WordTagger(), lambda n, of: told.append((n, of)))
    assert told == [(16, 40), (32, 40), (40, 40)]


class ShortTagger(WordTagger):
    """Reads replies of at most five words."""

    def check(self, text: str, sentences: tuple[str, ...]) -> None:
        if len(text.split()) > 5:
            raise UnfitItemError(f"{len(text.split())} words, and 5 are allowed")


def test_a_reply_that_the_tagger_cannot_read_is_named_before_any_is_tagged(tmp_path: Path) -> None:
    source = write(
        tmp_path / "in.json", [{"model_response": "I see."}, {"model_response": "One two three four five six."}]
    )
    tagger = ShortTagger()
    with pytest.raises(TagFileError, match=r"in\.json, entry 1: 6 words, and 5 are allowed"):
        tag_file(source, tmp_path / "out.json", tagger)
    assert tagger.calls == []


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ([{"text": "hi"}], "entry 0: expected .*conversation.* or .*model_response"),
        ([mint("a"), {"model_response": "hi"}], "entry 1: missing"),
        ([{"model_response": "hi", "sentence_tactics": [["kindness"]]}], "entry 0: .*sentence_tactics"),
        ([{"model_response": 4}], "entry 0: .*model_response"),
        ([mint("a"), mint("a")], "this id was seen before"),
    ],
)
def test_a_bad_entry_is_named(content: object, complaint: str, tmp_path: Path) -> None:
    with pytest.raises((TagFileError, DataError), match=complaint):
        tag_file(write(tmp_path / "in.json", content), tmp_path / "out.json", WordTagger())


def test_the_command_prints_the_agreement(tmp_path: Path) -> None:
    source = write(tmp_path / "in.json", [{"model_response": SUPPORTER, "sentence_tactics": [[], ["questioning"]]}])
    outer = typer.Typer()
    outer.command()(tag)
    said = CliRunner().invoke(outer, [str(source), "--out", str(tmp_path / "out.json")])
    assert said.exit_code == 0, said.output
    assert "1 replies, 2 sentences tagged" in said.output
    assert "tagging: 0 of 1" in said.output and "tagging: 1 of 1" in said.output  # in a log, too
    assert "agreement with the tags in the file, 2 sentences" in " ".join(said.output.split())


def test_one_group_teaches_both_kinds() -> None:
    said = CliRunner().invoke(app, ["--help"]).output
    for command in ("train", "evaluate", "train-lora", "adopt", "evaluate-lora"):
        assert command in said


@pytest.mark.real_data
def test_the_untagged_322_conversations_become_the_tagged_training_file(real_data: Path, tmp_path: Path) -> None:
    """Killed on the way and started again; what is tagged is still the same training data."""
    source, target = real_data / "mint" / "conversations_322.json", tmp_path / "tagged.json"
    with pytest.raises(KeyboardInterrupt):
        tag_file(source, target, WordTagger(stop_at=1600))
    second = WordTagger()
    done = tag_file(source, target, second)
    assert done.replies == 1719
    assert 0 < len(second.calls) <= 119  # of which some equal a reply that is known already
    before, after = load_report(source), load_report(target)
    assert after.conversations == before.conversations and len(after.conversations) == 322
    turns = [turn for talk in json.loads(target.read_text("utf-8")) for turn in talk["conversation"]]
    tagged = [turn for turn in turns if turn["role"] == "supporter"]
    assert len(tagged) == 1719
    assert all(len(turn["sentences"]) == len(turn["sentence_tactics"]) > 0 for turn in tagged)
    assert all(sum(turn["tactic_counts"].values()) == sum(map(len, turn["sentence_tactics"])) for turn in tagged)


@pytest.mark.real_data
def test_the_released_layout_is_read_and_its_tags_compared(real_data: Path, tmp_path: Path) -> None:
    gold = json.loads((real_data / "mint" / "outputs" / "gold" / "conversations_tagged.json").read_text("utf-8"))
    done = tag_file(write(tmp_path / "gold.json", gold[:20]), tmp_path / "out.json", EncoderTagger.load())
    assert done.agreement is not None
    assert done.agreement.replies_cut_otherwise == 0
    assert done.agreement.equal > 0.8
