"""The linear probe: a logistic regression on the states of the frozen base, at the places where the heads read.

A head has a hidden layer, and an adapter below it that was trained for it. The probe has neither, so what a head is
above it, fine-tuning has gained; a head that is not above it could be had for minutes of work.

States are standardised. The strength of the L2 penalty is the best of four on a fifth of the training sequences, and
the probe is then fitted to all of them. A turn with k labels counts 1/k for each, as in the loss of the head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sft.batching import collate
from sft.corpus import Corpus
from sft.examples import Loss
from sft.measuring.measures import CLASSES, Guesses, as_indicators
from sft.model import SftModel
from sft.tokens import TokenSequence

MAX_ROWS = 20_000  # training sequences that are read; more gain little and cost a pass of the base each
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)  # C of scikit-learn: the inverse of the penalty's weight
HELD_OUT = 5  # every fifth turn chooses the strength


class Turns(NamedTuple):
    """M labelled turns: states (M, H) and whether each class is a label (M, C)."""

    states: NDArray[np.float32]
    labels: NDArray[np.bool_]


def linear_probe(
    model: SftModel,
    train: Corpus,
    rows: Sequence[TokenSequence],
    heads: Iterable[Loss],
    batch_size: int,
    pad_id: int,
    limit: int = MAX_ROWS,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> dict[Loss, Guesses]:
    """What the probe says of `rows`, for each head that has labels in both.

    Args:
        model: its adapter and dropout are off while it reads.
        train: the sequences that the runs are trained on.
        heads: EMOTION, STRATEGY or both.
        limit: at most so many of them are read, evenly spread.
        on_progress: told what is read, how many sequences of it, and of how many.
    """
    wanted = list(heads)
    fed = [row for part in train.sequences.values() for row in part if row.losses & set(wanted)]
    taken = min(limit, len(fed))
    chosen = [fed[n * len(fed) // taken] for n in range(taken)]
    learnt = labelled_turns(model, chosen, wanted, batch_size, pad_id, on_progress)
    measured = labelled_turns(model, rows, wanted, batch_size, pad_id, on_progress)
    both = [loss for loss in wanted if loss in learnt and loss in measured]
    return {loss: Guesses(guess(learnt[loss], measured[loss].states), measured[loss].labels) for loss in both}


def labelled_turns(
    model: SftModel,
    rows: Sequence[TokenSequence],
    heads: Iterable[Loss],
    batch_size: int,
    pad_id: int,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> dict[Loss, Turns]:
    """The turns of some sequences that each head would read, as the base alone sees them; none where there are none."""
    found: dict[Loss, list[Turns]] = {loss: [] for loss in heads}
    ordered = sorted(rows, key=lambda row: len(row.ids))
    with model.as_teacher():
        for start in range(0, len(ordered), batch_size):
            if on_progress:
                on_progress("linear probe", start, len(ordered))
            batch = collate(ordered[start : start + batch_size], pad_id).to(model.device)
            states = model.states(batch.ids, batch.attention)
            for loss, several in found.items():
                spots = batch.spots[loss]
                if len(spots):
                    read = spots.pick(states).float().cpu().numpy()
                    several.append(Turns(read, as_indicators(spots.targets.cpu(), CLASSES[loss])))
    return {
        loss: Turns(np.concatenate([s.states for s in several]), np.concatenate([s.labels for s in several]))
        for loss, several in found.items()
        if several
    }


def guess(train: Turns, states: NDArray[np.float32]) -> list[int]:
    """The likeliest class of each of M states, by a probe that is fitted to `train`."""
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(train.states)
    known = Turns(scaler.transform(train.states), train.labels)
    return [int(number) for number in _fit(known, _strength(known)).predict(scaler.transform(states))]


def _strength(known: Turns) -> float:
    """The one with the most right guesses on the held-out turns; the strongest penalty of equals."""
    held = np.arange(len(known.states)) % HELD_OUT == 0
    if held.all():
        return STRENGTHS[0]
    some, labels = Turns(known.states[~held], known.labels[~held]), known.labels[held]
    right = []
    for strength in STRENGTHS:
        said = _fit(some, strength).predict(known.states[held])
        right.append(int(labels[np.arange(len(labels)), said].sum()))
    return STRENGTHS[int(np.argmax(right))]


def _fit(known: Turns, strength: float) -> Any:
    """A classifier with `predict`."""
    from sklearn.dummy import DummyClassifier
    from sklearn.linear_model import LogisticRegression

    turns, classes = known.labels.nonzero()
    weights = 1 / known.labels.sum(1)[turns]
    one = len(np.unique(classes)) == 1  # nothing to tell apart
    model = DummyClassifier() if one else LogisticRegression(C=strength, max_iter=2000)
    return model.fit(known.states[turns], classes, sample_weight=weights)
