"""The shipped examples, and files in their format; which sources a run reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dialogue.loaders import STARTER, DataError
from sft.balance import emotion_counts, strategy_counts
from sft.config import ConfigError
from sft.config_loading import load_config
from sft.corpus import read_examples, source_places
from sft.emotions import Emotion
from sft.examples import Loss, Source, Split
from sft.readers.own import SHIPPED, read_own


def test_the_shipped_examples_cover_every_label() -> None:
    both = [
        example
        for file in SHIPPED
        for split in (Split.TRAIN, Split.VALID)
        for example in read_own(file, split).examples
    ]
    assert min(emotion_counts(both)) > 0 and min(strategy_counts(both)) > 0
    assert len({example.id for example in both}) == len(both) == 124
    assert {example.split for example in both} == {Split.TRAIN, Split.VALID}


def test_every_reply_of_the_starter_conversations_has_a_strategy_and_most_seekers_an_emotion() -> None:
    talks = [e for split in (Split.TRAIN, Split.VALID) for e in read_own(STARTER, split).examples]
    assert all(set(talk.strategies) == set(talk.conversation.supporter_turns()) for talk in talks)
    seekers = sum(len(talk.conversation.turns) - len(talk.strategies) for talk in talks)
    assert sum(len(talk.emotions) for talk in talks) >= 0.9 * seekers


def test_every_loss_is_measured_on_the_shipped_dev_examples() -> None:
    found = read_examples(load_config("quickstart"), Split.VALID)
    losses = {loss for example in found[Source.OWN] for loss in example.losses}
    assert losses == {Loss.LM, Loss.EMOTION, Loss.STRATEGY, Loss.SAFETY}


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ([], "the turns are"),
        ([{"role": "supporter", "text": "Hi."}], "expected seeker"),
        ([{"role": "seeker", "text": "Hi.", "emotions": ["sad"]}], "emotion 'sad'"),
        ([{"role": "seeker", "text": "Hi.", "emotions": "joy"}], "expected a list of names"),
        ([{"role": "seeker", "text": "Hi.", "affect": [2, 0]}], "affect"),
        ([{"role": "seeker", "text": "Hi.", "strategy": "Question"}], "turn 0 of the seeker: key 'strategy'"),
        (
            [{"role": "seeker", "text": "Hi."}, {"role": "supporter", "text": "Hi.", "strategy": "Hug"}],
            "none of ESConv's eight",
        ),
    ],
)
def test_a_bad_line_is_refused(turns: list, message: str, tmp_path: Path) -> None:
    file = tmp_path / "own.jsonl"
    good = {"role": "seeker", "text": "Hi.", "emotions": ["joy"]}
    lines = [{"id": "a", "turns": [good]}, {"id": "b", "turns": turns}]
    file.write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(DataError, match=message):
        read_own(file)


def test_affect_and_unlabelled_utterances(tmp_path: Path) -> None:
    file = tmp_path / "own.jsonl"
    turns = [[{"role": "seeker", "text": "Hi.", "affect": [0.5, -0.5]}], [{"role": "seeker", "text": "Hm."}]]
    lines = [{"id": str(number), "turns": turns[number % 2]} for number in range(8)]
    file.write_text("\n".join(map(json.dumps, lines)))
    report = read_own(file)
    assert report.left_out == 4 and all(example.losses == {Loss.AFFECT} for example in report.examples)


def test_a_limit_takes_examples_of_the_whole_file_which_may_be_ordered_by_label(tmp_path: Path) -> None:
    file = tmp_path / "own.jsonl"
    ordered = [emotion for emotion in Emotion if emotion is not Emotion.NEUTRAL for _ in range(4)]
    turns = [{"role": "seeker", "text": "Well.", "emotions": [emotion]} for emotion in ordered]
    file.write_text("\n".join(json.dumps({"id": str(n), "turns": [turn]}) for n, turn in enumerate(turns)))
    config = load_config("quickstart", [f"data.own={file}", "data.max_examples=9"])
    found = [example.emotions[0][0] for example in read_examples(config, Split.TRAIN)[Source.OWN]]
    assert len(found) == len(set(found)) == 9


def test_where_the_sets_are(tmp_path: Path) -> None:
    (tmp_path / "esconv").mkdir()
    data = load_config(
        "quickstart", [f"data.folder={tmp_path}", "data.goemotions=google-research-datasets/go_emotions"]
    ).data
    assert source_places(data) == {
        Source.GOEMOTIONS: "google-research-datasets/go_emotions",
        Source.ESCONV: str(tmp_path / "esconv"),
    }
    with pytest.raises(ConfigError, match="no folder with any of"):
        source_places(load_config("quickstart", [f"data.folder={tmp_path / 'esconv'}"]).data)
    with pytest.raises(ConfigError, match="no source is named"):
        read_examples(load_config("quickstart", ["data.own="]), Split.TRAIN)
