"""The questions of EQ-Bench v2, from the file of its authors that the user names; they are not part of this repository.

    {"1": {"prompt": "...", "reference_answer_fullscale": {"emotion1": "Annoyed", ..., "emotion4": ...,
                                                           "emotion1_score": 7, ..., "emotion4_score": "0"}}, ...}

Version 2 scores against `reference_answer_fullscale`; `reference_answer`, which adds up to 10, is version 1's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.files import EvaluationDataError, shown
from evaluation.json_files import read_json_value

EMOTIONS = 4
HIGHEST = 10.0


@dataclass(frozen=True, slots=True)
class EqQuestion:
    """One question; `reference` is lower-case emotion -> intensity from 0 to 10, four of them."""

    id: str
    prompt: str
    reference: Mapping[str, float]


def read_questions(path: Path) -> list[EqQuestion]:
    """The questions in the order of the file.

    Raises:
        EvaluationDataError: the file is no such object, or a question in it is not complete.
    """
    entries = read_json_value(path)
    if not isinstance(entries, dict) or not entries:
        raise EvaluationDataError(f"{path}: found {shown(entries)}; expected an object of questions by id")
    return [_question(name, entry, f"{path}, question {name!r}") for name, entry in entries.items()]


def _question(name: str, entry: Any, where: str) -> EqQuestion:
    if not isinstance(entry, dict) or not isinstance(entry.get("prompt"), str) or not entry["prompt"].strip():
        raise EvaluationDataError(f'{where}: expected an object with a text "prompt"')
    answer = entry.get("reference_answer_fullscale")
    if not isinstance(answer, dict):
        raise EvaluationDataError(f'{where}: no "reference_answer_fullscale"; is this a file of version 2?')
    reference = {_emotion(answer, i, where): _intensity(answer, i, where) for i in range(1, EMOTIONS + 1)}
    if len(reference) != EMOTIONS:
        raise EvaluationDataError(f"{where}: an emotion is there twice; expected {EMOTIONS} different ones")
    return EqQuestion(name, entry["prompt"], reference)


def _emotion(answer: Mapping[str, Any], number: int, where: str) -> str:
    name = answer.get(f"emotion{number}")
    if not isinstance(name, str) or not name.strip():
        raise EvaluationDataError(f'{where}: "emotion{number}" must name an emotion; found {shown(name)}')
    return name.lower()


def _intensity(answer: Mapping[str, Any], number: int, where: str) -> float:
    """From a number or, as the authors' file has it, a number in quotes."""
    value = answer.get(f"emotion{number}_score")
    try:
        intensity = float(value) if isinstance(value, int | float | str) else -1.0
    except (ValueError, OverflowError):
        intensity = -1.0
    if not 0 <= intensity <= HIGHEST:
        raise EvaluationDataError(f'{where}: "emotion{number}_score" must be from 0 to 10; found {shown(value)}')
    return intensity
