"""The two kinds of tagger as one: what they share, and which of them a folder holds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dialogue.tactics import Tactic

Probabilities = NDArray[np.float32]


class Tagger(Protocol):
    """What `rapport tag` and the service ask of a tagger.

    A tagger with `reads_text = True` judges a sentence within the reply as it was written, and takes `texts` besides
    the sentences; one with `tolerance` may differ by that much between equal calls; one with `check(text, sentences)`
    says there, at little cost, that it cannot read a reply.
    """

    version: str

    def tag(self, replies: Sequence[Sequence[str]]) -> list[Probabilities]: ...

    def decide(self, probabilities: Probabilities) -> tuple[tuple[Tactic, ...], ...]: ...


def load_any_tagger(folder: Path | None) -> Tagger:
    """The tagger in `folder`, of whichever kind; the shipped encoder if it is None.

    Raises:
        TaggerWeightsError, LoraTaggerFolderError: the folder holds no usable tagger.
        SelfCheckError: vLLM would not answer as PEFT does.
    """
    from reward_servers.lora_tagger.folder import is_lora_tagger

    if folder is not None and is_lora_tagger(folder):
        from reward_servers.lora_tagger.tagger import LoraTagger

        return LoraTagger.load(folder)
    from reward_servers.tactics.encoder_tagger import EncoderTagger

    return EncoderTagger.load(folder)


def tag_replies(tagger: Any, texts: Sequence[str], sentences: Sequence[Sequence[str]]) -> list[Probabilities]:
    """(S, K) probabilities of each reply, given as it was written and cut into sentences."""
    if getattr(tagger, "reads_text", False):
        return list(tagger.tag(sentences, texts))
    return list(tagger.tag(sentences))
