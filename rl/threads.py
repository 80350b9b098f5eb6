"""How many threads a process of a run computes with on CPU."""

from __future__ import annotations

import os

from rl.config import ConfigError

THREADS_VARIABLE = "RAPPORT_THREADS"


def share_of_cores(neighbours: int) -> int:
    """Threads for one of `neighbours` alike processes on this node: RAPPORT_THREADS, or else its share of the cores.

    Not OMP_NUM_THREADS: where it is not set Ray sets it for every actor, so what is found there may be nobody's wish.

    Raises:
        ConfigError: RAPPORT_THREADS is no positive number.
    """
    asked = os.environ.get(THREADS_VARIABLE, "")
    if asked and not (asked.isascii() and asked.isdigit() and int(asked) > 0):
        raise ConfigError(f"{THREADS_VARIABLE}={asked}: expected a number of threads, 1 or more")
    return int(asked) if asked else max(1, len(os.sched_getaffinity(0)) // neighbours)
