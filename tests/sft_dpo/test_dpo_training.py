"""The preference stage on the tiny model: the frozen reference, exact resume, what a run leaves and refuses."""

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
from dialogue.loaders import DataError
from rl.models import ModelError
from rl.run_lock import only_run_in
from sft.commands import app
from sft.config import ConfigError
from sft.dpo.preparing import PreparedDpo
from sft.dpo.training import DpoTrainer, train_dpo
from sft.export import export_model
from sft.predict import Predictor, Sampling
from sft.saved import load_model
from sft.tracking import read_metrics

DpoOf = Callable[..., PreparedDpo]

CPU = torch.device("cpu")
CLOCK = ("tokens_per_s", "seconds")


class Killed(BaseException):
    """As SIGKILL: nothing after it runs."""


def history(folder: Path) -> list[dict]:
    return [{k: v for k, v in r.items() if k not in CLOCK} for r in read_metrics(folder / "metrics.jsonl")]


@pytest.mark.parametrize("plain", [False, True])
def test_policy_and_reference_agree_before_the_first_update(dpo_of: DpoOf, tiny_model: Path, plain: bool) -> None:
    trainer = DpoTrainer(dpo_of("loss.safety_margin=0", start=tiny_model if plain else None), CPU)
    dev, first = trainer.evaluate(), trainer.update()
    assert dev.loss == first["train/loss"] == pytest.approx(math.log(2), abs=1e-7)
    assert dev.measures["margin"] == first["train/margin"] == first["train/accuracy"] == 0.0
    assert first["train/chosen_logprob"] < 0 and "train/safety_accuracy" in first
    second = trainer.update()
    assert second["train/margin"] != 0


def test_the_reference_is_the_fine_tuned_model_and_stays(dpo_of: DpoOf, tuned: Path) -> None:
    """Not the base: its log-probabilities are those of the model that the first stage saved, at any time."""
    trainer = DpoTrainer(dpo_of("optimizer.lr=0.01"), CPU)
    saved = load_model(tuned / "best").model
    batch, _ = trainer._batch(trainer.prepared.train.pairs[:2])
    for _ in range(2):
        trainer.update()
        with trainer.policy.as_reference():
            states = trainer.model.states(batch.ids, batch.attention)
        with torch.no_grad():
            torch.testing.assert_close(states, saved.states(batch.ids, batch.attention))
            assert not torch.allclose(trainer.model.states(batch.ids, batch.attention), states, atol=1e-3)
    trained = trainer.model.trained()
    assert trained and all("lora_" in name and ".default." in name for name in trained)


def test_it_learns_to_prefer(dpo_of: DpoOf) -> None:
    result = train_dpo(dpo_of("optimizer.lr=0.003", "steps=10", "loss.safety_margin=0.2", "save_every=10"))
    first, *_, last = [record for record in history(result.folder) if "train/loss" in record]
    assert last["train/loss"] < 0.8 * first["train/loss"] and last["train/accuracy"] == 1.0
    assert last["train/chosen_reward"] > last["train/rejected_reward"]
    assert result.dev is not None and result.dev.measures["accuracy"] == 1.0
    left = {path.name for path in result.folder.iterdir()}
    assert left == {"README.md", "best", "checkpoints", "config.yaml", "curves.png", "metrics.jsonl"}
    card = (result.folder / "README.md").read_text()
    assert "a frozen copy of its adapter" in card and "safety margin 0.2" in card and "| accuracy | 1.0000 |" in card


