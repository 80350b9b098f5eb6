"""What crosses the border of the reward servers: the request, the score and the failure.

With `client.py` this is all that `rl`, `sft` and `evaluation` import of this package. It imports no model code, so it
loads in milliseconds and its objects pickle between Ray processes of any kind.

Invariants
    A request gets exactly one answer: a `Score` or a `ScoreFailure`, in the order of the requests.
    A failure is never a number: no field of `Score` is ever made up for something that could not be scored.
    Equal requests to equal model versions get bitwise equal scores, whatever else was in the batch; a model for which
    that cannot hold (the LoRA tagger: vLLM orders the sums of a batch as it likes) states its tolerance.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from dialogue.conversation import Message
from dialogue.tactics import Tactic, TacticCounts, count_tactics

TOKEN_VARIABLE = "RAPPORT_REWARD_TOKEN"
"""The environment variable of the servers' bearer token, for those who serve and those who call."""


class Dimension(StrEnum):
    """The six Lend-an-Ear dimensions, each judged from 1 to 5 (arXiv 2604.11742)."""

    VALIDATING_EMOTIONS = "validating_emotions"
    ENCOURAGING_ELABORATION = "encouraging_elaboration"
    DEMONSTRATING_UNDERSTANDING = "demonstrating_understanding"
    ADVICE_GIVING = "advice_giving"
    SELF_ORIENTED = "self_oriented"
    DISMISSING_EMOTIONS = "dismissing_emotions"

    @property
    def lower_is_better(self) -> bool:
        return self in (Dimension.ADVICE_GIVING, Dimension.SELF_ORIENTED, Dimension.DISMISSING_EMOTIONS)


@dataclass(frozen=True, slots=True)
class EmpathyScore:
    """Six dimensions in the order of `Dimension`, each on the judge's scale of 1 to 5, not yet reversed."""

    dimensions: tuple[float, ...]

    @property
    def aggregated(self) -> float:
        """Mean of the six after reversing the lower-is-better ones as 6 - x: from 1 (worst) to 5 (best)."""
        better = (6 - x if d.lower_is_better else x for d, x in zip(Dimension, self.dimensions, strict=True))
        return sum(better) / len(Dimension)

    def as_dict(self) -> dict[str, float]:
        return {d.value: x for d, x in zip(Dimension, self.dimensions, strict=True)}


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """One reply to score.

    Attributes:
        id: names the reply in errors and metrics; does not influence the score.
        history: messages before the reply, user and assistant only, the last one from the user.
        response: the reply as the seeker would see it, thinking block already stripped. May be any text, empty too.
    """

    id: str
    history: tuple[Message, ...]
    response: str


@dataclass(frozen=True, slots=True)
class Score:
    """What the reward servers say of one reply.

    Attributes:
        request_id: `ScoreRequest.id`.
        sentences: the reply cut into S sentences by `dialogue.sentences.split_sentences`.
        sentence_tactics: S tuples of the tactics found, in the order of `dialogue.tactics.TACTICS`.
        tactic_probabilities: S tuples of K = 10 probabilities.
        empathy: the six dimensions.
        quality: Q of the MINT reward; here the aggregated empathy unless a reward model is configured.
        model_versions: deployment name -> version of the weights that made this score.
    """

    request_id: str
    sentences: tuple[str, ...]
    sentence_tactics: tuple[tuple[Tactic, ...], ...]
    tactic_probabilities: tuple[tuple[float, ...], ...]
    empathy: EmpathyScore
    quality: float
    model_versions: dict[str, str] = field(default_factory=dict)

    @property
    def tactic_counts(self) -> TacticCounts:
        return count_tactics(self.sentence_tactics)


@dataclass(frozen=True, slots=True)
class QualityScore:
    """Q of one reply alone, with no tactics; the fields are those of `Score`."""

    request_id: str
    quality: float
    model_versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TaggedReply:
    """A reply with its tactics and no empathy score; the fields are those of `Score`."""

    sentences: tuple[str, ...]
    sentence_tactics: tuple[tuple[Tactic, ...], ...]
    tactic_probabilities: tuple[tuple[float, ...], ...]

    @property
    def tactic_counts(self) -> TacticCounts:
        return count_tactics(self.sentence_tactics)


class FailureKind(StrEnum):
    """Why a reply has no score. The first three are worth a retry; the last two would fail again."""

    TIMEOUT = "timeout"
    UNAVAILABLE = "unavailable"
    OVERLOADED = "overloaded"
    INVALID_REQUEST = "invalid_request"
    INTERNAL = "internal"

    @property
    def retryable(self) -> bool:
        return self in (FailureKind.TIMEOUT, FailureKind.UNAVAILABLE, FailureKind.OVERLOADED)


@dataclass(frozen=True, slots=True)
class ScoreFailure:
    """A reply that could not be scored, after all retries. Never to be turned into a number.

    Attributes:
        request_id: `ScoreRequest.id`.
        kind: classified once, where it was first seen.
        message: for a person: what happened and what to do, root cause included.
        server: deployment or URL that failed.
        attempts: how many calls were made in all.
    """

    request_id: str
    kind: FailureKind
    message: str
    server: str
    attempts: int


ScoreResult = Score | ScoreFailure
QualityResult = QualityScore | ScoreFailure
TagResult = TaggedReply | ScoreFailure
EmpathyResult = EmpathyScore | ScoreFailure
