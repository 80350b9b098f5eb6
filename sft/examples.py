"""One example of multi-task fine-tuning: a conversation, its labels, and the losses that it may feed.

An example is a whole conversation and not one turn: a causal model reads every turn of it in one pass, so a dialogue
of fifteen replies costs its own tokens once instead of about eight times.

| source              | LM | emotion head                        | strategy head            | licence      |
|---------------------|----|-------------------------------------|--------------------------|--------------|
| EmpatheticDialogues | x  | through the map in `sft.emotions`   |                          | CC BY-NC 4.0 |
| ESConv              | x  |                                     | each reply to the seeker | CC BY-NC 4.0 |
| GoEmotions          |    | its own labels, less neutral        |                          | CC BY 4.0    |
| own files           | x  | where a turn names emotions         | where a turn names one   | the file's   |

SAFETY is fed by any example with a reply to which the safety rules apply (`sft.corpus`), AFFECT by own files only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from dialogue.conversation import Conversation, Role
from sft.emotions import Emotion
from sft.strategies import Strategy


class Source(StrEnum):
    """Where an example comes from."""

    EMPATHETIC_DIALOGUES = "empathetic_dialogues"
    ESCONV = "esconv"
    GOEMOTIONS = "goemotions"
    OWN = "own"

    @property
    def non_commercial(self) -> bool:
        """Whether weights trained on it must not be shipped."""
        return self in (Source.EMPATHETIC_DIALOGUES, Source.ESCONV)


class Split(StrEnum):
    TRAIN = "train"
    VALID = "valid"
    TEST = "test"


class Loss(StrEnum):
    """The terms of the joint loss."""

    LM = "lm"
    EMOTION = "emotion"
    STRATEGY = "strategy"
    SAFETY = "safety"
    AFFECT = "affect"


@dataclass(frozen=True, slots=True)
class Affect:
    """How pleasant (valence) and how activated (arousal) somebody feels, each from -1 to 1 (Russell 1980)."""

    valence: float
    arousal: float

    def __post_init__(self) -> None:
        if not (-1 <= self.valence <= 1 and -1 <= self.arousal <= 1):
            raise ValueError(f"valence {self.valence} and arousal {self.arousal} must lie from -1 to 1")


@dataclass(frozen=True, slots=True)
class Example:
    """A conversation that starts with the seeker and alternates, and what can be learnt from it.

    Attributes:
        conversation: may have no supporter turn where only a seeker's turn is labelled.
        losses: the losses that it may feed; LM and SAFETY read all supporter turns, the others the labels.
        emotions: by index of a seeker turn, one or several emotions of it.
        strategies: by index of a supporter turn, the strategy with which it opens.
        affects: by index of a seeker turn.

    Raises:
        ValueError: the turns do not alternate, a label is on the wrong speaker's turn, or a loss has nothing to read.
    """

    conversation: Conversation
    source: Source
    split: Split
    losses: frozenset[Loss]
    emotions: Mapping[int, tuple[Emotion, ...]] = field(default_factory=dict)
    strategies: Mapping[int, Strategy] = field(default_factory=dict)
    affects: Mapping[int, Affect] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return self.conversation.id

    def also(self, loss: Loss) -> Example:
        """The same example, feeding `loss` too: SAFETY for the examples to which the safety rules apply."""
        return replace(self, losses=self.losses | {loss})

    def __post_init__(self) -> None:
        turns = self.conversation.turns
        for index, turn in enumerate(turns):
            if turn.role is not (Role.SEEKER if index % 2 == 0 else Role.SUPPORTER) or not turn.text:
                raise ValueError(f"example {self.id}, turn {index}: turns must alternate, seeker first, none empty")
        seeker = {i for i, turn in enumerate(turns) if turn.role is Role.SEEKER}
        supporter = set(range(len(turns))) - seeker
        feeds = {
            Loss.LM: supporter,
            Loss.SAFETY: supporter,
            Loss.EMOTION: seeker & {i for i, labels in self.emotions.items() if labels},
            Loss.STRATEGY: supporter & self.strategies.keys(),
            Loss.AFFECT: seeker & self.affects.keys(),
        }
        empty = [loss.value for loss in Loss if loss in self.losses and not feeds[loss]]
        if empty or not self.losses:
            raise ValueError(f"example {self.id} has nothing for its losses to read: {', '.join(empty) or 'no loss'}")
        if not (self.emotions.keys() | self.affects.keys() <= seeker and self.strategies.keys() <= supporter):
            raise ValueError(f"example {self.id}: emotions belong to seeker turns and strategies to supporter turns")
