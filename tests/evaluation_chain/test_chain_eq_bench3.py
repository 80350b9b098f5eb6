"""`rapport evaluate eq-bench3`: scenarios read, played, marked and compared, against an endpoint that we direct."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from chain_cases import SCENARIOS, AnsweringEndpoint, write_bench
from typer.testing import CliRunner

from evaluation.commands import app
from evaluation.eq_bench.judging import criteria_of
from evaluation.eq_bench.pairwise import FIRST_CODE, SECOND_CODE
from evaluation.eq_bench.playing import TRUNCATED, for_judge, shortened
from evaluation.eq_bench.rubric import parse_object
from evaluation.eq_bench.scenarios import NO_NOTES, Kind, fill, read_bench
from evaluation.files import EvaluationDataError


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_bench(tmp_path / "data")


def test_scenarios_and_their_kinds(data: Path) -> None:
    bench = read_bench(data)
    assert [(s.id, s.kind, len(s.prompts)) for s in bench.scenarios] == [
        ("1", Kind.ROLE_PLAY, 2),
        ("201", Kind.DRAFTING, 1),
        ("401", Kind.ANALYSIS, 1),
    ]
    assert bench.asked(bench.scenarios[0])[0] == "Your mug is gone.\n\nIt was blue.\n(play it)"
    assert bench.scenarios[2].prompts[0].startswith("# Scenario act 1")  # a heading of the scenario's own
    assert (bench.note("1"), bench.note("401")) == ("It is a small thing.", NO_NOTES)


def test_what_is_filled_in_is_not_filled_in_again() -> None:
    assert fill("{a} {b} {c}", a="{b}", b="x") == "{b} x {c}"


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("######## 1 | Work | The borrowed mug\n", "", "line 1: text before the first scenario"),
        ("######## 201 | Friend | A note", "######## 201 Friend", "line 9: found"),
        ("######## 201 |", "######## 1 |", "line 9: a second scenario '1'"),
        ("####### Prompt2", "####### Prompt3", "line 6: prompt 3 where 2 is due"),
        ("####### Prompt1\nWrite to a friend who moved.", "", "scenario '201' has no prompt"),
        ("Write to a friend who moved.", "", "scenario '201' has no prompt, or an empty one"),
        (SCENARIOS, "", "no scenario"),
    ],
)
def test_faulty_scenarios(data: Path, old: str, new: str, complaint: str) -> None:
    path = data / "scenario_prompts.txt"
    path.write_text(SCENARIOS.replace(old, new))
    with pytest.raises(EvaluationDataError) as caught:
        read_bench(data)
    assert str(path) in str(caught.value) and complaint in str(caught.value)


def test_a_template_without_its_places(data: Path) -> None:
    (data / "rubric_scoring_prompt.txt").write_text("MARK {transcript}")
    with pytest.raises(EvaluationDataError, match=r"rubric_scoring_prompt\.txt: no place for {debrief}, {output_form"):
        read_bench(data)
    (data / "debrief_prompt.txt").unlink()
    with pytest.raises(EvaluationDataError, match=r"debrief_prompt\.txt: there is no such file"):
        read_bench(data)


def test_sections_are_cut_each_for_itself() -> None:
    reply = (
        "# I'm thinking & feeling\n"
        + "x" * 3000
        + "\n\n## They’re thinking & feeling\nsad\n# My response\nHi.\n--\nend"
    )
    shown = for_judge(reply, Kind.ROLE_PLAY, cut=True)
    assert "x" * 2200 + TRUNCATED in shown and "x" * 2201 not in shown
    assert shown.endswith("# They're thinking & feeling\nsad\n\n# My response\nHi.")
    assert "x" * 3000 in for_judge(reply, Kind.ROLE_PLAY, cut=False)
    assert for_judge("no headings", Kind.ROLE_PLAY, cut=True) == "no headings"
    assert for_judge("y" * 7000, Kind.ANALYSIS, cut=True) == "y" * 6000 + TRUNCATED
    assert shortened("abc", 3) == "abc"


def test_the_comma_of_the_authors_example_is_forgiven() -> None:
    assert parse_object('{"a": "b",\n}') == {"a": "b"}
    assert parse_object('{"a": ",}"}') == {"a": ",}"}
    assert parse_object('{"a": "b",,}') is None


STRENGTH = {"weak": 1, "middling": 2, "strong": 3}


def respond(body: dict[str, Any]) -> str:
    """As a model: its name and the number of what was said. As the judge: better marks and pluses for the stronger."""
    asked = body["messages"][-1]["content"]
    if body["model"] != "judge":
        return f"# My response\nI am {body['model']}, {len(body['messages'])}."
    found = [STRENGTH[name] for name in re.findall(r"I am (\w+), ", asked)]
    if asked.startswith("MARK"):
        kind = Kind.ROLE_PLAY if "humanlike" in asked else Kind.ANALYSIS
        return json.dumps(dict.fromkeys(criteria_of(kind), 5 * found[0]))
    ahead = FIRST_CODE if found[0] > found[-1] else SECOND_CODE
    return json.dumps({f"criterion {i}": f"{ahead}{'+' * abs(found[0] - found[-1])}" for i in range(8)})


def call(endpoint: AnsweringEndpoint, data: Path, out: Path, model: str, *options: str) -> str:
    arguments = ["eq-bench3", f"{endpoint.url}/{model}", "--judge", f"{endpoint.url}/judge", "--data", str(data)]
    result = CliRunner().invoke(app, [*arguments, "--out", str(out), *options], catch_exceptions=False)
    return result.output


def standings(out: Path) -> dict[str, Any]:
    return json.loads((out / "standings.json").read_text())


def test_from_the_first_model_to_three(answering: AnsweringEndpoint, data: Path, tmp_path: Path) -> None:
    answering.answer, out = respond, tmp_path / "eq3"
    assert "0 comparisons" in call(answering, data, out, "middling")
    first = standings(out)["models"]["middling"]
    assert (first["elo"], first["rubric"], first["tasks"]) == (1200, 50, 3)  # marks of 10 of 20
    assert len(answering.calls) == 4 + 2 + 3  # four turns, two debriefs, three tasks marked
    turns = [len(c["messages"]) for c in answering.calls if c["model"] == "middling"]
    assert sorted(turns) == [1, 1, 1, 3, 3, 5]  # the second turn knows the first, the debriefs all
    assert {c["temperature"] for c in answering.calls} == {0.7, 0.5, 0.0}

    call(answering, data, out, "weak")
    assert standings(out)["comparisons"] == 3
    before = len(answering.calls)
    call(answering, data, out, "strong")
    assert len(answering.calls) - before == 9 + 2 * 2 * 3  # two earlier models, both orders, three tasks
    found = standings(out)["models"]
    assert list(found) == ["strong", "middling", "weak"]
    assert found["strong"]["rubric"] == 75 and standings(out)["unreadable_comparisons"] == 0
    for model in found.values():
        assert model["elo_interval"][0] < model["elo"] < model["elo_interval"][1]

    before = len(answering.calls)
    call(answering, data, out, "strong", "--anchor", "weak=200", "--anchor", "strong=1500")
    assert len(answering.calls) == before  # all from the cache
    anchored = standings(out)["models"]
    assert (round(anchored["weak"]["elo"]), round(anchored["strong"]["elo"])) == (200, 1500)
    assert 200 < anchored["middling"]["elo"] < 1500


def test_what_fails_is_counted_and_neither_marked_nor_compared(
    answering: AnsweringEndpoint, data: Path, tmp_path: Path
) -> None:
    def garbled(body: dict[str, Any]) -> str | int:
        asked = body["messages"][-1]["content"]
        if body["model"] == "weak" and "another desk" in asked:
            return 400  # the second turn of the role-play
        if body["model"] == "judge" and asked.startswith("MARK") and "friend" in asked:
            return "A fine note, 15 of 20."
        if body["model"] == "judge" and asked.startswith("WHICH") and "draft" in asked:
            return f"{FIRST_CODE} is better."
        return respond(body)

    answering.answer, out = garbled, tmp_path / "eq3"
    call(answering, data, out, "strong")
    said = call(answering, data, out, "weak")
    weak = standings(out)["models"]["weak"]
    assert (weak["unfinished"], weak["tasks"], weak["unreadable_marks"]) == (1, 2, 1)
    assert weak["rubric"] == 25  # of the analysis alone
    record = json.loads((out / "models" / "weak.json").read_text())
    assert "turn 2" in record["unfinished"]["1"] and record["unreadable_marks"]["201"].startswith("A fine note")
    assert standings(out)["comparisons"] == 2 and standings(out)["unreadable_comparisons"] == 1
    assert "2 comparisons in both orders, 1 of them unreadable" in said


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--anchor", "weak=strong"], "expected NAME=ELO"),
        (["--anchor", "nobody=3"], "no such model; there are weak"),
        (["--anchor", "weak=3"], "a scale needs two"),
        (["--name", "a/b"], "a system's name"),
    ],
)
def test_faults_in_the_call_are_told_before_anything_is_asked(
    answering: AnsweringEndpoint, data: Path, tmp_path: Path, options: list[str], complaint: str
) -> None:
    with pytest.raises(EvaluationDataError, match=complaint):
        call(answering, data, tmp_path / "eq3", "weak", *options)
    assert not answering.calls


def test_another_model_of_the_same_name_does_not_replace_the_first(
    answering: AnsweringEndpoint, data: Path, tmp_path: Path
) -> None:
    answering.answer, out = respond, tmp_path / "eq3"
    call(answering, data, out, "weak")
    asked = len(answering.calls)
    with pytest.raises(EvaluationDataError, match=r"weak\.json is of http.*/v1 weak, not of http.*/v1 org/weak"):
        call(answering, data, out, "org/weak")
    assert len(answering.calls) == asked


def test_a_kept_run_that_was_damaged(answering: AnsweringEndpoint, data: Path, tmp_path: Path) -> None:
    (tmp_path / "eq3" / "models").mkdir(parents=True)
    path = tmp_path / "eq3" / "models" / "old.json"
    for text, complaint in (('{"tasks": [', "not valid JSON"), ('{"tasks": [{}]}', "not a model's run")):
        path.write_text(text)
        with pytest.raises(EvaluationDataError, match=complaint):
            call(answering, data, tmp_path / "eq3", "weak")
    assert not answering.calls


@pytest.mark.real_data
def test_the_authors_folder_is_read(real_data: Path) -> None:
    bench = read_bench(real_data / "eqbench3")
    kinds = [scenario.kind for scenario in bench.scenarios]
    assert len(bench.scenarios) == 46 and kinds.count(Kind.ANALYSIS) == 20 and kinds.count(Kind.DRAFTING) == 1
    assert len(bench.scenarios[0].prompts) == 3 and bench.note("1") != NO_NOTES
