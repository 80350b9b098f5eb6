"""Whether a base can read sequences as long as a run's: past its last position it reads noise, or fails midway."""

from __future__ import annotations

from pathlib import Path

from sft.base import open_config
from sft.config import ConfigError


def check_positions(base: Path, tokens: int, key: str, before: int = 0) -> None:
    """Compare the longest sequence with the positions that the base's configuration names, if it does.

    Args:
        tokens: of the longest sequence.
        key: of the configuration, which limits it.
        before: tokens that the safety teacher reads besides, before such a sequence.

    Raises:
        ConfigError: it is too long.
        BaseModelError: the base's configuration cannot be read.
    """
    positions = getattr(open_config(base), "max_position_embeddings", None)
    if positions is None or tokens + before <= positions:
        return
    behind = f" behind {before} of the safety rules" if before else ""
    told = f"set {key} to {positions - before} or less" if positions - before >= 2 else "take another base"
    raise ConfigError(f"the longest sequence has {tokens} tokens{behind}, but {base} takes {positions}: {told}")
