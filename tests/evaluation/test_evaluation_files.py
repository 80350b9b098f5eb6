"""Reading JSON arrays and CSV tables: what is read is what was written, and every fault is named with its place."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evaluation.files import (
    EvaluationDataError,
    check_target,
    read_csv,
    read_json_array,
    read_json_entries,
    write_json,
)
from evaluation.json_files import read_json_value

ANY_FILE = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


def fault(read: object, *arguments: object) -> str:
    with pytest.raises(EvaluationDataError) as caught:
        read(*arguments)  # type: ignore[operator]
    return str(caught.value)


@given(rows=st.lists(st.lists(CELLS, min_size=2, max_size=2).filter(any), min_size=1, max_size=6))
@ANY_FILE
def test_a_csv_is_read_as_it_was_written(tmp_path: Path, rows: list[list[str]]) -> None:
    path = tmp_path / "any.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([["left", "right"], *rows])
    assert [list(row.cells.values()) for row in read_csv(path, ["left", "right"])] == rows


@given(array=st.lists(st.dictionaries(st.text(max_size=3), JSON_VALUES, max_size=3), max_size=4))
@ANY_FILE
def test_a_json_array_is_read_as_it_was_written(tmp_path: Path, array: list[dict]) -> None:
    path = tmp_path / "any.json"
    path.write_text(json.dumps(array), encoding="utf-8")
    assert read_json_array(path) == array


@given(data=st.binary(max_size=60) | st.text(alphabet='[]{}",:1a\n\\', max_size=60).map(str.encode))
@ANY_FILE
def test_any_bytes_are_read_or_refused_by_name(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "any.bytes"
    path.write_bytes(data)
    for read in (read_json_array, lambda file: read_csv(file, ["a"])):
        try:
            read(path)
        except EvaluationDataError as error:
            assert str(path) in str(error)


def test_rows_know_their_line_in_spite_of_line_breaks_and_empty_lines(tmp_path: Path) -> None:
    path = tmp_path / "talk.csv"
    path.write_bytes(b'\xef\xbb\xbfid,text\n1,"two\nlines"\n\n2,one\n')
    assert [(row.line, row.cells["id"]) for row in read_csv(path, ["id"])] == [(2, "1"), (5, "2")]


def test_entries_know_the_line_on_which_they_start(tmp_path: Path) -> None:
    path = tmp_path / "replies.json"
    path.write_text('\n[{"a": "],\\n"}, {"b": [1,\n2]},\n\n  {"c": "[{"}\n]')
    assert read_json_entries(path) == [
        (f"{path}, line 2, entry 0", {"a": "],\n"}),
        (f"{path}, line 2, entry 1", {"b": [1, 2]}),
        (f"{path}, line 5, entry 2", {"c": "[{"}),
    ]


@pytest.mark.parametrize(
    ("text", "place"),
    [('{"1": {"a": 1},\n"2": {},\n"1": {"a": 2}}', ", line 3"), ('{"1": {"a": 1, "a": 2}, "2": {"a": 1}}', "")],
)
def test_a_key_that_is_there_twice(tmp_path: Path, text: str, place: str) -> None:
    path = tmp_path / "questions.json"
    path.write_text(text)
    message = fault(read_json_value, path)
    assert message.startswith(f"{path}{place}: ") and message.endswith("is there more than once")


@pytest.mark.parametrize(
    ("data", "place", "complaint"),
    [
        (b'[{"a": 1},\n {"a": ', "line 2, column 8", "cut off"),
        (b"", "line 1", "cut off"),
        (b'[\n{"a": "\xff"}]', "line 2", "0xff is not UTF-8"),
        (b'{"a": 1}', "", "expected a JSON array"),
        (b"[{}, 3]", "entry 1", "expected an object"),
        (b"[" * 200_000, "", "nested too deeply"),
        (b"[" + b"1" * 5000 + b"]", "", "not valid JSON"),
    ],
)
def test_a_faulty_json_file(tmp_path: Path, data: bytes, place: str, complaint: str) -> None:
    path = tmp_path / "replies.json"
    path.write_bytes(data)
    message = fault(read_json_array, path)
    assert message.startswith(f"{path}, {place}" if place else str(path))
    assert complaint in message


@pytest.mark.parametrize(
    ("data", "place", "complaint"),
    [
        (b"", "line 1", "missing column id, score; the columns are none"),
        (b"id,note\n1,x\n", "line 1", "missing column score; the columns are id, note"),
        (b"id,score,id\n1,2,3\n", "line 1", "column id is there more than once"),
        (b"id,score\n1,2\n2\n", "line 3", "1 cells where the header has 2"),
        (b'id,score\n1,2\n2,"3', "line 3", "cut off"),
        (b"id,score\n1,2\n2,\xe9\n", "line 3", "0xe9 is not UTF-8"),
    ],
)
def test_a_faulty_csv_file(tmp_path: Path, data: bytes, place: str, complaint: str) -> None:
    path = tmp_path / "ratings.csv"
    path.write_bytes(data)
    message = fault(read_csv, path, ["id", "score"])
    assert message.startswith(f"{path}, {place}: ")
    assert complaint in message


def test_a_header_without_records_is_no_data(tmp_path: Path) -> None:
    path = tmp_path / "ratings.csv"
    path.write_text("id\n", encoding="utf-8")
    assert "no records" in fault(read_csv, path, ["id"])


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    assert fault(read_json_array, tmp_path / "none.json") == f"{tmp_path / 'none.json'}: there is no such file"
    assert str(tmp_path) in fault(read_csv, tmp_path, [])


def test_undefined_measures_are_written_as_null(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    write_json(path, {"rho": float("nan"), "by turn": [1.5, float("nan")], "interval": (0.0, 1.0)})
    assert json.loads(path.read_text(encoding="utf-8")) == {
        "rho": None,
        "by turn": [1.5, None],
        "interval": [0.0, 1.0],
    }
    assert [item.name for item in tmp_path.iterdir()] == ["out.json"]


def test_a_result_that_cannot_be_written_is_found_out_before_the_work(tmp_path: Path) -> None:
    assert "no folder" in fault(check_target, tmp_path / "nowhere" / "out.json")
    assert "it is a folder" in fault(check_target, tmp_path)
