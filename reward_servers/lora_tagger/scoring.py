"""How well a LoRA tagger answers its own questions: macro F1 on annotations, as the encoder's is measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from dialogue.tactics import TACTICS, Tactic
from reward_servers.lora_tagger.prompts import Annotations, missing
from reward_servers.lora_tagger.tagger import LoraTagger
from reward_servers.tactics.data import TagDataError
from reward_servers.tactics.evaluation import Evaluation, evaluate

_TOGETHER = 64  # sentences asked about in one call of the tagger, ten prompts each


def check_annotations(annotations: Mapping[Tactic, Annotations]) -> list[tuple[str, str]]:
    """Reply and sentence of each of N annotations; to be asked before a tagger is loaded.

    Raises:
        TagDataError: a tactic has no annotations, or the tactics are not about the same sentences.
    """
    if lacking := missing(annotations):
        raise TagDataError(f"no annotations of {', '.join(lacking)}: all ten tactics are needed")
    asked = [(a.context, a.sentence) for a in annotations[TACTICS[0]].sentences]
    for tactic, found in annotations.items():
        if [(a.context, a.sentence) for a in found.sentences] != asked:
            raise TagDataError(f"the annotations of {tactic} and of {TACTICS[0]} are not about the same sentences")
    return asked


def evaluate_annotations(
    tagger: LoraTagger,
    annotations: Mapping[Tactic, Annotations],
    on_sentence: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Each sentence is asked about in the reply that its annotation gives; errors as `check_annotations`.

    `on_sentence` is told how many of all sentences have been asked about.
    """
    asked = check_annotations(annotations)
    rows = zip(*(annotations[tactic].sentences for tactic in TACTICS), strict=True)
    truth = np.array([[a.holds for a in row] for row in rows], dtype=np.float32)  # (N, K)
    decided = np.zeros_like(truth)
    for start in range(0, len(asked), _TOGETHER):
        some = asked[start : start + _TOGETHER]
        _decide(tagger, some, decided[start : start + _TOGETHER])
        if on_sentence is not None:
            on_sentence(start + len(some), len(asked))
    contexts = [context for context, _ in asked]
    return evaluate(truth, decided, [contexts.index(context) for context in contexts])


def _decide(tagger: LoraTagger, asked: Sequence[tuple[str, str]], decided: NDArray[np.float32]) -> None:
    """Write ones into (S, K) `decided` where a tactic holds."""
    tagged = tagger.tag([[sentence] for _, sentence in asked], [context for context, _ in asked])
    for row, probabilities in enumerate(tagged):
        for tactic in tagger.decide(probabilities)[0]:
            decided[row, TACTICS.index(tactic)] = 1
