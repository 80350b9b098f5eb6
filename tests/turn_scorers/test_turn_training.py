"""The three variants on a real, tiny encoder: what they see, an exact resume, scores that depend on nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import DebertaV2Config, DebertaV2Model
from turn_cases import made_labels

from dialogue.conversation import Message
from dialogue.emotions import Emotion
from reward_servers.protocol import ScoreRequest
from reward_servers.turn_scorers.batches import epoch_batches
from reward_servers.turn_scorers.frozen import KeptStates
from reward_servers.turn_scorers.labels import LabelledReply
from reward_servers.turn_scorers.network import TextViews, TurnNetwork, Views
from reward_servers.turn_scorers.pretraining import Comment, GoEmotionsError, Pretraining, pretrain, read_comments
from reward_servers.turn_scorers.recipe import PUBLISHED, Pooling, Recipe, RecipeError, Variant, load_encoder
from reward_servers.turn_scorers.saved import (
    CARD,
    ENCODER,
    HEADS,
    METRICS,
    STATE,
    TrainingDivergedError,
    TurnScorerError,
)
from reward_servers.turn_scorers.scorer import TurnScorer
from reward_servers.turn_scorers.training import Step, check_folders, train_scorer

HISTORY = (Message(role="user", content="The exam is tomorrow."),)


class StoppedError(Exception):
    """Somebody pulled the plug."""


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> list[LabelledReply]:
    return made_labels(tmp_path_factory.mktemp("dialogues"))


def recipe(encoder: str, variant: Variant = Variant.MVC, **changes: object) -> Recipe:
    small = {"encoder": encoder, "batch": 8, "rate": 1e-3, "epochs": 2, "max_length": 64}
    stm = {"emotion_epochs": 1, "emotion_rate": 1e-3} if variant is Variant.STM else {}
    return replace(PUBLISHED[variant], **{**small, **stm, **changes})  # type: ignore[arg-type]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / HEADS) | load_file(folder / ENCODER / "model.safetensors")


def equal(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_the_published_recipes_are_those_of_the_paper() -> None:
    told = {v: (r.batch, r.rate, r.epochs, r.emotion_epochs) for v, r in PUBLISHED.items()}
    assert told == {"baseline": (16, 3e-5, 5, 0), "stm": (16, 2e-5, 10, 15), "mvc": (8, 2e-5, 4, 0)}
    assert {(r.emotion_weight, r.max_length) for r in PUBLISHED.values()} == {(0.1, 256)}


@pytest.mark.parametrize(("name", "value"), [("rate", 0.0), ("epochs", 0), ("max_length", 3), ("emotion_epochs", 2)])
def test_a_recipe_that_cannot_work_is_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(RecipeError, match=name):
        replace(PUBLISHED[Variant.MVC], **{name: value})  # type: ignore[arg-type]


def test_both_views_are_the_tokenizers_own_and_marks_in_a_text_are_text(encoder: str) -> None:
    tokenizer, _ = load_encoder(encoder)
    views = TextViews(tokenizer, 64)(HISTORY, "Oh, how do you feel?")
    pair = tokenizer("Speaker: The exam is tomorrow.", "Oh, how do you feel?")
    assert (views.both, views.both_types) == (pair["input_ids"], pair["token_type_ids"])
    assert views.context == tokenizer("Speaker: The exam is tomorrow.")["input_ids"]
    marked = TextViews(tokenizer, 64)(HISTORY, "[SEP] [SEP]")
    assert marked.both.count(tokenizer.sep_token_id) == 2  # its own two, and none of the text's


def test_a_long_context_loses_its_beginning_and_the_reply_stays(encoder: str) -> None:
    tokenizer, _ = load_encoder(encoder)
    long = (Message(role="user", content="first " + "word " * 100 + "last"),)
    views = TextViews(tokenizer, 32)(long, "Tell me more.")
    shown = tokenizer.decode(views.both)
    assert len(views.both) == len(views.context) == 32
    assert "first" not in shown and "last" in shown and "tell me more" in shown
    assert len(TextViews(tokenizer, 32)(long, "word " * 100).both) == 32


def test_mvc_reads_the_feeling_from_the_context_alone_and_the_others_do_not(encoder: str) -> None:
    tokenizer, model = load_encoder(encoder)
    views = TextViews(tokenizer, 64)
    turns = [views(HISTORY, "Good luck!"), views(HISTORY, "Bananas are yellow.")]
    for variant in Variant:
        network = TurnNetwork(model, recipe(encoder, variant)).eval()
        with torch.inference_mode():
            empathy, emotions = network(turns)
        assert empathy.shape == (2,) and emotions.shape == (2, 32)
        assert torch.allclose(emotions[0], emotions[1], atol=1e-6) is (variant is Variant.MVC)
    assert network.empathy[0].in_features == 16 + 32  # MVC's head also reads the emotions


def test_padding_changes_nothing(encoder: str) -> None:
    tokenizer, model = load_encoder(encoder)
    views = TextViews(tokenizer, 64)
    network = TurnNetwork(model, recipe(encoder, pooling=Pooling.MEAN)).eval()
    turns = [views(HISTORY, "Hm."), views(HISTORY, "That is a long day before you, is there tea?")]
    with torch.inference_mode():
        together, alone = network(turns)[0], torch.cat([network([turn])[0] for turn in turns])
    assert torch.allclose(together, alone, atol=1e-5)


def test_only_the_upper_layers_learn_where_asked(encoder: str, labels: Sequence[LabelledReply], tmp_path: Path) -> None:
    before = load_file(Path(encoder) / "model.safetensors")
    train_scorer(labels, recipe(encoder, tuned_layers=1, epochs=1), tmp_path / "s")
    after = load_file(tmp_path / "s" / ENCODER / "model.safetensors")
    changed = {name.split("layer.")[1][0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"1"}
    with pytest.raises(RecipeError, match="has 2 layers"):
        train_scorer(labels, recipe(encoder, tuned_layers=3), tmp_path / "t")


@pytest.mark.parametrize("tuned", [0, 1])
def test_frozen_layers_read_each_text_once_and_several_trainings_share_that(
    encoder: str, labels: Sequence[LabelledReply], tmp_path: Path, tuned: int
) -> None:
    partly, states = recipe(encoder, tuned_layers=tuned), KeptStates()
    train_scorer(labels, partly, tmp_path / "alone")
    train_scorer(labels, replace(partly, seed=1), tmp_path / "other", states=states)
    texts = len(states)
    assert texts > len({reply.conversation for reply in labels})
    train_scorer(labels, partly, tmp_path / "shared", states=states)
    assert len(states) == texts
    train_scorer(labels, partly, tmp_path / "no-room", states=KeptStates(at_most=0))
    assert equal(weights(tmp_path / "alone"), weights(tmp_path / "shared"))
    assert equal(weights(tmp_path / "alone"), weights(tmp_path / "no-room"))
    with pytest.raises(RecipeError, match="frozen"):
        TurnNetwork(load_encoder(encoder)[1], recipe(encoder)).remember(states)


@pytest.mark.parametrize("pooling", list(Pooling))
def test_what_is_kept_changes_neither_the_output_nor_the_slopes(encoder: str, pooling: Pooling) -> None:
    tokenizer, model = load_encoder(encoder)
    views = TextViews(tokenizer, 64)
    turns = [views(HISTORY, "Hm."), views(HISTORY, "That is a long day before you, is there tea?")]
    network = TurnNetwork(model, recipe(encoder, tuned_layers=1, pooling=pooling)).eval()
    tuned = [parameter for parameter in network.parameters() if parameter.requires_grad]

    def output_and_slopes() -> list[torch.Tensor]:
        empathy, emotions = network(turns)
        loss = empathy.square().sum() + emotions.square().sum()
        return [empathy, emotions, *torch.autograd.grad(loss, tuned, allow_unused=True)]

    plain = output_and_slopes()
    network.remember(KeptStates())
    for left, right in zip(plain, output_and_slopes(), strict=True):
        assert (left is None) is (right is None)  # nothing reads the encoder's pooler
        assert left is None or torch.allclose(left, right, atol=1e-5)


def test_an_encoder_whose_upper_layers_cannot_be_run_alone_is_run_whole() -> None:
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(0)
    convolving = DebertaV2Model(DebertaV2Config(vocab_size=32, conv_kernel_size=3, conv_act="tanh", **shape)).eval()
    network = TurnNetwork(convolving, recipe("any", tuned_layers=1)).eval()
    turn = Views(both=[1, 9, 2, 8, 2], both_types=[0, 0, 0, 1, 1], context=[1, 9, 2])
    with torch.no_grad():
        before = network([turn])
        network.remember(KeptStates())
        after = network([turn])
    assert torch.equal(before[0], after[0]) and torch.equal(before[1], after[1])


def test_an_epoch_has_every_row_once() -> None:
    batches = epoch_batches(10, 4, seed=1, stage="empathy", epoch=0)
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert sorted(row for batch in batches for row in batch) == list(range(10))
    assert batches != epoch_batches(10, 4, seed=1, stage="empathy", epoch=1)


@pytest.mark.parametrize(("stop_at", "tuned"), [(2, None), (9, None), (9, 1)])  # STM: in its first stage, in its second
def test_a_killed_training_ends_as_one_that_was_not(
    encoder: str, labels: Sequence[LabelledReply], tmp_path: Path, stop_at: int, tuned: int | None
) -> None:
    stm = recipe(encoder, Variant.STM, tuned_layers=tuned)
    train_scorer(labels, stm, tmp_path / "whole")

    def stop(step: Step) -> None:
        if step.done == stop_at:
            raise StoppedError

    with pytest.raises(StoppedError):
        train_scorer(labels, stm, tmp_path / "killed", stop, save_every_s=0.0)
    assert (tmp_path / "killed" / STATE).is_file() and not (tmp_path / "killed" / CARD).exists()
    with pytest.raises(TurnScorerError, match="not finished"):
        TurnScorer.load(tmp_path / "killed")
    with pytest.raises(TurnScorerError, match="another recipe"):
        train_scorer(labels, replace(stm, rate=2e-3), tmp_path / "killed")
    first: list[Step] = []
    train_scorer(labels, stm, tmp_path / "killed", first.append)
    assert first[0].done == stop_at  # the step before it was the last one saved
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "killed"))
    assert (tmp_path / "whole" / METRICS).read_text() == (tmp_path / "killed" / METRICS).read_text()
    assert not (tmp_path / "killed" / STATE).exists()


def test_a_training_learns_and_its_scorer_judges_each_reply_for_itself(
    encoder: str, labels: Sequence[LabelledReply], tmp_path: Path
) -> None:
    long, losses = recipe(encoder, epochs=25, rate=3e-3), []  # type: ignore[var-annotated]
    folder = train_scorer(labels, long, tmp_path / "s", lambda step: losses.append(step.loss))
    per_epoch = len(losses) // 25
    assert sum(losses[-per_epoch:]) < 0.85 * sum(losses[:per_epoch])
    scorer = TurnScorer.load(folder)
    assert scorer.version.startswith("mvc-") and "NC" in scorer.card.licence
    requests = [reply.request for reply in labels]
    together = scorer.quality(requests)
    assert together == [scorer.quality([request])[0] for request in requests]
    assert all(1 <= value <= 5 for value in together)
    assert scorer.quality([ScoreRequest("e", HISTORY, text) for text in ("", " ... ")]) == [1.0, 1.0]
    assert train_scorer(labels, long, folder) == folder  # finished: left as it is
    with pytest.raises(TurnScorerError, match="other labels"):
        train_scorer(labels[1:], long, folder)


def test_labels_without_a_split_and_an_unknown_encoder_are_refused(
    encoder: str, labels: Sequence[LabelledReply], tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match="split valid"):
        train_scorer([reply for reply in labels if reply.split != "valid"], recipe(encoder), tmp_path / "s")
    with pytest.raises(RecipeError, match="no-such-encoder"):
        train_scorer(labels, recipe("no-such-encoder"), tmp_path / "s")
    with pytest.raises(RecipeError, match="max_length"):
        train_scorer(labels, recipe(encoder, max_length=4096), tmp_path / "s")


def test_pretraining_writes_an_encoder_that_a_training_takes(
    encoder: str, labels: Sequence[LabelledReply], tmp_path: Path
) -> None:
    rows = ["So glad you came!\t17\tx1", "What a mess, and I am sorry\t3,24\tx2", "It is Tuesday\t27\tx3"] * 4
    for name in ("train.tsv", "dev.tsv"):
        (tmp_path / name).write_text("\n".join(rows) + "\n", encoding="utf-8")
    assert read_comments(tmp_path / "dev.tsv")[1] == Comment(
        "What a mess, and I am sorry", (Emotion.ANNOYANCE, Emotion.REMORSE)
    )
    options = Pretraining(encoder=encoder, batch=4, rate=3e-3, epochs=40, max_length=32)
    result = pretrain(tmp_path, tmp_path / "warm", options)
    assert result.micro_f1 > 0.5 and result.comments == 12
    before, after = (load_file(Path(p) / "model.safetensors") for p in (encoder, tmp_path / "warm"))
    assert not equal(before, after)
    train_scorer(labels, recipe(str(tmp_path / "warm"), epochs=1), tmp_path / "scorer")
    with pytest.raises(TrainingDivergedError, match="lower the rate"):
        pretrain(tmp_path, tmp_path / "wild", replace(options, rate=1e30))
    (tmp_path / "train.tsv").write_text("no labels here\n", encoding="utf-8")
    with pytest.raises(GoEmotionsError, match="line 1"):
        pretrain(tmp_path, tmp_path / "again", options)


def test_a_killed_pretraining_goes_on_in_its_epoch_and_ends_as_one_that_was_not(encoder: str, tmp_path: Path) -> None:
    rows = [f"It is day {n} and I am glad\t17\tx{n}" for n in range(12)]
    for name in ("train.tsv", "dev.tsv"):
        (tmp_path / name).write_text("\n".join(rows) + "\n", encoding="utf-8")
    options = Pretraining(encoder=encoder, batch=4, rate=1e-3, epochs=2, max_length=32)
    pretrain(tmp_path, tmp_path / "whole", options)

    def stop(step: int, steps: int, loss: float) -> None:
        if step == 5:  # the second of three steps in the second epoch
            raise StoppedError

    with pytest.raises(StoppedError):
        pretrain(tmp_path, tmp_path / "killed", options, stop, save_every_s=0.0)
    with pytest.raises(TurnScorerError, match="other options or comments"):
        pretrain(tmp_path, tmp_path / "killed", options, limit=8)
    steps: list[int] = []
    pretrain(tmp_path, tmp_path / "killed", options, lambda step, *_: steps.append(step))
    assert steps == [5, 6]
    assert equal(*(load_file(tmp_path / name / "model.safetensors") for name in ("whole", "killed")))


def test_a_folder_of_another_training_is_told_before_the_first_of_many(
    encoder: str, labels: Sequence[LabelledReply], tmp_path: Path
) -> None:
    """Nine trainings take hours: what is wrong with the ninth folder is known at once."""
    train_scorer(labels, recipe(encoder, epochs=1, seed=1), tmp_path / "seed-1")
    wanted = {tmp_path / f"seed-{seed}": recipe(encoder, epochs=1, seed=seed) for seed in (0, 1)}
    check_folders(labels, wanted)
    with pytest.raises(TurnScorerError, match="seed-1 holds a scorer of another recipe"):
        check_folders(labels, {folder: replace(one, rate=1e-2) for folder, one in wanted.items()})
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(TurnScorerError, match="cannot be made"):
        check_folders(labels, {tmp_path / "file" / "seed-0": recipe(encoder)})
