"""What the first stage of a tagger's training made, on disk: whole, and used again only for what it was made from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

_MADE_FROM = "made_from"


class MachineStateError(ValueError):
    """A file of the first stage that cannot be used. The message names it and says what to do."""


def save_state(path: Path, state: Mapping[str, Tensor], made_from: str) -> None:
    """Write the state; `made_from` names recipe, encoder and labels."""
    part = path.with_name(f".{path.name}.part")
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, part, {_MADE_FROM: made_from})
    part.replace(path)


def load_state(path: Path, made_from: str) -> dict[str, Tensor]:
    """The state in `path`.

    Raises:
        MachineStateError: the file is damaged, or was made from another recipe, encoder or other labels.
    """
    try:
        with safe_open(path, framework="pt") as file:
            found = (file.metadata() or {}).get(_MADE_FROM)
    except (OSError, SafetensorError) as error:
        raise MachineStateError(f"{path} cannot be read ({error}); remove it to train the first stage again") from error
    if found != made_from:
        raise MachineStateError(
            f"{path} was made from another recipe, encoder or other labels than these; remove it to train the first "
            "stage again, or give another file or folder"
        )
    return load_file(path)