def test_a_killed_stage_gives_the_same_losses_bit_for_bit(dpo_of: DpoOf) -> None:
    options = ("steps=5", "dev.every=2", "optimizer.lr=0.003")
    whole = train_dpo(dpo_of("name=whole", *options))

    def kill(done: int) -> None:
        if done == 3:
            raise Killed

    with pytest.raises(Killed):
        train_dpo(dpo_of("name=killed", *options), kill)
    resumed = train_dpo(dpo_of("name=killed", *options))
    assert history(resumed.folder) == history(whole.folder)
    one, other = (load_file(r.folder / "best" / "adapter_model.safetensors") for r in (whole, resumed))
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_a_step_in_pieces_is_the_step_in_one_piece(dpo_of: DpoOf) -> None:
    def cut(size: int, count: int, *more: str) -> DpoTrainer:
        pieces = (f"optimizer.batch={size}", f"optimizer.accumulation={count}", f"pairs.length_window={count}")
        return DpoTrainer(dpo_of("loss.label_smoothing=0.1", *pieces, *more), CPU)

    one, four = cut(4, 1), cut(1, 4, "model.gradient_checkpointing=true", "vocabulary_chunk=500")
    for _ in range(2):
        whole, quarters = one.update(), four.update()
        for name in [name for name in whole if name.startswith("train/") or name == "grad_norm"]:
            assert quarters[name] == pytest.approx(whole[name], rel=1e-3, abs=1e-5), name


def test_what_it_leaves_opens_like_any_fine_tuned_model(dpo_of: DpoOf, tuned: Path, tmp_path: Path) -> None:
    result = train_dpo(dpo_of("optimizer.lr=0.01", "steps=2"))
    heads = [load_file(folder / "best" / "heads.safetensors") for folder in (tuned, result.folder)]
    assert heads[0].keys() == heads[1].keys() and all(torch.equal(heads[0][key], heads[1][key]) for key in heads[0])
    assert not (result.folder / "best" / "reference").exists()
    said = Conversation("c", (Turn(Role.SEEKER, "I lost my keys."),))
    assert Predictor.load(result.folder / "best").predict(said, Sampling(2)).strategy is not None
    assert load_model(result.folder / "best").config.data.system == "Be kind."
    export_model(result.folder, tmp_path / "out")
    from transformers import AutoModelForCausalLM

    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)(input_ids=ids).logits
        adapted = load_model(result.folder / "best").model.lm(input_ids=ids).logits
    torch.testing.assert_close(merged, adapted, atol=1e-4, rtol=1e-4)


def test_a_stage_can_start_from_a_stage_on_a_plain_model(dpo_of: DpoOf, tiny_model: Path) -> None:
    first = train_dpo(dpo_of("name=first", "optimizer.lr=0.01", "steps=2", start=tiny_model))
    trainer = DpoTrainer(dpo_of("name=second", start=first.folder), CPU)
    assert trainer.evaluate().loss == pytest.approx(math.log(2), abs=1e-7)
    assert not list(trainer.model.heads)


def test_a_run_is_not_resumed_with_other_pairs(dpo_of: DpoOf, pairs_file: Path, tmp_path: Path) -> None:
    changed = tmp_path / "pairs.jsonl"
    changed.write_bytes(pairs_file.read_bytes())
    train_dpo(dpo_of("steps=2", pairs=changed))
    changed.write_text(changed.read_text().replace("Whatever.", "Who cares?"))
    with pytest.raises(ConfigError, match="another reference or other pairs"):
        train_dpo(dpo_of("steps=2", pairs=changed))


def test_a_run_is_not_resumed_with_other_dev_pairs(dpo_of: DpoOf, pairs_file: Path, tmp_path: Path) -> None:
    """The best dev loss so far is that of the old ones."""
    changed = tmp_path / "pairs.jsonl"
    changed.write_bytes(pairs_file.read_bytes())
    before = dpo_of(pairs=changed)
    said = before.dev.pairs[0].chosen.turns[-1].text
    changed.write_text(changed.read_text().replace(said, "I see."))
    after = dpo_of(pairs=changed)
    assert [pair.chosen.ids for pair in after.train.pairs] == [pair.chosen.ids for pair in before.train.pairs]
    assert after.fingerprint() != before.fingerprint()


