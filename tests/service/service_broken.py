"""A model that cannot be loaded, in a module that imports quickly."""

from __future__ import annotations

from pathlib import Path


class BrokenModel:
    """A model whose weights are missing."""

    @classmethod
    def load(cls, folder: Path | None = None) -> BrokenModel:
        raise FileNotFoundError(f"no weights in {folder}")
