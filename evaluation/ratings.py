"""Ratings on the six Lend-an-Ear dimensions, one CSV row per turn or per conversation.

A blank cell is a rating that was not given (the released judge left one of 22,680 blank). It stays out of the mean of
its dimension, and the aggregate of that turn is the mean of the other five, which is what the released files hold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evaluation.files import EvaluationDataError, Row, read_csv
from reward_servers.protocol import Dimension

Floats = NDArray[np.float64]

CONVERSATION = "conversation_id"
TURN = "turn_index"
LOWEST, HIGHEST = 1, 5


@dataclass(frozen=True, slots=True)
class Rating:
    """One row.

    Attributes:
        line: where it stands in its file.
        turn: index of the rated turn in its conversation, from 1; 0 where the whole conversation was rated.
        values: six ratings in the order of `Dimension`, not reversed, NaN where blank.
    """

    line: int
    conversation: str
    turn: int
    values: tuple[float, ...]


def read_ratings(path: Path, need_turns: bool = False) -> list[Rating]:
    """All rows of a ratings file; rows are of turns where the file has the column `turn_index`.

    Args:
        need_turns: a file without that column is a fault.

    Raises:
        EvaluationDataError: as `read_csv`, or a cell is no number from 1 to 5, or something is rated twice.
    """
    columns = [CONVERSATION, *([TURN] if need_turns else []), *(dimension.value for dimension in Dimension)]
    rows = read_csv(path, columns)
    first_lines: dict[tuple[str, int], int] = {}
    ratings = []
    for row in rows:
        rating = _rating(row, path)
        key = (rating.conversation, rating.turn)
        if key in first_lines:
            what = f"conversation {rating.conversation!r}" + (f", turn {rating.turn}" if rating.turn else "")
            raise EvaluationDataError(f"{path}, line {row.line}: {what} was rated on line {first_lines[key]} already")
        first_lines[key] = row.line
        ratings.append(rating)
    return ratings


def read_turn_ratings(path: Path) -> dict[tuple[str, int], Rating]:
    """(conversation, turn index) -> rating.

    Raises:
        EvaluationDataError: as `read_ratings`, or the file rates whole conversations.
    """
    return {(rating.conversation, rating.turn): rating for rating in read_ratings(path, need_turns=True)}


def read_conversation_ratings(path: Path) -> dict[str, Floats]:
    """Conversation -> (6,) ratings. Where turns were rated, the mean over the turns of the conversation.

    Raises:
        EvaluationDataError: as `read_ratings`, or a conversation has no rating at all on a dimension.
    """
    by_conversation: dict[str, list[Rating]] = {}
    for rating in read_ratings(path):
        by_conversation.setdefault(rating.conversation, []).append(rating)
    means = {}
    for conversation, ratings in by_conversation.items():
        values = np.array([rating.values for rating in ratings])  # (turns, 6)
        blank = np.isnan(values).all(axis=0)
        if blank.any():
            dimension = list(Dimension)[int(blank.argmax())].value
            raise EvaluationDataError(
                f"{path}, line {ratings[0].line}: conversation {conversation!r} has no rating of {dimension}"
            )
        means[conversation] = np.nanmean(values, axis=0)
    return means


def aggregated(values: Floats) -> Floats:
    """Aggregated empathy (arXiv 2604.11742): mean of the six, the lower-is-better ones reversed as 6 - x.

    Args:
        values: (N, 6) ratings, NaN where blank.

    Returns:
        (N,) from 1 (worst) to 5 (best), the mean of what is not blank; NaN where all six are.
    """
    reverse = np.array([dimension.lower_is_better for dimension in Dimension])
    better = np.where(reverse, LOWEST + HIGHEST - values, values)
    given = ~np.isnan(better)
    total, count = np.where(given, better, 0.0).sum(axis=1), given.sum(axis=1)
    return np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)


def _rating(row: Row, path: Path) -> Rating:
    where = f"{path}, line {row.line}"
    conversation = row.cells[CONVERSATION].strip()
    if not conversation:
        raise EvaluationDataError(f"{where}: {CONVERSATION} is empty")
    values = tuple(_value(row.cells[dimension.value], dimension, where) for dimension in Dimension)
    return Rating(row.line, conversation, _turn(row, where), values)


def _turn(row: Row, where: str) -> int:
    if TURN not in row.cells:
        return 0
    text = row.cells[TURN].strip()
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) > 0):
        raise EvaluationDataError(f"{where}: {TURN} is {text!r:.40}; expected a whole number above 0")
    return int(text)


def _value(text: str, dimension: Dimension, where: str) -> float:
    if not text.strip():
        return math.nan
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not LOWEST <= value <= HIGHEST:
        raise EvaluationDataError(
            f"{where}: {dimension.value} is {text!r:.40}; expected {LOWEST} to {HIGHEST}, or blank"
        )
    return value
