"""The loop on the tiny model: exact resume, exact normalisation, early stopping, full disks, what a run leaves."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from dialogue.conversation import Conversation, Role, Turn
from rl.run_lock import only_run_in
from sft import loop
from sft.checkpoint import CheckpointError, RunFolder
from sft.commands import app
from sft.config import ConfigError, Decay, DevConfig
from sft.corpus import dev_rows
from sft.dev import DevResult, Stopper
from sft.examples import Loss
from sft.loop import TrainingError
from sft.model_card import write_model_card
from sft.predict import Predictor, Sampling
from sft.preparing import Prepared
from sft.schedule import lr_share
from sft.strategies import STRATEGIES
from sft.tracking import draw_curves, read_metrics, running_mean
from sft.training import Trainer, train

RunOf = Callable[..., Prepared]

CPU = torch.device("cpu")
CLOCK = ("tokens_per_s", "seconds")


class Killed(BaseException):
    """As SIGKILL: nothing after it runs."""


def history(folder: Path) -> list[dict]:
    return [{k: v for k, v in r.items() if k not in CLOCK} for r in read_metrics(folder / "metrics.jsonl")]


def kill_at(step: int) -> Callable[[int], None]:
    def after_step(done: int) -> None:
        if done == step:
            raise Killed

    return after_step


def test_a_killed_run_gives_the_same_losses_bit_for_bit(run_of: RunOf) -> None:
    options = ("steps=5", "dev.every=2")
    whole = train(run_of("name=whole", *options))
    with pytest.raises(Killed):
        train(run_of("name=killed", *options), kill_at(3))
    assert len(history(whole.folder.parent / "killed")) == 4  # three steps and one evaluation
    killed = whole.folder.parent / "killed"
    for leftover in (killed / ".best-x", killed / "checkpoints" / ".step-000004-x"):  # what a kill while saving leaves
        leftover.mkdir()
    resumed = train(run_of("name=killed", *options))
    assert not list(killed.rglob(".*-x"))
    assert history(resumed.folder) == history(whole.folder)
    assert (resumed.best, resumed.best_step) == (whole.best, whole.best_step)
    for name in ("adapter_model.safetensors", "heads.safetensors"):
        one, other = (load_file(r.folder / "checkpoints" / "step-000005" / name) for r in (whole, resumed))
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    assert (whole.folder / "curves.png").read_bytes()[:4] == b"\x89PNG"


def test_a_run_learns_and_is_not_resumed_with_other_settings(run_of: RunOf) -> None:
    fast = ("optimizer.lr=0.003", "steps=8", "save_every=8", "tensorboard=true")
    result = train(run_of(*fast))
    losses = [record["train/lm"] for record in history(result.folder) if "train/lm" in record]
    assert max(losses[-3:]) < 0.9 * losses[0]
    left = {path.name for path in result.folder.iterdir()}
    assert left == {"README.md", "best", "checkpoints", "config.yaml", "curves.png", "metrics.jsonl", "tensorboard"}
    assert {"train/lm", "train/emotion", "train/strategy", "train/safety"} <= set(history(result.folder)[0])
    with pytest.raises(ConfigError, match=r"optimizer\.lr: 0\.003 -> 0\.02"):
        run_of(*fast, "optimizer.lr=0.02")
    with pytest.raises(ConfigError, match="already holds a run"):
        run_of(*fast, "resume=false")


def test_a_step_in_pieces_is_the_step_in_one_piece(run_of: RunOf) -> None:
    """Losses and gradient are over the items of the whole step, not means of means."""
    still = ("model.lora.dropout=0", "model.heads.dropout=0")

    def cut(size: int, count: int, *more: str) -> Trainer:
        pieces = (f"optimizer.batch={size}", f"optimizer.accumulation={count}", f"data.length_window={count}")
        return Trainer(run_of(*still, *pieces, *more), CPU)

    one, two, four = cut(4, 1), cut(2, 2), cut(1, 4, "model.gradient_checkpointing=true")
    whole, halves, quarters = (trainer.update() for trainer in (one, two, four))
    for name in [name for name in whole if name.startswith("train/") or name == "grad_norm"]:
        assert halves[name] == pytest.approx(whole[name], rel=1e-4), name
        assert quarters[name] == pytest.approx(whole[name], rel=1e-4), name


def test_the_dev_loss_by_hand(run_of: RunOf) -> None:
    """Heads that say nothing cost ln 27 and ln 8; one that always says Question is right where that is the label."""
    trainer = Trainer(run_of(), CPU)
    strategy = trainer.model.heads["strategy"].get_parameter("layers.3.bias")
    with torch.no_grad():
        for name, value in trainer.model.heads.named_parameters():
            if ".layers.3." in name:
                value.zero_()
    result = trainer.evaluate()
    assert result.parts[Loss.EMOTION] == pytest.approx(math.log(27))
    assert result.parts[Loss.STRATEGY] == pytest.approx(math.log(8))
    expected = 0.2 * (math.log(27) + math.log(8)) + result.parts[Loss.LM] + 0.1 * result.parts.get(Loss.SAFETY, 0.0)
    assert result.loss == pytest.approx(expected)
    dev = trainer.prepared.dev
    label = STRATEGIES.index(dev[0].strategies[0].strategy)
    with torch.no_grad():
        strategy[label] = 5.0
    share = sum(row.strategies[0].strategy is STRATEGIES[label] for row in dev) / len(dev)
    assert trainer.evaluate().accuracy[Loss.STRATEGY] == pytest.approx(share)
    assert trainer.model.training


def test_the_heads_teach_the_adapter(run_of: RunOf) -> None:
    trainer = Trainer(run_of("losses.lm=0", "losses.safety=0"), CPU)
    trainer.update()
    moved = [name for name, value in trainer.model.trained().items() if "lora_B" in name and value.any()]
    assert len(moved) == 4 * 4  # q, k, v and o of four layers


def test_dev_sequences_are_spread_over_each_source(run_of: RunOf) -> None:
    corpus = run_of().corpus
    rows = next(iter(corpus.sequences.values()))
    assert len(rows) == 18 and dev_rows(corpus, 0) == dev_rows(corpus, 18) == list(rows)
    assert dev_rows(corpus, 3) == [rows[0], rows[6], rows[12]]


def test_class_balance_weighs_the_heads_losses(run_of: RunOf) -> None:
    plain, balanced = Trainer(run_of(), CPU), Trainer(run_of("class_balance=true"), CPU)
    weights = balanced.options.class_weights
    assert {loss: len(values) for loss, values in weights.items()} == {Loss.EMOTION: 27, Loss.STRATEGY: 8}
    assert plain.options.class_weights == {}
    one, other = plain.update(), balanced.update()
    assert one["train/lm"] == other["train/lm"] and one["train/strategy"] != other["train/strategy"]


def test_the_affect_head_trains_and_answers(run_of: RunOf, tmp_path: Path) -> None:
    turn = {"role": "seeker", "text": "What a day!", "affect": [0.9, 0.8]}
    lines = [json.dumps({"id": str(number), "turns": [turn]}) for number in range(8)]
    (tmp_path / "affect.jsonl").write_text("\n".join(lines))
    off = [f"losses.{name}=0" for name in ("lm", "emotion", "strategy", "safety")]
    own = f"data.own={tmp_path / 'affect.jsonl'}"
    trainer = Trainer(run_of(own, *off, "losses.affect=1", "optimizer.head_lr=0.01", "steps=20"), CPU)
    losses = [trainer.update()["train/affect"] for _ in range(15)]
    assert losses[-1] < 0.5 * losses[0]
    said = Conversation("c", (Turn(Role.SEEKER, "What a day!"),))
    found = Predictor(trainer.model, trainer.prepared.tokenizer, trainer.config.data).predict(said, Sampling(1))
    assert found.affect is not None and found.affect.valence > 0.2 and found.emotion is None


def test_loss_scaling_changes_nothing_but_skips_an_overflow(run_of: RunOf) -> None:
    """The float16 path, with float32 products: scaling by a power of two is exact."""
    plain, scaled, too_large = (Trainer(run_of(), CPU) for _ in range(3))
    scaled.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    too_large.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    before = {name: value.clone() for name, value in too_large.model.trained().items()}
    values, same, skipped = plain.update(), scaled.update(), too_large.update()
    for name in ("train/loss", "grad_norm", "lr"):
        assert same[name] == pytest.approx(values[name], rel=1e-6), name
    assert (same["skipped"], same["loss_scale"]) == (0.0, 2.0**12)
    assert skipped["skipped"] == 1.0 and too_large.scaler.get_scale() == 2.0**126
    assert all(torch.equal(value, before[name]) for name, value in too_large.model.trained().items())
    first, second = plain.model.trained(), scaled.model.trained()
    for name, value in first.items():
        torch.testing.assert_close(second[name], value)


def test_in_bfloat16_what_is_trained_stays_float32(run_of: RunOf) -> None:
    half, full = Trainer(run_of("model.precision=bfloat16"), CPU), Trainer(run_of(), CPU)
    assert {value.dtype for value in half.model.trained().values()} == {torch.float32}
    assert half.model.output_weight.dtype is torch.bfloat16
    assert half.update()["train/loss"] == pytest.approx(full.update()["train/loss"], rel=0.02)


def test_early_stopping_keeps_the_best(run_of: RunOf, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = iter([3.0, 2.0, 2.5, 2.4, 1.0])
    monkeypatch.setattr(Trainer, "evaluate", lambda self: DevResult(next(losses), {Loss.LM: 1.0}, {}, {}))
    prepared = run_of("steps=9", "dev.every=1", "dev.patience=2")
    result = train(prepared)
    assert (result.steps, result.best, result.best_step) == (4, 2.0, 2)
    assert prepared.folder.latest() == prepared.folder.checkpoints / "step-000004"
    assert train(run_of("steps=9", "dev.every=1", "dev.patience=2")).steps == 4  # stopped stays stopped


def test_the_stopper_counts() -> None:
    stopper = Stopper(DevConfig(every=1, patience=2, min_gain=0.1))
    assert [stopper.enter(loss, step) for step, loss in enumerate([float("nan"), 1.0, 0.95, 0.85, 0.8, 0.79])] == [
        False, True, False, True, False, False,
    ]  # fmt: skip
    assert stopper.stop and (stopper.best, stopper.best_step) == (0.85, 3)
    other = Stopper(stopper.config)
    other.load_state_dict(json.loads(json.dumps(stopper.state_dict())))
    assert other == stopper


def test_a_full_disk_leaves_the_last_good_checkpoint(run_of: RunOf, monkeypatch: pytest.MonkeyPatch) -> None:
    real = loop.save_model

    def fills_the_disk(model, config, folder: Path) -> None:
        real(model, config, folder)
        if "step-000004" in folder.name:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(loop, "save_model", fills_the_disk)
    prepared = run_of()
    with pytest.raises(CheckpointError, match=r"No space left.*last good checkpoint is .*step-000002"):
        train(prepared)
    folders = list(prepared.folder.checkpoints.iterdir())
    assert folders == [prepared.folder.checkpoints / "step-000002"]
    assert RunFolder.load_state(folders[0])["step"] == 2


def test_a_loss_that_is_no_number_stops_the_run(run_of: RunOf) -> None:
    trainer = Trainer(run_of(), CPU)
    with torch.no_grad():
        next(iter(trainer.model.heads.parameters())).fill_(float("nan"))
    with pytest.raises(TrainingError, match="step 1: the loss is nan"):
        trainer.update()


def test_a_dev_loss_that_is_no_number_stops_the_run_and_is_never_the_best(
    run_of: RunOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trainer, "evaluate", lambda self: DevResult(float("nan"), {Loss.LM: 1.0}, {}, {}))
    prepared = run_of("steps=1")
    with pytest.raises(TrainingError, match="step 1: the dev loss is nan"):
        train(prepared)
    assert not prepared.folder.best.exists() and prepared.folder.latest() is None


def test_a_checkpoint_that_cannot_be_read_names_its_file_and_the_way_on(run_of: RunOf) -> None:
    train(run_of("steps=2"))
    last = run_of("steps=2").folder.latest()
    assert last is not None
    (last / "optimizer.pt").write_bytes(b"half")
    with pytest.raises(CheckpointError, match=r"optimizer\.pt cannot be read .*remove .*step-000002 to go on"):
        Trainer(run_of("steps=2"), CPU).load(last)


def test_a_gradient_that_is_no_number_stops_the_run_before_the_weights_are_touched(run_of: RunOf) -> None:
    trainer = Trainer(run_of(), CPU)
    first, *others = trainer.model.trained().values()
    first.register_hook(lambda gradient: gradient * float("nan"))
    before = [value.detach().clone() for value in (first, *others)]
    with pytest.raises(TrainingError, match="step 1: the gradient is nan"):
        trainer.update()
    assert all(torch.equal(old, new) for old, new in zip(before, (first, *others), strict=True))


def test_a_folder_that_another_process_trains_in_is_left_alone(run_of: RunOf) -> None:
    folder = run_of().folder
    folder.prepare()
    with only_run_in(folder.path):
        done = CliRunner().invoke(app, ["train", str(folder.path / "config.yaml")])
    assert isinstance(done.exception, ConfigError) and "is being trained by process" in str(done.exception)
    assert not (folder.path / "metrics.jsonl").exists()


def test_a_loss_that_nothing_feeds_is_refused(run_of: RunOf) -> None:
    with pytest.raises(ConfigError, match=r"feeds affect: set losses\.affect=0"):
        run_of("losses.affect=1")


def test_the_card_names_non_commercial_data(run_of: RunOf, tmp_path: Path) -> None:
    dialogue = [{"speaker": "seeker", "content": "Hi."}, {"speaker": "supporter", "content": "Hello."}]
    dialogue[1]["annotation"] = {"strategy": "Question"}  # type: ignore[assignment]
    (tmp_path / "ESConv.json").write_text(json.dumps([{"dialog": dialogue}] * 12))
    prepared = run_of(f"data.esconv={tmp_path / 'ESConv.json'}")
    assert "non-commercial" in prepared.describe()
    prepared.folder.prepare()
    write_model_card(prepared, 1.0, 1, 1)
    card = (prepared.folder.path / "README.md").read_text()
    assert "**Non-commercial use only**: trained on esconv." in card
    assert "| esconv | 10 |" in card and "CC BY-NC 4.0" in card


@pytest.mark.parametrize(
    ("decay", "expected"),
    [
        (Decay.constant, [0.5, 1.0, 1.0, 1.0, 1.0]),
        (Decay.linear, [0.5, 1.0, 1 - 1 / 3, 1 - 2 / 3]),
        (Decay.cosine, [0.5, 1.0, 0.75, 0.25]),
    ],
)
def test_the_learning_rate(decay: Decay, expected: list[float]) -> None:
    """Five steps, two of them warm-up; three fall."""
    found = [lr_share(done, 5, 0.4, decay) for done in range(5)]
    if decay is not Decay.constant:
        assert found[1] == found[2] == 1.0  # the first step after the warm-up starts from the peak
        del found[2]
    assert found == pytest.approx(expected)


def test_a_running_mean_by_hand() -> None:
    assert running_mean([1.0, 2.0, 3.0, 4.0, 5.0], 3) == [1.5, 2.0, 3.0, 4.0, 4.5]
    assert running_mean([1.0, 2.0, 3.0, 4.0], 2) == [1.0, 1.5, 2.5, 3.5]


def test_a_long_run_is_drawn_with_its_running_mean(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(json.dumps({"step": n, "train/loss": 3 + n % 2}) + "\n" for n in range(1, 201)))
    draw_curves(file, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes()[:4] == b"\x89PNG"
