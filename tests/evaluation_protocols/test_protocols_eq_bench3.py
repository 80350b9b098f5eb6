"""EQ-Bench 3's arithmetic: marks, comparisons in both orders, TrueSkill by hand, and the normalised Elo."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.eq_bench.pairwise import (
    BINS_FOR_INTERVALS,
    Comparison,
    Match,
    Pluses,
    match_of,
    matches_of,
    parse_pluses,
)
from evaluation.eq_bench.rating import MU, SIGMA, Rating, normalise, rate, update
from evaluation.eq_bench.rubric import ANALYSIS_CRITERIA, ROLE_PLAY_CRITERIA, parse_marks, parse_object, rubric_score
from evaluation.files import EvaluationDataError


def test_a_run_of_two_tasks_and_one_that_could_not_be_read() -> None:
    marks = [dict.fromkeys(ROLE_PLAY_CRITERIA, 10.0), dict.fromkeys(ANALYSIS_CRITERIA, 20.0), None]
    score = rubric_score(marks)
    assert (score.score, score.tasks, score.unparseable) == (75, 3, 1)
    assert math.isnan(rubric_score([None]).score)


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        ('Sure:\n```json\n{"a": 3, "b": 20.0, "c": "more"}\n```', True),
        ('{"a": 3}', False),
        ('{"a": 3, "b": 21}', False),
        ('{"a": 3, "b": true}', False),
        ('{"a": 3, "b": "12"}', False),
        ('{"a": 3, "b": NaN}', False),
        ('{"a": 3, "b": ', False),
        ("[3, 4]", False),
        ("", False),
    ],
)
def test_marks_are_never_guessed(answer: str, read: bool) -> None:
    assert parse_marks(answer, ("a", "b")) == ({"a": 3, "b": 20} if read else None)


def judged(*ratings: str, reasoning: str = "A0493+++ is what I would say") -> str:
    named = {f"criterion {i}": rating for i, rating in enumerate(ratings)}
    return json.dumps({"chain_of_thought_reasoning": reasoning, **named})


def test_pluses_are_added_up() -> None:
    answer = judged(*["A0493++"] * 5, "A0488+++++", " A0488 + ", "A0488+")
    assert parse_pluses(f"Here: {answer}") == Pluses(10, 7)


@pytest.mark.parametrize(
    "answer",
    [
        judged(*["A0493++"] * 7),
        judged(*["A0493++"] * 9),
        judged(*["A0493++"] * 7, "draw"),
        judged(*["A0493++"] * 7, "A0493++++++"),
        judged(*["A0493++"] * 7, "A0493 over A0488+"),
        "no object",
    ],
)
def test_an_answer_without_all_eight_winners_is_not_read(answer: str) -> None:
    assert parse_pluses(answer) is None


@given(st.text(max_size=100) | st.dictionaries(st.text(max_size=3), st.text("A0493 8+", max_size=12)).map(json.dumps))
@settings(max_examples=80, deadline=None)
def test_no_answer_breaks_the_parsers(answer: str) -> None:
    parse_object(answer)
    assert parse_marks(answer, ("a",)) is None or parse_object(answer) is not None
    assert parse_pluses(answer) is None or parse_object(answer) is not None


@pytest.mark.parametrize(
    ("forward", "backward", "expected"),
    [
        (Pluses(10, 8), Pluses(8, 10), Match("x", "y", 3)),  # 4 of 30: ceil(2.67)
        (Pluses(10, 8), Pluses(9, 12), Match("x", "y", 4)),  # 5 of 30: ceil(3.33)
        (Pluses(8, 9), Pluses(8, 8), Match("y", "x", 1)),
        (Pluses(40, 0), Pluses(0, 40), Match("x", "y", 20)),  # capped
        (Pluses(10, 5), Pluses(10, 5), Match("x", "y", 1, drawn=True)),  # the first place won, both times
        (Pluses(10, 5), None, None),
        (None, None, None),
    ],
)
def test_both_orders_make_one_match(forward: Pluses | None, backward: Pluses | None, expected: Match | None) -> None:
    comparison = Comparison("x", "y", "task", forward, backward)
    assert match_of(comparison) == expected
    matches, unreadable = matches_of([comparison])
    assert (len(matches), unreadable) == ((0, 1) if expected is None else (1, 0))


def test_an_analysis_counts_each_answer_once() -> None:
    both = Comparison("x", "y", "task", Pluses(40, 0), Pluses(0, 1), analysis=True)
    assert match_of(both) == Match("x", "y", 2)
    split = Comparison("x", "y", "task", Pluses(40, 0), Pluses(2, 1), analysis=True)
    assert match_of(split) == Match("x", "y", 1, drawn=True)
    assert match_of(both, BINS_FOR_INTERVALS) == Match("x", "y", 1)


def test_one_win_by_hand() -> None:
    """Equal ratings: t = 0, v = 2 pdf(0) = 0.797885, w = v^2; c^2 = 2 beta^2 + 2 sigma^2 = 2.5 sigma^2."""
    winner, loser = update(Rating(), Rating())
    step = SIGMA / math.sqrt(2.5) * 0.7978845608
    assert (winner.mu, loser.mu) == (pytest.approx(MU + step), pytest.approx(MU - step))
    assert winner.sigma == loser.sigma == pytest.approx(SIGMA * math.sqrt(1 - 0.6366197724 / 2.5))


def test_the_published_defaults_of_trueskill() -> None:
    """29.205 and 7.194 of mu 25, sigma 25/3, beta 25/6 without draws: the same up to scale."""
    winner, _ = update(Rating(), Rating())
    scale = (25 / 3) / SIGMA
    assert (winner.mu - MU) * scale == pytest.approx(4.205, abs=1e-3)
    assert winner.sigma * scale == pytest.approx(7.194, abs=1e-3)


def test_a_draw_draws_together() -> None:
    better, worse = update(Rating(1300), Rating(1100), drawn=True)
    assert 1200 < better.mu < 1300 and better.mu + worse.mu == pytest.approx(2400)
    assert update(Rating(), Rating(), drawn=True)[0].mu == MU


@given(st.floats(-1e5, 1e5), st.floats(-1e5, 1e5), st.floats(1, SIGMA), st.booleans())
@settings(max_examples=80, deadline=None)
def test_ratings_stay_finite_and_grow_surer(a: float, b: float, sigma: float, drawn: bool) -> None:
    winner, loser = update(Rating(a, sigma), Rating(b, sigma), drawn)
    assert math.isfinite(winner.mu) and math.isfinite(loser.mu)
    assert 0 < winner.sigma <= sigma and (drawn or winner.mu >= a)


def test_ratings_from_the_first_model_on() -> None:
    assert rate(["only"], []) == {"only": Rating()}
    matches = [Match("a", "b", 3), Match("b", "c", 3), Match("a", "c", 5), Match("a", "b", 1, drawn=True)]
    ratings = rate(["a", "b", "c"], matches)
    assert ratings["a"].mu > ratings["b"].mu > ratings["c"].mu
    assert rate(["a", "b", "c"], matches) == ratings
    with pytest.raises(EvaluationDataError, match="expected two of a, b"):
        rate(["a", "b"], matches)


def test_the_anchors_get_their_values() -> None:
    ratings = {"low": Rating(1000, 10), "high": Rating(1400, 20), "new": Rating(1200, 30)}
    anchored = normalise(ratings, {"high": 1500, "low": 200})
    assert [anchored[name].mu for name in ("low", "high", "new")] == [200, 1500, 850]
    assert anchored["new"].interval == pytest.approx((850 - 1.96 * 97.5, 850 + 1.96 * 97.5))
    assert normalise(ratings, {}) == normalise(ratings, {"low": 200, "absent": 9}) == ratings
    with pytest.raises(EvaluationDataError, match="must be rated above"):
        normalise(ratings, {"low": 1500, "high": 200})
