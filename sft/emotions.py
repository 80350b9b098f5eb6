"""The emotions of GoEmotions, which the emotion head tells apart, and how EmpatheticDialogues' 32 map to them.

**Classes.** GoEmotions (Demszky et al. 2020, arXiv 2005.00547) has 27 emotions and neutral, written in its files as
0..26 and 27. The head has `EMOTION_CLASSES` = 27 outputs. Neutral is the absence of an emotion and no class of it.

**Rule for GoEmotions rows.**
    only neutral                -> the row teaches the head nothing: it is left out, and counted
    neutral and others          -> neutral is ignored, and counted: annotators saw the others
    k emotions                  -> the target is 1/k for each, so that the loss is the mean of k cross-entropies.
                                   A prediction counts as right when it is one of them.

**Rule for EmpatheticDialogues.** One of 32 words describes the situation of a conversation. `FEELINGS` gives, for each,
the GoEmotions class whose definition covers it, or None where a forced choice would teach something wrong. Several
words may share a class.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from dialogue.emotions import Emotion, Feeling

LABELS: tuple[Emotion, ...] = tuple(Emotion)
EMOTIONS: tuple[Emotion, ...] = LABELS[:-1]
EMOTION_CLASSES = len(EMOTIONS)


@dataclass(frozen=True, slots=True)
class Mapped:
    """The GoEmotions class of a feeling, or None, and why."""

    emotion: Emotion | None
    reason: str


FEELINGS: dict[Feeling, Mapped] = {
    Feeling.AFRAID: Mapped(Emotion.FEAR, "the same feeling under another word"),
    Feeling.ANGRY: Mapped(Emotion.ANGER, "the same feeling"),
    Feeling.ANNOYED: Mapped(Emotion.ANNOYANCE, "the same feeling; GoEmotions keeps mild anger apart as annoyance"),
    Feeling.ANTICIPATING: Mapped(
        Emotion.EXCITEMENT, "people look forward to trips and births: eager, not just hopeful"
    ),
    Feeling.ANXIOUS: Mapped(Emotion.NERVOUSNESS, "GoEmotions defines nervousness by worry and anxiety"),
    Feeling.APPREHENSIVE: Mapped(Emotion.NERVOUSNESS, "GoEmotions defines nervousness by apprehension"),
    Feeling.ASHAMED: Mapped(Emotion.EMBARRASSMENT, "GoEmotions counts shame as embarrassment"),
    Feeling.CARING: Mapped(Emotion.CARING, "the same word and sense: looking after someone"),
    Feeling.CONFIDENT: Mapped(Emotion.OPTIMISM, "GoEmotions' optimism includes confidence that something will succeed"),
    Feeling.CONTENT: Mapped(
        Emotion.JOY, "quiet happiness; joy is the only class for being pleased with how things are"
    ),
    Feeling.DEVASTATED: Mapped(Emotion.GRIEF, "overwhelming sorrow, mostly after a loss: stronger than sadness"),
    Feeling.DISAPPOINTED: Mapped(Emotion.DISAPPOINTMENT, "the same feeling"),
    Feeling.DISGUSTED: Mapped(Emotion.DISGUST, "the same feeling"),
    Feeling.EMBARRASSED: Mapped(Emotion.EMBARRASSMENT, "the same feeling"),
    Feeling.EXCITED: Mapped(Emotion.EXCITEMENT, "the same feeling"),
    Feeling.FAITHFUL: Mapped(None, "loyalty to a partner or a creed is a stance; neither love nor approval names it"),
    Feeling.FURIOUS: Mapped(Emotion.ANGER, "intense anger; GoEmotions has no stronger class"),
    Feeling.GRATEFUL: Mapped(Emotion.GRATITUDE, "the same feeling"),
    Feeling.GUILTY: Mapped(Emotion.REMORSE, "GoEmotions defines remorse by regret and guilt"),
    Feeling.HOPEFUL: Mapped(Emotion.OPTIMISM, "GoEmotions defines optimism by hopefulness"),
    Feeling.IMPRESSED: Mapped(Emotion.ADMIRATION, "finding someone or something impressive is GoEmotions' admiration"),
    Feeling.JEALOUS: Mapped(None, "envy was dropped from GoEmotions; desire lacks its grudge, anger its wish"),
    Feeling.JOYFUL: Mapped(Emotion.JOY, "the same feeling"),
    Feeling.LONELY: Mapped(Emotion.SADNESS, "pain at being alone; sadness is the class for emotional pain"),
    Feeling.NOSTALGIC: Mapped(None, "a bitter-sweet look back: half joy and half sadness, so either would be wrong"),
    Feeling.PREPARED: Mapped(None, "a state of readiness and not an emotion"),
    Feeling.PROUD: Mapped(Emotion.PRIDE, "the same feeling, of oneself or of those one is close to"),
    Feeling.SAD: Mapped(Emotion.SADNESS, "the same feeling"),
    Feeling.SENTIMENTAL: Mapped(None, "tenderness over keepsakes: love, sadness and joy are mixed"),
    Feeling.SURPRISED: Mapped(Emotion.SURPRISE, "the same feeling"),
    Feeling.TERRIFIED: Mapped(Emotion.FEAR, "intense fear; GoEmotions has no stronger class"),
    Feeling.TRUSTING: Mapped(None, "an attitude towards a person; GoEmotions has no class for trust"),
}


def emotion_of(feeling: Feeling) -> Emotion | None:
    """The GoEmotions class of one of EmpatheticDialogues' words, None where none fits."""
    return FEELINGS[feeling].emotion


def without_neutral(labels: Iterable[Emotion]) -> tuple[Emotion, ...]:
    """The emotions among a row's labels, in the order of `EMOTIONS`; none for a row that is only neutral."""
    chosen = set(labels)
    return tuple(emotion for emotion in EMOTIONS if emotion in chosen)


def emotion_target(labels: Iterable[Emotion]) -> tuple[float, ...]:
    """(27,) probabilities: 1/k for each of the k emotions.

    Raises:
        ValueError: no emotion but neutral.
    """
    emotions = without_neutral(labels)
    if not emotions:
        raise ValueError("neutral is no class of the emotion head: leave the row out")
    return tuple(1 / len(emotions) if emotion in emotions else 0.0 for emotion in EMOTIONS)
