"""`rapport judge calibrate` against a real HTTP server: three passes, one verdict, nothing asked twice."""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from judge_server import Asked, JudgeServer, as_json

import rapport
from evaluation.judge.calibration import JudgeBelowFloorError
from evaluation.judge.scorer import JudgeScorer
from reward_servers.protocol import Dimension

N = 12
EXPERT = np.random.default_rng(5).integers(1, 6, size=(N, 6))


@dataclass
class Case:
    """Files of one calibration, and the command that makes it."""

    folder: Path
    server: JudgeServer
    monkeypatch: pytest.MonkeyPatch

    @property
    def out(self) -> Path:
        return self.folder / "calibration.json"

    def run(self, *more: str) -> int:
        files = ["--ratings", "expert1.csv", "--ratings", "expert2.csv", "--conversations", "talks.csv"]
        arguments = ["--judge", self.server.url, *files, "--out", str(self.out), "--resamples", "100"]
        self.monkeypatch.chdir(self.folder)
        self.monkeypatch.setattr(
            sys, "argv", ["rapport", "judge", "calibrate", *arguments, "--calls-per-minute", "100000", *more]
        )
        try:
            rapport.main()
        except SystemExit as ended:
            return int(ended.code or 0)
        return 0

    def report(self) -> dict[str, Any]:
        return json.loads(self.out.read_text())


@pytest.fixture
def case(tmp_path: Path, judge_server: JudgeServer, monkeypatch: pytest.MonkeyPatch) -> Case:
    header = ["conversation_id", *(dimension.value for dimension in Dimension)]
    second = np.clip(EXPERT + np.random.default_rng(6).integers(0, 2, size=EXPERT.shape), 1, 5)
    for name, ratings in (("expert1.csv", EXPERT), ("expert2.csv", second)):
        with (tmp_path / name).open("w", newline="") as file:
            csv.writer(file).writerows([header, *([f"talk-{i}", *row] for i, row in enumerate(ratings.tolist()))])
    with (tmp_path / "talks.csv").open("w", newline="") as file:
        texts = [[f"talk-{i}", f"Seeker: This is case {i}.\nSupporter: I hear you."] for i in range(N)]
        csv.writer(file).writerows([["conversation_id", "full_conversation"], *texts])
    judge_server.judge = lambda asked: as_json(EXPERT[asked.number])
    return Case(tmp_path, judge_server, monkeypatch)


