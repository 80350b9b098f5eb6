"""The figures of a calibration on hand-made ratings, and which floors they reach."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import cohen_kappa_score

from evaluation.agreement import MEAN, Rater
from evaluation.files import EvaluationDataError
from evaluation.judge.calibration import JUDGE, Floors, calibrate
from evaluation.judge.files import as_text, read_experts, read_texts
from evaluation.judge.judging import Judgement
from evaluation.judge.pace import Pace
from reward_servers.protocol import Dimension

N = 20
NAMES = [f"talk-{i:02}" for i in range(N)]
DIMENSIONS = [dimension.value for dimension in Dimension]
EXPERT = np.random.default_rng(7).integers(1, 6, size=(N, 6))


def judged(ratings: np.ndarray, missing: Mapping[str, str] | None = None) -> Judgement:
    rows = {name: tuple(int(x) for x in row) for name, row in zip(NAMES, ratings, strict=True)}
    missing = missing or {}
    return Judgement({name: row for name, row in rows.items() if name not in missing}, missing)


def calibrated(first: np.ndarray, again: np.ndarray | None = None, turned: np.ndarray | None = None, **floors: float):  # type: ignore[no-untyped-def]
    passes = tuple(judged(first if ratings is None else ratings) for ratings in (first, again, turned))
    experts = [Rater("expert 1", EXPERT.astype(float))]
    return calibrate(experts, NAMES, passes, Floors(**floors), resamples=200, seed=0)  # type: ignore[arg-type]


def test_a_judge_that_agrees_with_the_expert_reaches_every_floor() -> None:
    result = calibrated(EXPERT)
    assert result.problems == () and result.conversations == N
    assert result.agreement.raters[JUDGE][MEAN].kappa == pytest.approx(1.0)
    assert result.stability["advice_giving"].position_shift.value == 0.0
    assert result.as_dict()["passed"] is True


def test_agreement_is_that_of_sklearn_and_scipy() -> None:
    noisy = np.clip(EXPERT + np.random.default_rng(1).integers(-1, 2, size=EXPERT.shape), 1, 5)
    scales = calibrated(noisy).agreement.raters[JUDGE]
    for k, name in enumerate(DIMENSIONS):
        expected = cohen_kappa_score(noisy[:, k], EXPERT[:, k], labels=[1, 2, 3, 4, 5], weights="quadratic")
        assert scales[name].kappa == pytest.approx(expected)
        assert scales[name].spearman == pytest.approx(spearmanr(noisy[:, k], EXPERT[:, k]).statistic)
        low, high = scales[name].kappa_interval
        assert low < expected < high


def test_a_judge_that_turns_the_scale_round_is_refused() -> None:
    result = calibrated(6 - EXPERT)
    assert any("weighted kappa with the experts" in problem for problem in result.problems)
    assert any("Spearman" in problem for problem in result.problems)
    assert result.as_dict()["passed"] is False


def test_a_judge_that_always_says_the_same_is_refused_although_nothing_can_be_computed() -> None:
    constant = EXPERT.copy()
    constant[:, 3] = 1
    assert any("advice_giving: no agreement can be shown" in problem for problem in calibrated(constant).problems)


def test_retest_is_the_judge_with_itself() -> None:
    again = EXPERT.copy()
    again[:10, 0] = np.where(EXPERT[:10, 0] < 5, EXPERT[:10, 0] + 1, 4)  # ten of twenty move by one point
    result = calibrated(EXPERT, again=again)
    figures = result.stability[DIMENSIONS[0]]
    expected = cohen_kappa_score(EXPERT[:, 0], again[:, 0], labels=[1, 2, 3, 4, 5], weights="quadratic")
    assert figures.retest_kappa.value == pytest.approx(expected)
    assert figures.retest_distance.value == pytest.approx(0.5)
    assert figures.retest_distance.low <= 0.5 <= figures.retest_distance.high
    assert result.problems == ()
    shuffled = np.random.default_rng(3).permutation(EXPERT)
    assert any("test-retest" in problem for problem in calibrated(EXPERT, again=shuffled).problems)


def test_a_shift_by_the_order_is_position_bias() -> None:
    first = np.minimum(EXPERT, 4)
    turned = first.copy()
    turned[:, 5] += 1
    result = calibrated(first, turned=turned)
    figure = result.stability[DIMENSIONS[5]].position_shift
    assert (figure.value, figure.low, figure.high) == (1.0, 1.0, 1.0)
    assert [problem for problem in result.problems if "order is reversed" in problem] == [
        "dismissing_emotions: ratings move by +1.00 when the order is reversed, more than 0.5"
    ]
    assert calibrated(first, turned=turned, shift=1.0).problems == ()


def test_conversations_that_a_pass_lacks_are_left_out_and_counted() -> None:
    passes = (judged(EXPERT), judged(EXPERT, {NAMES[0]: "late (timeout)", NAMES[1]: "no JSON"}), judged(EXPERT))
    result = calibrate([Rater("expert 1", EXPERT.astype(float))], NAMES, passes, Floors(), 100, 0)
    assert result.conversations == N - 2 and set(result.missing) == {NAMES[0], NAMES[1]}
    assert "10% of the conversations have no ratings, more than 5%" in result.problems


def test_too_few_conversations_are_no_calibration() -> None:
    most = {name: "late" for name in NAMES[:11]}
    with pytest.raises(EvaluationDataError, match="9 of 20 conversations were judged; 10 are needed"):
        calibrate([Rater("expert 1", EXPERT.astype(float))], NAMES, (judged(EXPERT, most),) * 3, Floors(), 100, 0)


# --- files ------------------------------------------------------------------------------------------------------------

TEXTS = {"a": "Seeker: I am sad.\nSupporter: I am here.", "b": "Seeker: Hello.\nSupporter: Hi."}
HEADER = "conversation_id," + ",".join(DIMENSIONS)


def test_ratings_are_read_from_csv_and_from_lines_alike(tmp_path: Path) -> None:
    csv, lines = tmp_path / "one.csv", tmp_path / "two.jsonl"
    csv.write_text(f"{HEADER}\nb,1,2,3,4,5,1\na,5,4,3,2,1,1\n")
    rows = [("a", (5, 4, 3, 2, 1, 1)), ("b", (1, 2, 3, 4, 5, 1))]
    lines.write_text(
        "".join(
            json.dumps({"conversation_id": name, **dict(zip(DIMENSIONS, row, strict=True)), "note": "x"}) + "\n"
            for name, row in rows
        )
    )
    raters, names = read_experts([csv, lines], TEXTS)
    assert names == ["a", "b"]
    assert [rater.name for rater in raters] == ["expert 1 (one.csv)", "expert 2 (two.jsonl)"]
    for rater in raters:
        assert rater.is_expert and rater.ratings.tolist() == [[5, 4, 3, 2, 1, 1], [1, 2, 3, 4, 5, 1]]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('{"conversation_id": 3}', "conversation_id is 3"),
        ('{"conversation_id": "a"}', "validating_emotions is None"),
        ('{"conversation_id": "a", "validating_emotions": true}', "validating_emotions is True"),
        ('{"conversation_id": "a", "validating_emotions": 6}', "expected 1 to 5"),
    ],
)
def test_a_wrong_line_of_ratings_is_named(tmp_path: Path, line: str, complaint: str) -> None:
    path = tmp_path / "ratings.jsonl"
    path.write_text(f"\n{line}\n")
    with pytest.raises(EvaluationDataError, match=f"line 2: .*{complaint}"):
        read_experts([path], TEXTS)


def test_a_rated_conversation_without_its_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "ratings.csv"
    path.write_text(f"{HEADER}\nc,1,2,3,4,5,1\n")
    with pytest.raises(EvaluationDataError, match="'c' is not among the 2"):
        read_experts([path], TEXTS)


def test_conversations_are_read_from_csv_and_from_our_format(tmp_path: Path) -> None:
    csv = tmp_path / "talks.csv"
    csv.write_text('conversation_id,full_conversation\na,"Seeker: I am sad.\nSupporter: I am here."\n')
    assert read_texts(csv) == {"a": TEXTS["a"]}
    ours = tmp_path / "talks.jsonl"
    turns = [{"role": "seeker", "text": "I am sad."}, {"role": "supporter", "text": "I am here."}]
    ours.write_text(json.dumps({"id": "a", "turns": turns}) + "\n")
    assert read_texts(ours) == {"a": TEXTS["a"]}
    csv.write_text("conversation_id,full_conversation\na,x\na,y\n")
    with pytest.raises(EvaluationDataError, match="line 3: conversation 'a' is there twice"):
        read_texts(csv)


def test_turns_are_named_by_their_speakers() -> None:
    from dialogue.conversation import Conversation, Role, Turn

    talk = Conversation("a", (Turn(Role.SEEKER, "I am sad."), Turn(Role.SUPPORTER, "I am here.")))
    assert as_text(talk) == TEXTS["a"]


@pytest.mark.real_data
def test_the_released_experts_and_conversations_are_read(real_data: Path) -> None:
    texts = read_texts(real_data / "mint" / "lend_an_ear" / "lend_an_ear_50_conversations.csv")
    folder = real_data / "lend_an_ear_ratings" / "lend_an_ear"
    raters, names = read_experts([folder / f"expert{i}_ratings.csv" for i in (1, 2, 3)], texts)
    assert len(names) == 50 and all(rater.ratings.shape == (50, 6) for rater in raters)


# --- the limit of calls -----------------------------------------------------------------------------------------------


def test_calls_begin_no_closer_than_the_pace() -> None:
    async def run() -> list[float]:
        pace, begun = Pace(per_minute=1200), []  # 0.05 s apart

        async def call() -> None:
            await pace()
            begun.append(time.monotonic())

        await asyncio.gather(*(call() for _ in range(6)))
        return begun

    begun = asyncio.run(run())
    assert begun == sorted(begun)
    assert begun[-1] - begun[0] >= 5 * 0.05 - 0.01


def test_no_calls_at_all_is_no_pace() -> None:
    with pytest.raises(EvaluationDataError, match="above 0"):
        Pace(0)
