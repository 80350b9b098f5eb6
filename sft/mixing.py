"""Temperature mixing: which source the next example comes from, and which example of it.

    p_i = n_i^alpha / sum_j n_j^alpha

alpha 1 mixes in proportion to size, 0 gives every source the same share, 0.5 is the report's choice.

Invariants
    Draw number k depends on the seed, the sizes, alpha and k alone, so the counts of draws are the whole state.
    Within a source every example is drawn once before any is drawn again; each pass has an order of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sft.examples import Source

_CHOICE, _ORDER = 0, 1  # random streams: of sources, of examples within a source


class MixingError(ValueError):
    """Sizes or a saved state that cannot be used."""


class Draw(NamedTuple):
    """One example: its number within its source."""

    source: Source
    place: int


def mixing_shares(sizes: Mapping[Source, int], alpha: float) -> dict[Source, float]:
    """p_i for each source, summing to 1.

    Raises:
        MixingError: no source, an empty one, or alpha is not a finite number from 0 up.
    """
    if not (math.isfinite(alpha) and alpha >= 0):
        raise MixingError(f"alpha is {alpha}; it must be 0 or more (1: by size, 0: the same share for each)")
    empty = [source.value for source, size in sizes.items() if size < 1]
    if empty or not sizes:
        raise MixingError(f"nothing to mix: {', '.join(empty) or 'no source'} has no examples")
    largest = max(sizes.values())
    powers = {source: (size / largest) ** alpha for source, size in sizes.items()}
    return {source: power / sum(powers.values()) for source, power in powers.items()}


class MixtureSampler:
    """The endless, seeded sequence of draws; see the module's invariants."""

    def __init__(self, sizes: Mapping[Source, int], alpha: float, seed: int) -> None:
        self.shares = mixing_shares(sizes, alpha)
        self._sizes = {source: sizes[source] for source in sorted(sizes)}
        self._alpha = alpha
        self._seed = seed
        self._drawn = dict.fromkeys(self._sizes, 0)
        self._edges = np.cumsum([self.shares[source] for source in self._sizes])
        self._orders: dict[Source, tuple[int, NDArray[np.int64]]] = {}

    @property
    def seed(self) -> int:
        return self._seed

    @property
    def draws_per_epoch(self) -> int:
        """As many draws as there are examples; with alpha below 1, small sources are seen more than once in them."""
        return sum(self._sizes.values())

    @property
    def drawn(self) -> dict[Source, int]:
        """Draws so far from each source."""
        return dict(self._drawn)

    def realised_shares(self) -> dict[Source, float]:
        """The share of each source in the draws so far; all 0 before the first."""
        total = max(sum(self._drawn.values()), 1)
        return {source: count / total for source, count in self._drawn.items()}

    def draw(self) -> Draw:
        number = sum(self._drawn.values())
        point = np.random.default_rng([self._seed, _CHOICE, number]).random()
        place = min(int(np.searchsorted(self._edges, point, side="right")), len(self._edges) - 1)
        source = list(self._sizes)[place]
        finished, position = divmod(self._drawn[source], self._sizes[source])
        self._drawn[source] += 1
        return Draw(source, int(self._order(source, place, finished)[position]))

    def _order(self, source: Source, place: int, finished: int) -> NDArray[np.int64]:
        """The order of one pass through a source; the latest is kept."""
        known = self._orders.get(source)
        if known is None or known[0] != finished:
            order = np.random.default_rng([self._seed, _ORDER, place, finished]).permutation(self._sizes[source])
            known = self._orders[source] = (finished, order)
        return known[1]

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers and strings, fit for JSON."""
        return {"drawn": {source.value: count for source, count in self._drawn.items()}, "mixture": self._mixture()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`.

        Raises:
            MixingError: it is the state of another mixture, so the draws would not be the same.
        """
        if state["mixture"] != self._mixture():
            raise MixingError(
                f"the data mixture differs from the checkpoint (now {self._mixture()}, then {state['mixture']}):"
                " restore data, alpha and seed, or start a new run"
            )
        self._drawn = {source: int(state["drawn"][source.value]) for source in self._sizes}

    def _mixture(self) -> dict[str, Any]:
        sizes = {source.value: size for source, size in self._sizes.items()}
        return {"sizes": sizes, "alpha": self._alpha, "seed": self._seed}
