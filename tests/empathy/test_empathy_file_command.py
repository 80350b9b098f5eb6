"""`rapport score`: lines in, lines with scores out, or one clear error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from dialogue.conversation import Message
from reward_servers.empathy.commands import score
from reward_servers.empathy.scorer import EmpathyScorer
from reward_servers.protocol import Dimension, ScoreRequest

HISTORY = [
    Message(role="user", content="My cat ran away."),
    Message(role="assistant", content="Oh no."),
    Message(role="user", content="She is all I have left of my grandmother."),
]
RESPONSE = "Then you are missing two of them at once. When did you last see her?"
GOOD: dict[str, object] = {
    "history": HISTORY,
    "response": RESPONSE,
    "note": {"kept": ["as", "it", "is"]},
}


@pytest.fixture
def cli() -> typer.Typer:
    app = typer.Typer()
    app.command()(score)
    return app


def write(path: Path, *lines: object) -> Path:
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    return path


def test_round_trip_keeps_every_key_and_adds_what_the_scorer_says(cli: typer.Typer, tmp_path: Path):
    source = write(tmp_path / "in.jsonl", GOOD, "\n", {**GOOD, "response": ""})
    out = tmp_path / "out.jsonl"
    result = CliRunner().invoke(cli, [str(source), "--out", str(out)])
    assert result.exit_code == 0, result.output
    first, second = map(json.loads, out.read_text().splitlines())
    empathy = first.pop("empathy")
    assert first == GOOD
    assert set(empathy) == {*Dimension, "aggregated_empathy"}
    (expected,) = EmpathyScorer.load().score([ScoreRequest("x", tuple(HISTORY), RESPONSE)])
    assert empathy == {**expected.as_dict(), "aggregated_empathy": expected.aggregated}
    assert second["empathy"]["aggregated_empathy"] == 1.0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        ("{oops\n", "not JSON"),
        ([1], "expected an object"),
        ({"history": HISTORY}, '"response" has to be a string'),
        ({"response": "hi", "history": []}, '"history" has to be a list of messages'),
        ({"response": "hi", "history": [{"role": "friend", "content": "x"}]}, "history[0]"),
        ({"response": "hi", "history": HISTORY[:2]}, "the last message"),
    ],
)
def test_a_bad_line_is_named_and_nothing_is_written(cli: typer.Typer, tmp_path: Path, bad: object, complaint: str):
    source = write(tmp_path / "in.jsonl", GOOD, bad)
    out = write(tmp_path / "out.jsonl", "before\n")
    result = CliRunner().invoke(cli, [str(source), "--out", str(out)])
    said = result.output.replace("\n", " ")
    assert result.exit_code == 2
    assert "in.jsonl, line 2" in said
    assert complaint in said
    assert out.read_text() == "before\n"


def test_where_nothing_can_be_written_is_told_before_the_scorer_is_loaded(cli: typer.Typer, tmp_path: Path):
    source = write(tmp_path / "in.jsonl", GOOD)
    for out, complaint in (
        (tmp_path / "nowhere" / "out.jsonl", "no such folder"),
        (source, "would overwrite the input"),
        (tmp_path, "it is a folder"),
    ):
        result = CliRunner().invoke(cli, [str(source), "--out", str(out), "--weights", str(tmp_path)])
        assert result.exit_code == 2 and complaint in result.output.replace("\n", " ")
    assert json.loads(source.read_text()) == GOOD


def test_a_missing_file_or_scorer_is_named(cli: typer.Typer, tmp_path: Path):
    result = CliRunner().invoke(cli, [str(tmp_path / "none.jsonl"), "--out", str(tmp_path / "out.jsonl")])
    assert result.exit_code == 2
    assert "none.jsonl" in result.output.replace("\n", "")
    source = write(tmp_path / "in.jsonl", GOOD)
    arguments = [str(source), "--out", str(tmp_path / "out.jsonl"), "--weights", str(tmp_path)]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 2
    assert "scorer.safetensors" in result.output
