"""`rapport tag`: what a line becomes, and what happens to a file that cannot be read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from dialogue.tactics import TACTICS
from reward_servers.tactics.commands import tag
from reward_servers.tactics.encoder_tagger import EncoderTagger
from reward_servers.tactics.tag_file import TagFileError, Tagged, tag_file


@pytest.fixture(scope="module")
def tagger() -> EncoderTagger:
    return EncoderTagger.load()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    lines = [
        {"id": 7, "response": "I'm so sorry. What happened?"},
        {"response": "One sentence; two parts.", "sentences": ["One sentence;", "two parts."]},
        {"response": ""},
    ]
    path.write_text("\n\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    return path


def test_every_reply_gets_tactics_and_keeps_its_keys(source: Path, tmp_path: Path, tagger: EncoderTagger) -> None:
    assert tag_file(source, tmp_path / "out.jsonl", tagger) == Tagged(replies=3, sentences=4, agreement=None)
    first, second, empty = map(json.loads, (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines())
    assert first["id"] == 7
    assert first["sentences"] == ["I'm so sorry.", "What happened?"]
    assert [len(row) for row in first["sentence_tactic_probabilities"]] == [10, 10]
    assert "questioning" in first["sentence_tactics"][1]
    assert {t for row in first["sentence_tactics"] for t in row} <= {t.value for t in TACTICS}
    assert second["sentences"] == ["One sentence;", "two parts."]
    assert len(second["sentence_tactics"]) == 2
    assert empty["sentences"] == empty["sentence_tactics"] == empty["sentence_tactic_probabilities"] == []


def test_tagging_the_output_again_changes_nothing(source: Path, tmp_path: Path, tagger: EncoderTagger) -> None:
    tag_file(source, tmp_path / "once.jsonl", tagger)
    tag_file(tmp_path / "once.jsonl", tmp_path / "twice.jsonl", tagger)
    assert (tmp_path / "once.jsonl").read_bytes() == (tmp_path / "twice.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{not json", "not JSON"),
        ("[1]", "expected an object"),
        ('{"text": "hi"}', '"response"'),
        ('{"response": 3}', '"response"'),
        ('{"response": "hi", "sentences": "hi"}', '"sentences"'),
    ],
)
def test_a_bad_line_is_named_and_nothing_is_left_behind(
    source: Path, tmp_path: Path, tagger: EncoderTagger, line: str, complaint: str
) -> None:
    source.write_text(f'{{"response": "fine"}}\n{line}\n', encoding="utf-8")
    target = tmp_path / "out.jsonl"
    target.write_text("old", encoding="utf-8")
    with pytest.raises(TagFileError, match=f"in.jsonl, line 2: .*{complaint}"):
        tag_file(source, target, tagger)
    assert target.read_text(encoding="utf-8") == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


def test_the_input_is_never_overwritten(source: Path, tagger: EncoderTagger) -> None:
    before = source.read_bytes()
    with pytest.raises(TagFileError, match="overwrite the input"):
        tag_file(source, source.parent / "." / source.name, tagger)
    assert source.read_bytes() == before


def test_a_folder_that_is_not_there_is_named(source: Path, tmp_path: Path, tagger: EncoderTagger) -> None:
    with pytest.raises(TagFileError, match="nowhere"):
        tag_file(source, tmp_path / "nowhere" / "out.jsonl", tagger)
    (tmp_path / "out.jsonl").mkdir()
    with pytest.raises(TagFileError, match="it is a folder"):  # and not after all has been tagged
        tag_file(source, tmp_path / "out.jsonl", tagger)


def test_the_command_refuses_a_missing_file_and_tags_a_good_one(source: Path, tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(tag)
    good = CliRunner().invoke(app, [str(source), "--out", str(tmp_path / "out.jsonl")])
    assert good.exit_code == 0, good.output
    bad = CliRunner().invoke(app, [str(tmp_path / "missing.jsonl"), "--out", str(tmp_path / "other.jsonl")])
    assert isinstance(bad.exception, TagFileError)  # which `rapport` ends with one line and code 2
    assert not (tmp_path / "other.jsonl").exists()