def test_a_judge_that_agrees_passes_and_the_report_has_every_figure(
    case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    assert case.run("--token", "secret", "--concurrency", "3") == 0
    passes = {(is_reversed, seed) for is_reversed in (False, True) for seed in (0, 1)} - {(True, 1)}
    assert len(case.server.asked) == 3 * N
    assert {(asked.is_reversed, asked.seed) for asked in case.server.asked} == passes
    assert case.server.tokens == {"Bearer secret"} and case.server.most_open <= 3
    report = case.report()
    assert report["passed"] is True and report["problems"] == [] and report["conversations"] == N
    judge = report["agreement"]["raters"]["judge"]
    assert set(judge) == {dimension.value for dimension in Dimension} | {"mean"}
    low, high = judge["mean"]["kappa_interval"]
    assert low <= judge["mean"]["kappa"] <= high <= 1
    assert report["agreement"]["raters"]["experts among themselves"]["mean"]["spearman"] > 0
    assert report["stability"]["self_oriented"]["retest_kappa"]["value"] == 1.0
    assert "secret" not in case.out.read_text()
    assert "every floor is reached" in capsys.readouterr().out


def test_a_second_run_asks_nothing_and_says_the_same(case: Case) -> None:
    assert case.run() == 0
    first, asked = case.report(), len(case.server.asked)
    assert case.run() == 0
    assert case.report() == first and len(case.server.asked) == asked


def test_a_judge_below_the_floor_is_refused_with_2_after_its_report_is_written(
    case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    case.server.judge = lambda asked: as_json(6 - EXPERT[asked.number])
    assert case.run() == 2
    said = capsys.readouterr().err
    assert "must not train a policy" in said and "below 0.4" in said and "--allow-below-floor" in said
    assert case.report()["passed"] is False
    with pytest.raises(JudgeBelowFloorError):
        JudgeScorer.load(case.folder)
    assert case.run("--allow-below-floor") == 0
    assert case.report()["passed"] is False
    assert JudgeScorer.load(case.folder).version.startswith("judge-")  # told otherwise, it may score


def test_position_bias_alone_is_refused(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    def biased(asked: Asked) -> str:
        ratings = np.minimum(EXPERT[asked.number], 4)
        return as_json(ratings + (np.arange(6) == 0) * asked.is_reversed)

    case.server.judge = biased
    assert case.run() == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "validating_emotions: ratings move by +1.00 when the order is reversed" in said
    assert case.run("--max-shift", "1") == 0


def test_a_busy_server_is_asked_again_and_an_answer_that_cannot_be_read_is_no_rating(
    case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    refused: set[Asked] = set()

    def judge(asked: Asked) -> str | int:
        if asked.number == 3 and asked not in refused:
            refused.add(asked)
            return 429
        return "I would say four." if asked.number == 5 else as_json(EXPERT[asked.number])

    case.server.judge = judge
    assert case.run() == 2, "one of twelve is more than the 5 % that may be missing"
    again = 3 + 3  # refused calls; unreadable answers, each asked for once more with the next seed
    assert len(refused) == 3 and len(case.server.asked) == 3 * N + again
    seeds = sorted((asked.is_reversed, asked.seed) for asked in case.server.asked if asked.number == 5)
    assert seeds == [(False, 0), (False, 1), (False, 1), (False, 2), (True, 0), (True, 1)]
    report = case.report()
    assert report["conversations"] == N - 1 and list(report["missing"]) == ["talk-5"]
    assert "not one JSON object" in report["missing"]["talk-5"]
    assert "8% of the conversations" in capsys.readouterr().err


def test_a_server_that_refuses_everything_is_an_error_and_no_report(
    case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    case.server.judge = lambda _: 401
    assert case.run() == 1
    assert "is the token right?" in capsys.readouterr().err and not case.out.exists()


def test_faults_of_the_files_are_told_before_anything_is_asked(case: Case) -> None:
    (case.folder / "talks.csv").write_text("conversation_id,full_conversation\ntalk-0,case 0\n")
    assert case.run() == 2
    (case.folder / "expert2.csv").write_text("conversation_id\n")
    assert case.run() == 2
    assert case.run("--out", "no/such/folder.json") == 2
    assert case.server.asked == []


def test_too_few_rated_conversations_are_told_before_anything_is_asked(
    case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("expert1.csv", "expert2.csv"):
        rows = (case.folder / name).read_text().splitlines()
        (case.folder / name).write_text("\n".join(rows[:6]) + "\n")
    assert case.run() == 2 and "5 conversations were rated; 10 are needed" in capsys.readouterr().err
    assert case.server.asked == []


def test_calls_keep_to_the_limit_of_the_endpoint(case: Case) -> None:
    """600 a minute are 0.1 s apart: 36 calls take 3.5 s."""
    assert case.run("--calls-per-minute", "600", "--concurrency", "8") == 0
    times = np.array(case.server.times)
    assert times[-1] - times[0] >= 35 * 0.1 - 0.15


def test_what_was_calibrated_can_be_loaded_as_a_scorer_with_the_models_name(case: Case) -> None:
    assert case.run() == 0
    assert JudgeScorer.load(case.folder).version.startswith("judge-")
    case.server.judge = lambda asked: as_json(6 - EXPERT[asked.number])
    assert case.run("--cache", str(case.folder / "other")) == 2
    with pytest.raises(ValueError, match="must not train a policy"):
        JudgeScorer.load(case.folder)
