"""Whether a base has the layers that are to get an adapter.

peft is content when one of the names fits: a misspelt one beside it would be left without an adapter, and nobody told.
"""

from __future__ import annotations

import difflib
from pathlib import Path

from sft.base import open_skeleton
from sft.config import ConfigError, LoraConfig


def check_targets(base: Path, lora: LoraConfig) -> None:
    """Compare every name with the layers of the base, by peft's rule: the last parts of a layer's full name.

    Raises:
        ConfigError: the base has no layer of that name.
        BaseModelError: the base cannot be opened.
    """
    from torch import nn

    layers = dict(open_skeleton(base).named_modules())
    for target in lora.target_modules:
        if not any(name == target or name.endswith(f".{target}") for name in layers):
            known = sorted({name.rpartition(".")[2] for name, layer in layers.items() if isinstance(layer, nn.Linear)})
            close = difflib.get_close_matches(target, known, n=1)
            hint = f"did you mean {close[0]}? " if close else ""
            raise ConfigError(
                f"model.lora.target_modules: {base} has no layer {target!r} ({hint}it has {', '.join(known)})"
            )
