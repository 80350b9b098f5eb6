"""The pictures of `rapport evaluate diversity --plots`: which there are, whether they are drawn, what lies in front."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from chain_cases import released_entries
from typer.testing import CliRunner

from evaluation.commands import app
from evaluation.diversity_plots import Look, front_of, looks_of
from evaluation.files import EvaluationDataError
from evaluation.ratings import CONVERSATION, TURN
from evaluation.systems import REPLIES_FILE
from reward_servers.protocol import Dimension


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """Gold and a system with a name that a picture could stumble over, both rated by one rater."""
    for name, tactics in (("gold", ["validation"]), ("a$b$", ["questioning", "advice"])):
        folder = tmp_path / "outputs" / name
        folder.mkdir(parents=True)
        entries = [entry | {"sentence_tactics": [tactics]} for entry in released_entries()]
        (folder / REPLIES_FILE).write_text(json.dumps(entries))
        rows = [f"{e['conversation_id']},{len(e['conversation_history'])},4,3,4,2,1,1" for e in entries]
        header = ",".join([CONVERSATION, TURN, *(dimension.value for dimension in Dimension)])
        (folder / "rapport-scorer_ratings.csv").write_text("\n".join([header, *rows]))
    return tmp_path / "outputs"


def draw(outputs: Path, plots: Path, *options: str) -> str:
    call = ["diversity", str(outputs), "--out", str(plots.parent / "d.json"), "--plots", str(plots), *options]
    return CliRunner().invoke(app, call, catch_exceptions=False).output


def test_every_picture_is_drawn(outputs: Path, tmp_path: Path) -> None:
    said = draw(outputs, tmp_path / "png")
    assert "8 pictures" in said and "not drawn" not in said
    pictures = {path.name: path.read_bytes() for path in (tmp_path / "png").iterdir()}
    expected = {"prevalence.png", "stickiness.png", "similarity.png", "pareto.png"}
    expected |= {f"{kind}-{name}.png" for kind in ("transitions", "co-occurrence") for name in ("gold", "a$b$")}
    assert set(pictures) == expected
    assert all(image.startswith(b"\x89PNG") and len(image) > 8000 for image in pictures.values())


def test_svg_holds_text_and_names_the_scorer(outputs: Path, tmp_path: Path) -> None:
    draw(outputs, tmp_path / "svg", "--format", "svg")
    pareto = (tmp_path / "svg" / "pareto.svg").read_text()
    assert "empathy (scorer)" in pareto and "a$b$" in pareto


def test_without_ratings_the_picture_of_empathy_is_left_out_and_said_so(outputs: Path, tmp_path: Path) -> None:
    (outputs / "a$b$" / "rapport-scorer_ratings.csv").unlink()
    assert "not drawn: empathy against stickiness (no ratings of a$b$)" in draw(outputs, tmp_path / "p")
    assert not (tmp_path / "p" / "pareto.png").exists()
    assert "it compares with people's turns" in draw(outputs, tmp_path / "p", "--previous", "own")


def test_a_place_that_cannot_be_written_is_told_at_once(outputs: Path, tmp_path: Path) -> None:
    with pytest.raises(EvaluationDataError, match="there is no folder"):
        draw(outputs, tmp_path / "no" / "where", "--out", str(tmp_path / "d.json"))


def test_the_front_is_what_no_other_beats() -> None:
    points = [(0.5, 4.5), (0.4, 3.9), (0.45, 3.9), (0.6, 4.4), (0.2, 2.9), (math.nan, 5.0), (0.2, 2.9)]
    assert front_of(points) == [4, 6, 1, 0]  # two equal ones are both in front
    assert front_of([]) == []


def test_no_two_of_many_systems_look_alike() -> None:
    names = [f"system {i}" for i in range(24)]
    looks = looks_of([*names, "gold"], "gold")
    drawn = {(look.colour, look.marker, look.dash) for look in looks.values()}
    assert len(drawn) == 25 and looks["gold"] == Look("#1b1f24", "o", "solid")
