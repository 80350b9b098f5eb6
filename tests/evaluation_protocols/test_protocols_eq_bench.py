"""EQ-Bench v2: the formula on every branch, what parses, which pass counts, when a run fails, and the command."""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_endpoint import Endpoint
from typer.testing import CliRunner

from evaluation.eq_bench.commands import eq_bench_command
from evaluation.eq_bench.parsing import Passes, Reading, parse
from evaluation.eq_bench.questions import EqQuestion, read_questions
from evaluation.eq_bench.run import EqReplies, collect, report_of
from evaluation.eq_bench.run import given as given_replies
from evaluation.eq_bench.score import Pass, question_score, scaled_difference, score_run
from evaluation.files import EvaluationDataError
from evaluation.replies import Question, Reply, ReplyFailure, ReplyResult, Sampling
from reward_servers.protocol import FailureKind

REFERENCE = {"glad": 0.0, "sad": 6.0, "calm": 3.0, "cross": 9.0}
EXACT_MATCH = Passes(REFERENCE, REFERENCE)
FAR_OFF = {"glad": 10.0, "sad": 0.0, "calm": 10.0, "cross": 0.0}


def written(first: dict[str, Any], revised: dict[str, Any] | None = None) -> str:
    """A reply in the format that is asked for."""
    lines = [f"{name.title()}: {value}" for name, value in first.items()]
    again = [f"{name.title()}: {value}" for name, value in (revised or first).items()]
    return "\n".join(["First pass scores:", *lines, "", "Critique: fair.", "", "Revised scores:", *again, "", "[End]"])


def questions(count: int) -> list[EqQuestion]:
    return [EqQuestion(str(i), f"Question {i}", REFERENCE) for i in range(count)]


@pytest.mark.parametrize(
    ("difference", "scaled"),
    [
        (0, 0.0),
        (1, 6.5 / (1 + math.exp(3.6))),
        (4, 3.25),
        (5, 6.5 / (1 + math.exp(-1.2))),
        (5.5, 5.5),
        (6, 6.0),
        (10, 10.0),
    ],
)
def test_every_branch_of_the_scaled_difference(difference: float, scaled: float) -> None:
    assert scaled_difference(difference) == pytest.approx(scaled, abs=1e-12)


def test_a_question_by_hand() -> None:
    assert question_score(REFERENCE, REFERENCE) == 10
    ratings = {"glad": 1.0, "sad": 2.0, "calm": 3.0, "cross": 0.0}  # off by 1, 4, 0 and 9
    assert question_score(ratings, REFERENCE) == pytest.approx(10 - 0.7477 * (0.17288046 + 3.25 + 0 + 9), abs=1e-6)


def test_a_perfect_run_scores_100_and_the_interval_is_a_point() -> None:
    result = score_run([EXACT_MATCH] * 6, [REFERENCE] * 6, resamples=100)
    assert (result.score, result.final, result.parseable_share, result.interval) == (100, Pass.REVISED, 1, (100, 100))


def test_random_answers_score_about_0() -> None:
    """What the constant 0.7477 was chosen for, over all ratings and references from 0 to 10."""
    mean = sum(scaled_difference(abs(a - b)) for a in range(11) for b in range(11)) / 121
    assert 4 * mean * 0.7477 == pytest.approx(10, abs=2.5)


@pytest.mark.parametrize(
    ("answers", "final"),
    [
        ([Passes(FAR_OFF, REFERENCE)] * 20, Pass.REVISED),
        ([Passes(REFERENCE, FAR_OFF)] * 20, Pass.FIRST),
        ([EXACT_MATCH] * 20, Pass.REVISED),  # equal scores: revised
        ([EXACT_MATCH] * 19 + [Passes(REFERENCE, None)], Pass.REVISED),  # 19 = 0.95 * 20
        ([EXACT_MATCH] * 18 + [Passes(REFERENCE, None)] * 2, Pass.FIRST),
    ],
)
def test_which_pass_counts(answers: list[Passes], final: Pass) -> None:
    assert score_run(answers, [REFERENCE] * 20, resamples=100).final is final


@pytest.mark.parametrize(("parse_of_171", "failed"), [(143, False), (142, True), (0, True)])
def test_a_run_fails_under_five_sixths(parse_of_171: int, failed: bool) -> None:
    answers = [EXACT_MATCH] * parse_of_171 + [None] * (171 - parse_of_171)
    result = score_run(answers, [REFERENCE] * 171, resamples=100)
    assert result.failed is failed
    assert result.score == (None if failed else 100)
    assert math.isnan(result.interval[0]) is failed


