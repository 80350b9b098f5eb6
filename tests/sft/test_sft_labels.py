"""Labels: 32 words to 27 classes with a reason for each, neutral is no class, strategies spelled as in the data."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dialogue.conversation import Conversation, Role, Turn
from sft.balance import class_weights, emotion_counts, strategy_counts
from sft.emotions import (
    EMOTION_CLASSES,
    EMOTIONS,
    FEELINGS,
    LABELS,
    Emotion,
    Feeling,
    emotion_of,
    emotion_target,
    without_neutral,
)
from sft.examples import Affect, Example, Loss, Source, Split
from sft.strategies import STRATEGIES, Strategy, parse_strategy

TALK = Conversation("c", (Turn(Role.SEEKER, "My cat is ill."), Turn(Role.SUPPORTER, "Oh no.")))


def test_every_feeling_has_a_class_or_none_and_a_reason() -> None:
    assert set(FEELINGS) == set(Feeling) and len(Feeling) == 32
    assert all(mapped.reason for mapped in FEELINGS.values())
    unmapped = {feeling for feeling, mapped in FEELINGS.items() if mapped.emotion is None}
    assert unmapped == {"faithful", "jealous", "nostalgic", "prepared", "sentimental", "trusting"}
    assert Emotion.NEUTRAL not in {mapped.emotion for mapped in FEELINGS.values()}


def test_the_map_is_not_string_equality() -> None:
    """The report compared the words: only `caring` is spelled alike in both sets."""
    assert [feeling for feeling in Feeling if feeling.value in tuple(EMOTIONS)] == [Feeling.CARING]
    assert len({mapped.emotion for mapped in FEELINGS.values()} - {None}) == 18
    assert emotion_of(Feeling.AFRAID) is emotion_of(Feeling.TERRIFIED) is Emotion.FEAR
    assert emotion_of(Feeling.GUILTY) is Emotion.REMORSE


def test_neutral_is_no_class_of_the_head() -> None:
    """The report fed class 27 to a head of 27 outputs, which has 0 to 26."""
    assert EMOTION_CLASSES == 27 and LABELS.index(Emotion.NEUTRAL) == 27
    assert without_neutral([Emotion.NEUTRAL]) == ()
    with pytest.raises(ValueError, match="neutral is no class"):
        emotion_target([Emotion.NEUTRAL])


def test_several_emotions_share_the_target_and_neutral_takes_none_of_it() -> None:
    target = emotion_target([Emotion.NEUTRAL, Emotion.JOY, Emotion.RELIEF])
    assert target[EMOTIONS.index(Emotion.JOY)] == target[EMOTIONS.index(Emotion.RELIEF)] == 0.5


@given(st.sets(st.sampled_from(EMOTIONS), min_size=1))
def test_targets_are_distributions_over_27_classes(labels: set[Emotion]) -> None:
    target = emotion_target(labels)
    assert len(target) == 27 and sum(target) == pytest.approx(1)
    assert {emotion for emotion, share in zip(EMOTIONS, target, strict=True) if share} == labels


@pytest.mark.parametrize("spelling", ["Reflection of feelings", "Reflection of Feelings", "[Reflection of feelings]"])
def test_reflection_of_feelings_is_itself_in_any_case_and_never_others(spelling: str) -> None:
    """The report spelled it with a capital F, and all of its turns became Others."""
    assert parse_strategy(spelling) is Strategy.REFLECTION


def test_strategies_are_the_eight_and_an_unknown_one_is_an_error() -> None:
    assert [parse_strategy(strategy.value) for strategy in STRATEGIES] == list(Strategy) and len(STRATEGIES) == 8
    assert parse_strategy("Providing Suggestions or Information") is None, "it stands for two of the eight"
    with pytest.raises(ValueError, match="'Direct Guidance' is none of ESConv's eight: Question, "):
        parse_strategy("Direct Guidance")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"losses": frozenset()}, "no loss"),
        ({"losses": frozenset({Loss.EMOTION})}, "nothing for its losses to read: emotion"),
        ({"losses": frozenset({Loss.STRATEGY}), "strategies": {5: Strategy.OTHERS}}, "read: strategy"),
        ({"losses": frozenset({Loss.LM}), "emotions": {1: (Emotion.JOY,)}}, "emotions belong to seeker turns"),
        ({"losses": frozenset({Loss.LM}), "strategies": {0: Strategy.OTHERS}}, "strategies to supporter turns"),
    ],
)
def test_an_example_says_only_what_it_can_feed(arguments: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Example(TALK, Source.OWN, Split.TRAIN, **arguments)


def test_examples_alternate_and_can_be_marked_for_the_safety_rules() -> None:
    with pytest.raises(ValueError, match="turn 0: turns must alternate, seeker first"):
        Example(Conversation("c", TALK.turns[1:]), Source.OWN, Split.TRAIN, frozenset({Loss.LM}))
    example = Example(TALK, Source.OWN, Split.TRAIN, frozenset({Loss.LM}))
    assert example.also(Loss.SAFETY).losses == {Loss.LM, Loss.SAFETY}
    with pytest.raises(ValueError, match="valence 2"):
        Affect(2, 0)


def test_class_weights_by_hand() -> None:
    """beta 0.5: E = 1, 1.75 for 1 and 3 examples; weights 1, 1/1.75, scaled by 4 / (1 + 3 / 1.75)."""
    weights = class_weights([1, 0, 3], beta=0.5)
    scale = 4 / (1 + 3 / 1.75)
    assert weights.tolist() == pytest.approx([scale, 0, scale / 1.75])
    assert class_weights([5, 1], beta=0).tolist() == [1, 1]


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=8).filter(any), st.floats(0, 0.9999))
def test_class_weights_keep_the_meaning_of_lambda_and_favour_the_rare(counts: list[int], beta: float) -> None:
    weights = class_weights(counts, beta).tolist()
    assert sum(w * n for w, n in zip(weights, counts, strict=True)) / sum(counts) == pytest.approx(1, rel=1e-4)
    seen = sorted((n, w) for n, w in zip(counts, weights, strict=True) if n)
    assert all(a[1] >= b[1] - 1e-5 for a, b in pairwise(seen))


@pytest.mark.parametrize(("counts", "beta"), [([1], 1.0), ([1], -0.1), ([0, 0], 0.9), ([-1, 2], 0.9), ([], 0.9)])
def test_class_weights_that_make_no_sense(counts: list[float], beta: float) -> None:
    with pytest.raises(ValueError, match=r"beta is|class counts are"):
        class_weights(counts, beta)


def test_labels_are_counted_as_the_losses_see_them() -> None:
    example = Example(
        TALK,
        Source.OWN,
        Split.TRAIN,
        frozenset({Loss.LM}),
        emotions={0: (Emotion.JOY, Emotion.LOVE)},
        strategies={1: Strategy.OTHERS},
    )
    assert emotion_counts([example, example])[EMOTIONS.index(Emotion.JOY)] == 1.0
    assert strategy_counts([example]) == [0, 0, 0, 0, 0, 0, 0, 1]
