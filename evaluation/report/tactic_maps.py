"""Which tactics were used, when, and after which: the matrices behind the heat-maps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dialogue.tactics import TACTICS
from evaluation.report.run_files import Reply

MAX_STEP_BINS = 10


def tactic_by_step(replies: Sequence[Reply]) -> tuple[np.ndarray, list[str]]:
    """How often each tactic was used in training, by step.

    Returns:
        Shares of the non-empty replies that have the tactic, (K, C), and C names of the columns: steps, or where there
        are more than `MAX_STEP_BINS` of them, ranges of steps of nearly equal length.
    """
    steps = sorted({reply.step for reply in replies})
    bins = np.array_split(np.array(steps), min(MAX_STEP_BINS, max(1, len(steps))))
    columns = [[reply for reply in replies if part[0] <= reply.step <= part[-1]] for part in bins if len(part)]
    names = [f"{part[0]}" if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in bins if len(part)]
    return np.array([tactic_shares(column) for column in columns]).T.reshape(len(TACTICS), -1), names


def tactic_shares(replies: Sequence[Reply]) -> np.ndarray:
    """Share of the non-empty replies that have each tactic, (K,); NaN where there is no reply."""
    used = np.array([_used(reply) for reply in replies if not reply.empty])
    return used.mean(0) if len(used) else np.full(len(TACTICS), np.nan)


def tactic_after_tactic(replies: Sequence[Reply]) -> tuple[np.ndarray, np.ndarray]:
    """What a reply does after a turn that had a tactic: the mean of the diagonal is the stickiness.

    An empty reply is a reply without tactics, as in the definition of stickiness.

    Returns:
        Shares (K, K): rows the tactics of the supporter's previous turn, columns those of the reply; a row without any
        observation is NaN. And the number of observations of each row, (K,).
    """
    turns = [reply for reply in replies if reply.previous is not None]
    had = np.array([[t in (reply.previous or ()) for t in TACTICS] for reply in turns], float).reshape(-1, len(TACTICS))
    used = np.array([_used(reply) for reply in turns], float).reshape(-1, len(TACTICS))
    seen = had.sum(0)
    shares = np.full((len(TACTICS), len(TACTICS)), np.nan)
    np.divide(had.T @ used, seen[:, None], out=shares, where=seen[:, None] > 0)
    return shares, seen.astype(int)


def _used(reply: Reply) -> list[bool]:
    return [tactic in reply.distinct_tactics for tactic in TACTICS]