def test_a_safety_margin_needs_an_unsafe_reply(dpo_of: DpoOf, pairs_file: Path, tmp_path: Path) -> None:
    unmarked = tmp_path / "pairs.jsonl"
    unmarked.write_text(pairs_file.read_text().replace('"safety_violation": true', '"safety_violation": false'))
    with pytest.raises(ConfigError, match=r"safety_margin=0\.5: none of the \d+ pairs .* would do nothing"):
        dpo_of("loss.safety_margin=0.5", pairs=unmarked)
    assert dpo_of(pairs=unmarked).steps == 4


MISTAKES = {
    "loss.beta=0": r"loss\.beta=0\.0: must be above 0",
    "loss.label_smoothing=0.5": r"label_smoothing=0\.5: must lie from 0 to below 0\.5",
    "loss.safety_margin=-1": r"safety_margin=-1\.0: must be 0 or more",
    "loss.betta=1": r"unknown key loss\.betta \(did you mean beta\?\)",
    "pairs.dev_share=0": r"pairs\.dev_share=0\.0",
    "model.lora.rank=4": r"model\.lora belongs to START",
    "model.heads.emotion_width=4": r"model\.heads",
    "optimizer.head_lr=0.1": "the heads are kept as they are",
    "pairs.source=x": r"given by START and --pairs",
    "pairs.max_tokens=5": r"none of .* pairs fits pairs\.max_tokens",
}


@pytest.mark.parametrize(("override", "message"), MISTAKES.items())
def test_a_mistake_names_its_key(dpo_of: DpoOf, override: str, message: str) -> None:
    with pytest.raises((ConfigError, DataError), match=message):
        dpo_of(override)


def test_a_start_that_is_no_model_is_refused(dpo_of: DpoOf, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"config\.json"):
        dpo_of(start=tmp_path / "empty")


def test_a_run_without_a_model_yet_is_refused(dpo_of: DpoOf, tmp_path: Path) -> None:
    (tmp_path / "young" / "checkpoints").mkdir(parents=True)
    with pytest.raises(ModelError, match=r"young holds no model: .*best/ or checkpoints/.*first evaluation"):
        dpo_of(start=tmp_path / "young")


def test_cheap_mistakes_are_told_before_dear_ones(dpo_of: DpoOf, tiny_model: Path, tmp_path: Path) -> None:
    """A path before a model is looked for, and a layer before pairs are read."""
    with pytest.raises(DataError, match=r"none\.jsonl: there is no such file"):
        dpo_of(start=tmp_path / "no-model", pairs=tmp_path / "none.jsonl")
    (tmp_path / "bad.jsonl").write_text("{")
    with pytest.raises(ConfigError, match=r"no layer 'v_porj' \(did you mean v_proj"):
        dpo_of("model.lora.target_modules=[q_proj,v_porj]", start=tiny_model, pairs=tmp_path / "bad.jsonl")


def test_a_dry_run_prints_the_plan_and_writes_nothing(tuned: Path, pairs_file: Path, tmp_path: Path) -> None:
    call = ["dpo", str(tuned), "--pairs", str(pairs_file), f"output_dir={tmp_path / 'runs'}", "--dry-run"]
    done = CliRunner().invoke(app, call)
    assert done.exit_code == 0, done.output
    assert "22 pairs to train on, 2 for the dev loss" in done.output
    assert "system: Be kind." in done.output and "reference: a copy of" in done.output
    assert not (tmp_path / "runs").exists()
    assert json.loads(pairs_file.read_text().splitlines()[0])["safety_violation"] is True


def test_a_folder_that_another_process_trains_in_is_left_alone(tuned: Path, pairs_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "second"
    call = ["dpo", str(tuned), "--pairs", str(pairs_file), f"output_dir={tmp_path / 'runs'}", "name=second"]
    with only_run_in(folder):
        done = CliRunner().invoke(app, call)
    assert isinstance(done.exception, ConfigError) and "is being trained by process" in str(done.exception)
    assert not (folder / "metrics.jsonl").exists()
