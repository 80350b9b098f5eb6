"""Any scorer from its folder, whatever kind it is: told by the files in it, loaded as the service would load it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reward_servers.loading import load_model
from reward_servers.protocol import EmpathyScore, ScoreRequest
from reward_servers.service_config import (
    MARKS,
    QUALITY_LOADER,
    REWARD_MODEL_LOADER,
    SCORER_LOADER,
    DeploymentConfig,
)
from reward_servers.turn_scorers.dialogues import LICENCE
from reward_servers.turn_scorers.saved import CARD, TurnScorerError

_KINDS = {mark: loader for loader, mark in MARKS.items()}
_NOTES = {
    QUALITY_LOADER: f"trained on EmpatheticDialogues ({LICENCE}): for research only",
    SCORER_LOADER: "trained on a judge's ratings of replies to the conversations that were not kept out",
}


@dataclass(frozen=True, slots=True)
class Opened:
    """A loaded scorer.

    Attributes:
        in_points: whether its one number is on the scale of 1 to 5; so it is but for a reward model.
    """

    name: str
    model: Any
    in_points: bool
    note: str

    def dimensions(self, requests: Sequence[ScoreRequest]) -> list[EmpathyScore] | None:
        """The six dimensions of each reply; None for a scorer of one number."""
        return list(self.model.score(requests)) if hasattr(self.model, "score") else None

    def quality(self, requests: Sequence[ScoreRequest]) -> list[float]:
        return [float(value) for value in self.model.quality(requests)]


def scorer_folders(folder: Path) -> list[Path]:
    """`folder` itself if it holds a scorer, else the trained turn scorers at most two levels below it.

    Raises:
        TurnScorerError: there is none.
    """
    if any((folder / name).is_file() for name in _KINDS):
        return [folder]
    found = sorted(card.parent for card in [*folder.glob(f"*/{CARD}"), *folder.glob(f"*/*/{CARD}")])
    if not found:
        raise TurnScorerError(f"{folder}: no scorer there; expected a folder with one of {', '.join(_KINDS)}")
    return found


def open_scorer(folder: Path | None) -> Opened:
    """The scorer of a folder of `scorer_folders`; the shipped one if None. Errors are those of its `load`."""
    if folder is None:
        return _opened("shipped scorer", SCORER_LOADER, "")
    loader = next(loader for name, loader in _KINDS.items() if (folder / name).is_file())
    return _opened("/".join(folder.resolve().parts[-2:]), loader, str(folder))


def _opened(name: str, loader: str, folder: str) -> Opened:
    model = load_model(DeploymentConfig(loader, folder))
    return Opened(name, model, loader != REWARD_MODEL_LOADER, _NOTES.get(loader, ""))