def test_the_format_that_was_asked_for() -> None:
    other = {"glad": 1.0, "sad": 2.0, "calm": 3.0, "cross": 4.0}
    text = written({"glad": 0, "sad": 6, "calm": 3, "cross": 9}, {k: int(v) for k, v in other.items()})
    for reading in Reading:
        assert parse(text, REFERENCE, reading) == Passes(REFERENCE, other)
    assert parse(f"**{text.replace('Glad', '**Glad**')}**", REFERENCE) == Passes(REFERENCE, other)


@pytest.mark.parametrize(
    ("change", "exact", "lenient"),
    [
        (lambda text: text.replace("Sad", "Mad"), (False, False), (False, False)),
        (lambda text: text.replace("Sad: 6", "Sad: 6\nTired: 2"), (False, False), (True, True)),
        (lambda text: text.replace("Sad: 6", "Sad: 6\nsad: 6"), (False, False), (True, True)),
        (lambda text: text.replace("Sad: 6", "Sad:6"), (False, False), (True, True)),
        (lambda text: text.replace("Sad: 6", "Sad - 6/10"), (False, False), (True, True)),
        (lambda text: text.replace("Sad: 6", "Sad: six"), (False, False), (False, False)),
        (lambda text: text.replace("Sad: 6", "Sad: -6"), (False, False), (False, False)),
        (lambda text: text.replace("Sad: 6", "Sad: 60"), (True, True), (False, False)),
        (lambda text: text.replace("First pass", "First Pass"), (False, True), (True, True)),
        (lambda text: text.split("Critique")[0], (False, False), (True, False)),
        (lambda text: "", (False, False), (False, False)),
        (lambda text: "As an AI I have no feelings.", (False, False), (False, False)),
        (lambda text: text.replace("Sad: 6", "Sad: " + "9" * 400), (False, False), (False, False)),
    ],
)
def test_what_parses(change: Any, exact: tuple[bool, bool], lenient: tuple[bool, bool]) -> None:
    text = change(written({"glad": 0, "sad": 6, "calm": 3, "cross": 9}))
    for reading, expected in ((Reading.EXACT, exact), (Reading.LENIENT, lenient)):
        passes = parse(text, REFERENCE, reading)
        assert (passes.first is not None, passes.revised is not None) == expected, reading


PIECES = ["First pass scores:", "Revised scores:", "Glad", "Sad:", "Calm: 3", "Cross: 9", "\n", "7", "/10", "*", "[End"]


@given(st.text(max_size=200) | st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=40).map("".join))
@settings(max_examples=150, deadline=None)
def test_no_reply_breaks_the_parser(reply: str) -> None:
    for reading in Reading:
        passes = parse(reply, REFERENCE, reading)
        for ratings in (passes.first, passes.revised):
            assert ratings is None or (ratings.keys() == REFERENCE.keys() and question_score(ratings, REFERENCE) <= 10)


class Scripted:
    """A model that gives the next reply of a list to each question, and keeps the temperatures it was asked at."""

    identity = "scripted"

    def __init__(self, replies: dict[str, list[str | None]]) -> None:
        self.replies = replies
        self.temperatures: list[float] = []

    async def reply(self, question: Question, sampling: Sampling) -> ReplyResult:
        self.temperatures.append(round(sampling.temperature, 4))
        text = self.replies[question.id].pop(0)
        if text is None:
            return ReplyFailure(question.id, FailureKind.TIMEOUT, "no answer", 5)
        return Reply(question.id, text)


def test_what_does_not_parse_is_asked_again_a_little_warmer() -> None:
    whole = written({"glad": 0, "sad": 6, "calm": 3, "cross": 9})
    half = whole.replace("First pass", "Pass")
    asked = questions(4)
    model = Scripted({"0": [whole], "1": ["?", half, whole], "2": ["?", half, "?!", half + "."], "3": [None]})
    replies = asyncio.run(collect(model, asked, Sampling(), attempts=4))
    assert replies.texts == {"0": whole, "1": whole, "2": half}
    assert list(replies.failures) == ["3"] and not any(model.replies.values())
    assert model.temperatures == [0.01] * 4 + [0.16] * 2 + [0.31] * 2 + [0.46]
    report = report_of(asked, replies, resamples=100)
    assert report.unanswered == 1 and report.result.failed
    assert report.as_dict()["items"][3]["failure"] == "no answer (timeout)"


def test_garbage_fails_and_has_no_score() -> None:
    report = report_of(questions(5), EqReplies({str(i): "hm" for i in range(5)}, {}), resamples=100)
    assert report.result.score is None and report.as_dict()["score"] is None
    assert report.as_dict()["first_pass"] == {"score": 0.0, "parseable": 0}


