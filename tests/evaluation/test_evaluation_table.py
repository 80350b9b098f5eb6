"""The columns by hand, the released table, the tests against a baseline, and the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from made_up_systems import (
    SYSTEM_RATINGS,
    SYSTEM_TURNS,
    entries,
    rating_rows,
    write_outputs,
    write_ratings,
    write_replies,
)
from typer.testing import CliRunner

from dialogue.tactics import TACTICS
from evaluation.bootstrap import counts_of, draw, interval, p_value
from evaluation.columns import COLUMNS, cells_of, columns_of, uses_of
from evaluation.commands import app
from evaluation.files import EvaluationDataError
from evaluation.printing import notes_on, resamples_needed
from evaluation.systems import load_systems, previous_replies
from evaluation.table import EvaluationTable, Unit, make_table

ROOT = Path(__file__).resolve().parents[2]

# Our folders in the order of the rows of MINT's table 2.
ROWS = {
    "Gold": "gold",
    "1.7B Vanilla": "baseline1_vanilla",
    "1.7B Tactic Prompt": "baseline2_tactic_prompt",
    "1.7B Tactic+History": "baseline3_tactic_history",
    "1.7B VS (Vanilla)": "baseline4_vs_vanilla",
    "1.7B VS (Tactic)": "baseline5_vs_tactic",
    "1.7B VS (Tactic+History)": "baseline6_vs_tactic_history",
    "1.7B PsychoCounsel": "baseline7_psychocounsel",
    "1.7B R1-Zero-Div": "baseline8_r1zerodiv",
    "1.7B Ours Q+DKL": "ours1_q_dkl",
    "1.7B Ours Q+H": "ours2_q_h",
    "1.7B Ours Q+DKL+H": "ours3_q_dkl_h",
}


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    return write_outputs(tmp_path / "outputs")


def table_of(outputs: Path, **options: object) -> EvaluationTable:
    systems = load_systems(outputs, outputs / "gold")
    return make_table(systems, systems[0], **{"resamples": 200, **options})  # type: ignore[arg-type]


def test_every_column_by_hand(outputs: Path) -> None:
    values = table_of(outputs).rows[1].values
    assert values["words"] == pytest.approx((3 + 6 + 7 + 3 + 9) / 5)
    assert values["validating_emotions"] == pytest.approx((4 + 2 + 2 + 3 + 1) / 5)
    assert values["advice_giving"] == pytest.approx((1 + 1 + 1 + 1 + 5) / 5)  # as rated, not reversed
    reversed_sums = [4 + 1 + 3 + 15, 2 + 5 + 3 + 15, 2 + 5 + 2 + 15, 3 + 1 + 1 + 14, 1 + 1 + 2 + 9]
    assert values["aggregated_empathy"] == pytest.approx(sum(reversed_sums) / 6 / 5)
    assert values["tac_per_turn"] == pytest.approx((1 + 1 + 1 + 1 + 2) / 5)
    # Gold's previous turns: a1 has expression and questioning, a3 questioning, b1 advice. Ours then: a3 questioning,
    # a5 questioning, b3 advice and empowerment. So expression 0/1, questioning 2/2, advice 1/1; no other occurs.
    assert values["stickiness"] == pytest.approx((0 + 1 + 1) / 3)
    assert list(values) == list(COLUMNS)


def test_stickiness_of_gold_itself(outputs: Path) -> None:
    # Questioning is repeated at a3 but not at a5; expression and advice are not.
    assert table_of(outputs).rows[0].values["stickiness"] == pytest.approx((0 + 1 / 2 + 0) / 3)


def test_a_blank_rating_leaves_its_mean_and_its_aggregate_to_the_others(outputs: Path) -> None:
    ratings = [list(row) for row in SYSTEM_RATINGS]
    ratings[0][4] = ""  # type: ignore[call-overload]
    write_ratings(outputs / "ours", rating_rows(SYSTEM_TURNS, ratings))
    row = table_of(outputs).rows[1]
    assert row.values["self_oriented"] == 1.0
    assert row.values["aggregated_empathy"] == pytest.approx(((4 + 1 + 3 + 10) / 5 + (25 + 24 + 19 + 13) / 6) / 5)
    assert row.blank_ratings == 1


def test_without_a_previous_tactic_stickiness_is_undefined_and_null(tmp_path: Path) -> None:
    for name in ("gold", "ours"):
        write_replies(tmp_path / name, entries([SYSTEM_TURNS[0]]))
        write_ratings(tmp_path / name, rating_rows([SYSTEM_TURNS[0]], [SYSTEM_RATINGS[0]]))
    out = tmp_path / "out.json"
    done = CliRunner().invoke(app, ["table", str(tmp_path), "--gold", str(tmp_path / "gold"), "--json", str(out)])
    assert done.exit_code == 0, done.output
    ours = json.loads(out.read_text(encoding="utf-8"))["ours"]
    assert ours["stickiness"] is None
    assert ours["comparison"]["columns"]["stickiness"]["p"] is None
    assert ours["comparison"]["tests_in_table"] == len(COLUMNS) - 1


def test_the_resampled_columns_are_those_of_a_plain_loop(outputs: Path) -> None:
    gold, ours = load_systems(outputs, outputs / "gold")
    previous = uses_of(previous_replies(ours.replies, gold))
    cells = cells_of(ours, previous)
    indices = draw(5, 40, seed=1)
    fast = columns_of(cells, counts_of(indices))
    uses = uses_of(ours.replies)
    for resample, row in zip(indices, fast, strict=True):
        shares = [uses[resample][previous[resample, k], k].mean() for k in range(10) if previous[resample, k].any()]
        expected = np.mean(shares) if shares else np.nan
        np.testing.assert_allclose(row[-1], expected)
        np.testing.assert_allclose(row[1:7], ours.ratings[resample].mean(axis=0))
        np.testing.assert_allclose(row[8], uses[resample].sum(axis=1).mean())


def test_systems_are_compared_on_the_same_resamples(outputs: Path) -> None:
    test = table_of(outputs, seed=5).rows[1].tests["words"]
    gold, ours = load_systems(outputs, outputs / "gold")
    words = [[len(reply.text.split()) for reply in system.replies] for system in (gold, ours)]
    differences = np.subtract(words[1], words[0])[draw(5, 200, seed=5)].mean(axis=1)
    assert test.difference == pytest.approx(np.mean(words[1]) - np.mean(words[0]))
    assert test.p == p_value(differences)
    assert test.interval == pytest.approx(interval(differences))
    assert test.p_holm >= test.p


def test_the_baseline_is_gold_unless_it_is_named(outputs: Path) -> None:
    assert [len(row.tests) for row in table_of(outputs).rows] == [0, len(COLUMNS)]
    named = table_of(outputs, baseline="ours")
    assert [len(row.tests) for row in named.rows] == [len(COLUMNS), 0]
    assert named.tests == len(COLUMNS)
    with pytest.raises(EvaluationDataError, match=r"'theirs'.*gold, ours"):
        table_of(outputs, baseline="theirs")


def test_drawing_conversations_keeps_their_turns_together(outputs: Path) -> None:
    row = table_of(outputs, unit=Unit.CONVERSATION).rows[0]
    # Two conversations give three different resamples: only a, both, or only b. Words: a 4, 4, 5; b 3, 4.
    assert row.intervals["words"] == pytest.approx((3.5, 13 / 3))
    assert row.values == table_of(outputs).rows[0].values


def test_the_released_table_comes_out(real_data: Path, tmp_path: Path) -> None:
    outputs, out = real_data / "mint" / "outputs", tmp_path / "table.json"
    started = time.process_time()  # what the machine does besides does not count
    done = CliRunner().invoke(app, ["table", str(outputs), "--gold", str(outputs / "gold"), "--json", str(out)])
    assert done.exit_code == 0, done.output
    assert time.process_time() - started < 10
    result = json.loads(out.read_text(encoding="utf-8"))
    by_row = {row: next(v for name, v in result.items() if name.startswith(prefix)) for row, prefix in ROWS.items()}
    published = json.loads((real_data / "mint" / "table_2.json").read_text(encoding="utf-8"))
    assert published.keys() == by_row.keys()
    gaps = {
        (row, column): abs(by_row[row][column] - value)
        for row, columns in published.items()
        for column, value in columns.items()
    }
    assert len(gaps) == 12 * 9
    assert max(gaps.values()) < 0.0051  # the published figures are rounded to two digits
    for row in by_row.values():
        assert all(low <= row[column] <= high for column, (low, high) in row["intervals"].items())
    gain = by_row["1.7B Ours Q+DKL"]["comparison"]["columns"]["aggregated_empathy"]
    assert gain["p"] == pytest.approx(2 / 10_001)
    assert gain["p_holm"] < 0.05
    assert by_row["Gold"]["comparison"]["columns"] == {}
    assert "110 tests" in done.output and "1 blank rating" in done.output


def test_the_command_prints_every_system_and_never_crops_a_number(outputs: Path, tmp_path: Path) -> None:
    arguments = ["table", str(outputs), "--gold", str(outputs / "gold"), "--json", str(tmp_path / "t.json")]
    for width in ("60", "200"):
        done = CliRunner().invoke(app, arguments, env={"COLUMNS": width})
        assert done.exit_code == 0, done.output
        assert "ours" in done.output and "…" not in done.output


def test_too_few_resamples_for_any_star_are_told(outputs: Path) -> None:
    """10 tests: with 400 resamples the smallest p is 2 / 401, times 10 just below 0.05; with 399 it is 0.05."""
    assert 10 * 2 / 401 < 0.05 <= 10 * 2 / 400
    assert resamples_needed(10) == 400
    gold, ours = load_systems(outputs, outputs / "gold")
    told = "No difference can get a star here: the smallest p of 399 resamples times 10 tests is not below 0.05. "
    assert told + "--resamples 400 is enough." in notes_on(make_table([gold, ours], gold, resamples=399))
    assert len(notes_on(make_table([gold, ours], gold, resamples=400))) == 1


def test_a_fault_is_one_line_and_exit_code_two(outputs: Path, tmp_path: Path) -> None:
    path = outputs / "ours" / "conversations_tagged.json"
    path.write_bytes(path.read_bytes()[:-40])
    out = tmp_path / "table.json"
    arguments = ["evaluate", "table", str(outputs), "--gold", str(outputs / "gold"), "--json", str(out)]
    environment = os.environ | {"NO_COLOR": "1", "RAPPORT_TRACEBACK": ""}
    command = [sys.executable, str(ROOT / "rapport.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"error: {path}, line ")
    assert done.stderr.count("\n") == 1
    assert not out.exists()


def test_the_order_of_the_columns_is_the_papers() -> None:
    assert COLUMNS[0] == "words" and COLUMNS[-3:] == ("aggregated_empathy", "tac_per_turn", "stickiness")
    assert len(COLUMNS) == 10 and len(TACTICS) == 10
