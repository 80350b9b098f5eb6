"""A calibrated judge scores replies exactly as it was calibrated; one that did not pass is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from judge_server import JudgeServer, as_json

from evaluation.files import EvaluationDataError
from evaluation.judge.calibration import JudgeBelowFloorError
from evaluation.judge.scorer import CALIBRATION_FILE, JudgeScorer
from reward_servers.failures import RewardServerError
from reward_servers.protocol import EmpathyScore, FailureKind, ScoreRequest

SIX = (4, 3, 5, 2, 1, 1)


def request(number: int) -> ScoreRequest:
    history = ({"role": "user", "content": f"This is case {number}."},)
    return ScoreRequest(f"r{number}", history, "I hear you.")  # type: ignore[arg-type]


def calibration(url: str, **changes: Any) -> dict[str, Any]:
    judge = {"url": url, "name": "judge", "temperature": 0.0, "max_tokens": 50}
    return {"judge": {**judge, "calls_per_minute": 1e5, "concurrency": 2}, "passed": True, "problems": [], **changes}


def loaded(folder: Path, content: object) -> JudgeScorer:
    (folder / CALIBRATION_FILE).write_text(json.dumps(content))
    return JudgeScorer.load(folder)


def test_replies_are_scored_in_order_and_equal_ones_are_asked_once(tmp_path: Path, judge_server: JudgeServer) -> None:
    judge_server.judge = lambda asked: as_json([asked.number, *SIX[1:]])
    scorer = loaded(tmp_path, calibration(judge_server.url))
    expected = [EmpathyScore((float(n), 3.0, 5.0, 2.0, 1.0, 1.0)) for n in (2, 1)]
    assert scorer.score([request(2), request(1)]) == expected
    assert scorer.score([request(2), request(1)]) == expected and len(judge_server.asked) == 2
    assert not any(asked.is_reversed for asked in judge_server.asked)


def test_an_unreadable_answer_is_asked_for_once_more_and_the_place_of_a_reply_does_not_matter(
    tmp_path: Path, judge_server: JudgeServer
) -> None:
    judge_server.judge = lambda asked: "four" if asked.seed == 0 and asked.number == 1 else as_json(SIX)
    scorer = loaded(tmp_path, calibration(judge_server.url))
    expected = EmpathyScore(tuple(map(float, SIX)))
    assert scorer.score([request(1), request(2)]) == [expected, expected]
    assert sorted((asked.number, asked.seed) for asked in judge_server.asked) == [(1, 0), (1, 1), (2, 0)]
    assert scorer.score([request(2), request(1)]) == [expected, expected] and len(judge_server.asked) == 3


def test_the_version_is_of_what_is_asked(tmp_path: Path) -> None:
    one = loaded(tmp_path, calibration("http://127.0.0.1:9/v1"))
    same = JudgeScorer.load(tmp_path)
    other = loaded(tmp_path, calibration("http://127.0.0.1:8/v1"))
    assert one.version == same.version != other.version and one.version.startswith("judge-")


@pytest.mark.parametrize(("said", "kind"), [("four", FailureKind.INTERNAL), (401, FailureKind.UNAVAILABLE)])
def test_a_reply_without_ratings_is_an_error_of_its_kind(
    tmp_path: Path, judge_server: JudgeServer, said: str | int, kind: FailureKind
) -> None:
    judge_server.judge = lambda asked: said if asked.number == 2 else as_json(SIX)
    scorer = loaded(tmp_path, calibration(judge_server.url))
    with pytest.raises(RewardServerError, match="no ratings") as raised:
        scorer.score([request(1), request(2)])
    assert raised.value.kind is kind and raised.value.server == judge_server.url
    assert scorer.score([request(1)]) == [EmpathyScore(tuple(map(float, SIX)))]


def test_a_judge_below_the_floor_is_not_loaded(tmp_path: Path) -> None:
    content = calibration("http://127.0.0.1:9/v1", passed=False, problems=["mean kappa is 0.10, below 0.4"])
    with pytest.raises(JudgeBelowFloorError, match=r"below 0\.4"):
        loaded(tmp_path, content)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ([], "no calibration"),
        ({}, "no calibration"),
        (calibration("http://127.0.0.1:9/v1", judge={"url": 3}), "judge.url is 3"),
    ],
)
def test_a_file_that_is_no_calibration_is_named(tmp_path: Path, content: object, complaint: str) -> None:
    with pytest.raises(EvaluationDataError, match=complaint) as refused:
        loaded(tmp_path, content)
    assert CALIBRATION_FILE in str(refused.value)


def test_a_judge_without_a_folder_or_a_calibration_is_told_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(EvaluationDataError, match="folder"):
        JudgeScorer.load()
    with pytest.raises(EvaluationDataError, match="no such file"):
        JudgeScorer.load(tmp_path)
