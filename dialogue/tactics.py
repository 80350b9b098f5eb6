"""The ten supportive tactics of MINT (arXiv 2604.11742): what a sentence of a reply does for the seeker."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum

TacticCounts = tuple[int, ...]


class Tactic(StrEnum):
    """One supportive move. The order of the members is the order of every tactic vector (K = 10) in Rapport."""

    INFORMATION = "information"
    ASSISTANCE = "assistance"
    ADVICE = "advice"
    VALIDATION = "validation"
    EMOTIONAL_EXPRESSION = "emotional_expression"
    PARAPHRASING = "paraphrasing"
    SELF_DISCLOSURE = "self_disclosure"
    QUESTIONING = "questioning"
    REAPPRAISAL = "reappraisal"
    EMPOWERMENT = "empowerment"


TACTICS: tuple[Tactic, ...] = tuple(Tactic)

DEFINITIONS: dict[Tactic, str] = {
    Tactic.INFORMATION: "states facts, resources or data that answer a question or calm a worry",
    Tactic.ASSISTANCE: "offers to do something for the seeker oneself, or to connect them with someone who can",
    Tactic.ADVICE: "suggests something the seeker could do or a way to cope",
    Tactic.VALIDATION: "reassures, or says that the feeling is normal and makes sense",
    Tactic.EMOTIONAL_EXPRESSION: "shares the speaker's own feeling, hope or opinion about the seeker's situation",
    Tactic.PARAPHRASING: "gives the seeker's situation or feelings back in other words to show they were understood",
    Tactic.SELF_DISCLOSURE: "shares something of the speaker's own life or a similar past experience",
    Tactic.QUESTIONING: "asks about the seeker's feelings or situation",
    Tactic.REAPPRAISAL: "offers another way of looking at what happened",
    Tactic.EMPOWERMENT: "says something strengthening about the seeker's character or abilities",
}


def count_tactics(sentence_tactics: Iterable[Iterable[Tactic]]) -> TacticCounts:
    """Sum per-sentence labels into one count per tactic.

    Args:
        sentence_tactics: S collections of tactics, one per sentence; several tactics may hold for one sentence.

    Returns:
        K = 10 counts in the order of `TACTICS`.
    """
    counts = dict.fromkeys(TACTICS, 0)
    for tactics in sentence_tactics:
        for tactic in tactics:
            counts[tactic] += 1
    return tuple(counts.values())


def tactics_of_counts(counts: Sequence[int]) -> tuple[Tactic, ...]:
    """The distinct tactics whose count is above zero, in the order of `TACTICS`."""
    return tuple(tactic for tactic, count in zip(TACTICS, counts, strict=True) if count > 0)
