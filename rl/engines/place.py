"""Where a rank is: the little that the driver tells it before anything heavy is imported."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Place:
    """`address`, `port`: where the ranks meet. `neighbours`: ranks on the same node, itself included."""

    rank: int
    ranks: int
    address: str
    port: int
    neighbours: int