def entry(**changes: Any) -> dict[str, Any]:
    answer: dict[str, Any] = {f"emotion{i}": name for i, name in enumerate(REFERENCE, start=1)}
    answer |= {f"emotion{i}_score": str(int(value)) for i, value in enumerate(REFERENCE.values(), start=1)}
    return {"prompt": "How does she feel?", "reference_answer_fullscale": answer | changes}


def test_questions_are_read(tmp_path: Path) -> None:
    path = tmp_path / "questions.json"
    path.write_text(json.dumps({"7": entry(emotion1="Glad", emotion2_score=6)}))
    assert read_questions(path) == [EqQuestion("7", "How does she feel?", REFERENCE)]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ('{"1": ', "line 1, column 7"),
        ("[]", "expected an object of questions"),
        ("{}", "expected an object of questions"),
        ('{"1": {}, "1": {}}', "'1' is there more than once"),
        ('{"1": {}}', 'text "prompt"'),
        ('{"1": {"prompt": "x"}}', "version 2"),
        (json.dumps({"1": entry(emotion2="glad")}), "an emotion is there twice"),
        (json.dumps({"1": entry(emotion2=None)}), '"emotion2" must name'),
        (json.dumps({"1": entry(emotion3_score="many")}), '"emotion3_score" must be from 0 to 10'),
        (json.dumps({"1": entry(emotion3_score=11)}), "question '1'"),
        (json.dumps({"1": entry(emotion3_score=float("nan"))}), "found nan"),
    ],
)
def test_faulty_questions(tmp_path: Path, content: str, complaint: str) -> None:
    path = tmp_path / "questions.json"
    path.write_text(content)
    with pytest.raises(EvaluationDataError) as caught:
        read_questions(path)
    assert str(path) in str(caught.value) and complaint in str(caught.value)


def test_a_reply_to_no_question(tmp_path: Path) -> None:
    with pytest.raises(EvaluationDataError, match="no question of the"):
        given_replies({"9": "x"}, questions(2), tmp_path)


@pytest.fixture
def app() -> typer.Typer:
    made = typer.Typer()
    made.command()(eq_bench_command)
    return made


def saved_questions(folder: Path, count: int) -> Path:
    path = folder / "questions.json"
    path.write_text(json.dumps({str(i): entry() for i in range(count)}))
    return path


def test_the_command_scores_given_answers(app: typer.Typer, tmp_path: Path) -> None:
    answers, out = tmp_path / "answers.jsonl", tmp_path / "out.json"
    whole = written({"glad": 0, "sad": 6, "calm": 3, "cross": 9})
    lines = [{"id": str(i), "response": whole} for i in range(5)] + [{"id": "5", "response": None}]
    answers.write_text("\n".join(map(json.dumps, lines)))
    call = [str(saved_questions(tmp_path, 6)), "--answers", str(answers), "--out", str(out), "--resamples", "100"]
    result = CliRunner().invoke(app, call, catch_exceptions=False)
    assert "100.00 [100.00, 100.00], revised pass; 5 of 6 parse, 1 without a reply" in result.output
    saved = json.loads(out.read_text())
    assert saved["score"] == 100 and saved["unanswered"] == 1 and saved["items"][5]["response"] is None


def test_the_command_asks_an_endpoint_and_goes_on_from_its_cache(
    app: typer.Typer, tmp_path: Path, endpoint: Endpoint
) -> None:
    out = tmp_path / "out.json"
    call = [str(saved_questions(tmp_path, 3)), "--model", endpoint.url, "--out", str(out), "--attempts", "2"]
    for calls in (2, 0):  # two temperatures, then nothing
        endpoint.calls.clear()
        result = CliRunner().invoke(app, call, catch_exceptions=False)
        assert result.exit_code == 0 and "failed, no score; 0 of 3 parse" in result.output
        assert len(endpoint.calls) <= 3 * calls
    assert json.loads(out.read_text())["failed"] is True


def test_the_command_wants_one_source(app: typer.Typer, tmp_path: Path) -> None:
    with pytest.raises(EvaluationDataError, match="either --model"):
        CliRunner().invoke(app, ["q.json", "--out", str(tmp_path / "o.json")], catch_exceptions=False)


@pytest.mark.real_data
def test_the_real_questions_answered_perfectly(real_data: Path) -> None:
    asked = read_questions(real_data / "eqbench_v2" / "eq_bench_v2_questions_171.json")
    texts = {q.id: written({name: int(value) for name, value in q.reference.items()}) for q in asked}
    result = report_of(asked, EqReplies(texts, {}), resamples=100).result
    assert (len(asked), result.score, result.parseable_share) == (171, 100, 1)
