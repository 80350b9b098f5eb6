"""How well a LoRA tagger answers its own questions: macro F1 on annotations, as the encoder's is measured."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dialogue.tactics import TACTICS, Tactic
from reward_servers.lora_tagger.prompts import Annotations, missing
from reward_servers.lora_tagger.tagger import LoraTagger
from reward_servers.tactics.data import TagDataError
from reward_servers.tactics.evaluation import Evaluation, evaluate


def evaluate_annotations(tagger: LoraTagger, annotations: Mapping[Tactic, Annotations]) -> Evaluation:
    """Each sentence is asked about in the reply that its annotation gives.

    Raises:
        TagDataError: a tactic has no annotations, or the tactics are not about the same sentences.
    """
    if lacking := missing(annotations):
        raise TagDataError(f"no annotations of {', '.join(lacking)}: all ten tactics are needed")
    asked = [(a.context, a.sentence) for a in annotations[TACTICS[0]].sentences]
    for tactic, found in annotations.items():
        if [(a.context, a.sentence) for a in found.sentences] != asked:
            raise TagDataError(f"the annotations of {tactic} and of {TACTICS[0]} are not about the same sentences")
    rows = zip(*(annotations[tactic].sentences for tactic in TACTICS), strict=True)
    truth = np.array([[a.holds for a in row] for row in rows], dtype=np.float32)  # (N, K)
    tagged = tagger.tag([[sentence] for _, sentence in asked], [context for context, _ in asked])
    decided = np.zeros_like(truth)
    for row, probabilities in enumerate(tagged):
        for tactic in tagger.decide(probabilities)[0]:
            decided[row, TACTICS.index(tactic)] = 1
    contexts = [context for context, _ in asked]
    return evaluate(truth, decided, [contexts.index(context) for context in contexts])
