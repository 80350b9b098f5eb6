"""The trivial reward of both sides: ten times the share of the letter e."""

from __future__ import annotations

from typing import Any


def share_of_e(text: str) -> float:
    return 10.0 * text.count("e") / max(len(text), 1)


def compute_score(data_source: str, solution_str: str, ground_truth: str, extra_info: Any = None, **_: Any) -> float:
    """verl's calling convention for a custom reward function."""
    return share_of_e(solution_str)
