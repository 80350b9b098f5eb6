"""How varied the tactics are: over the turns of a conversation, from one turn to the next, and within a turn.

"Previous" is the supporter's turn before. On fixed histories (the Lend-an-Ear protocol) that is what the *person* said,
since the system answers to it; for conversations that a system led by itself it is the system's own reply.

    prevalence            share of the replies with a tactic, by the number of the turn in its conversation
    transitions[a][b]     P(the turn has b | the previous turn has a); the diagonal is the reuse of each tactic
    co_occurrence[a][b]   number of replies that have both; the diagonal counts the replies that have a
    stickiness            `evaluation.columns`, and by the number of the turn
    surface similarity    Jaccard index of the two turns' word bigrams, |A and B| / |A or B|
    tactic repetition     share of the previous turn's different tactics that the turn uses again

Surface similarity and repetition of tactics are set side by side because a reply may repeat the one without the other.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dialogue.tactics import TACTICS
from evaluation.bootstrap import mean_defined
from evaluation.columns import uses_of
from evaluation.correlation import spearman
from evaluation.ratings import Floats
from evaluation.systems import Flags, System, check_histories, previous_replies

_WORD = re.compile(r"\w+(?:['’]\w+)*")
_NAMES = [tactic.value for tactic in TACTICS]


@dataclass(frozen=True, eq=False, slots=True)
class Diversity:
    """The measures of one system; K = 10 tactics, T turn numbers, Q turns that have a previous one.

    Attributes:
        turn_numbers: T numbers, 1 for the first supporter turn of a conversation.
        replies_by_turn: (T,) how many replies have that number.
        prevalence: (T, K).
        chances: (K,) previous turns that have the tactic: what a row of `transitions` is a share of.
        reuse_baseline: (K,) P(the turn has it | the previous turn has it *not*): reuse that owes nothing to the past.
        transitions: (K, K), NaN where the previous turn never has the tactic.
        co_occurrence: (K, K) counts.
        stickiness: over all turns.
        stickiness_by_turn: (T,), NaN for the first turn of all.
        similarity: (Q,) surface similarity of each turn to its previous one.
        repetition: (Q,) tactic repetition there, NaN where the previous turn has no tactic.
        rank_correlation: Spearman's rho of the two, NaN where one of them does not vary.
    """

    system: str
    turn_numbers: NDArray[np.int64]
    replies_by_turn: NDArray[np.int64]
    prevalence: Floats
    chances: NDArray[np.int64]
    reuse_baseline: Floats
    transitions: Floats
    co_occurrence: NDArray[np.int64]
    stickiness: float
    stickiness_by_turn: Floats
    similarity: Floats
    repetition: Floats
    rank_correlation: float

    @property
    def reuse(self) -> Floats:
        """(K,) P(the turn has the tactic | the previous turn has it)."""
        return self.transitions.diagonal()

    def as_dict(self) -> dict[str, Any]:
        """For JSON: everything by name; matrices are {tactic before: {tactic after: value}}."""
        numbers = [str(number) for number in self.turn_numbers]
        return {
            "replies_by_turn": dict(zip(numbers, self.replies_by_turn.tolist(), strict=True)),
            "prevalence_by_turn": {n: _named(row) for n, row in zip(numbers, self.prevalence, strict=True)},
            "reuse": _named(self.reuse),
            "reuse_baseline": _named(self.reuse_baseline),
            "chances": _named(self.chances),
            "transitions": {name: _named(row) for name, row in zip(_NAMES, self.transitions, strict=True)},
            "co_occurrence": {name: _named(row) for name, row in zip(_NAMES, self.co_occurrence, strict=True)},
            "stickiness": self.stickiness,
            "stickiness_by_turn": dict(zip(numbers, self.stickiness_by_turn.tolist(), strict=True)),
            "surface_similarity": _mean(self.similarity),
            "tactic_repetition": _mean(self.repetition),
            "rank_correlation": self.rank_correlation,
            "similarity_and_repetition": np.column_stack([self.similarity, self.repetition]).tolist(),
        }


def diversity_of(system: System, source: System) -> Diversity:
    """All measures of one system.

    Args:
        source: whose turns are the previous ones: gold, or the system itself.

    Raises:
        EvaluationDataError: `source` lacks a previous turn, or the system answers other histories.
    """
    check_histories(system, source)
    previous = previous_replies(system.replies, source)
    uses, before = uses_of(system.replies), uses_of(previous)  # (N, K) each
    has_previous = np.array([reply is not None for reply in previous])
    numbers = np.array([reply.number for reply in system.replies])
    turn_numbers = np.unique(numbers)
    pairs = [(old, new) for old, new in zip(previous, system.replies, strict=True) if old is not None]
    similarity = np.array([bigram_jaccard(old.text, new.text) for old, new in pairs])
    repetition = _shares((uses & before).sum(axis=1), before.sum(axis=1))[has_previous]
    return Diversity(
        system=system.name,
        turn_numbers=turn_numbers,
        replies_by_turn=np.array([(numbers == number).sum() for number in turn_numbers]),
        prevalence=np.array([uses[numbers == number].mean(axis=0) for number in turn_numbers]),
        chances=before.sum(axis=0),
        reuse_baseline=transition_matrix(~before[has_previous], uses[has_previous]).diagonal(),
        transitions=transition_matrix(before, uses),
        co_occurrence=uses.T.astype(np.int64) @ uses.astype(np.int64),
        stickiness=stickiness(before, uses),
        stickiness_by_turn=np.array([stickiness(before[numbers == n], uses[numbers == n]) for n in turn_numbers]),
        similarity=similarity,
        repetition=repetition,
        rank_correlation=spearman(*_both_defined(similarity, repetition)),
    )


def transition_matrix(before: Flags, uses: Flags) -> Floats:
    """(K, K) P(b now | a before) from (N, K) tactics of the previous and of the current turns; NaN without an a."""
    both = before.T.astype(np.float64) @ uses.astype(np.float64)
    return _shares(both, np.broadcast_to(before.sum(axis=0)[:, None], both.shape))


def stickiness(before: Flags, uses: Flags) -> float:
    """Mean of the reuse of the tactics that occur before (arXiv 2604.11742); NaN where none does."""
    return float(mean_defined(transition_matrix(before, uses).diagonal(), axis=0))


def bigram_jaccard(left: str, right: str) -> float:
    """Jaccard index of the sets of word bigrams, case ignored: 1 for the same words in order, 0 for none in common.

    A text of one word has no bigram; two texts without bigrams share nothing, so they give 0.
    """
    first, second = _bigrams(left), _bigrams(right)
    return len(first & second) / len(first | second) if first | second else 0.0


def _bigrams(text: str) -> set[tuple[str, str]]:
    words = _WORD.findall(text.lower())
    return set(pairwise(words))


def _both_defined(similarity: Floats, repetition: Floats) -> tuple[Floats, Floats]:
    defined = ~np.isnan(repetition)
    return similarity[defined], repetition[defined]


def _shares(part: NDArray[Any], whole: NDArray[Any]) -> Floats:
    """part / whole, NaN where `whole` is 0."""
    return np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=whole > 0)


def _mean(values: Floats) -> float:
    return float(mean_defined(values, axis=0))


def _named(values: NDArray[Any]) -> dict[str, Any]:
    return dict(zip(_NAMES, values.tolist(), strict=True))
