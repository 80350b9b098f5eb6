"""Adapters learn the verdicts of their annotations, and a killed training ends where an unbroken one does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from dialogue.tactics import TACTICS, Tactic
from reward_servers.lora_tagger import self_check
from reward_servers.lora_tagger.building import train_tagger
from reward_servers.lora_tagger.engine import Request
from reward_servers.lora_tagger.folder import (
    ADAPTER_WEIGHTS,
    EngineSettings,
    LoraTaggerConfig,
    LoraTaggerFolderError,
    find_adapters,
    load_config,
)
from reward_servers.lora_tagger.prompts import Annotated, Annotations, TacticPrompt, load_tactic_annotations
from reward_servers.lora_tagger.tagger import open_encoder
from reward_servers.lora_tagger.training import (
    AdapterTrainer,
    Example,
    LoraRecipe,
    answer_loss,
    answer_weights,
    batches_of,
    examples_of,
)
from reward_servers.lora_tagger.training_state import LoraTrainingError

QUICK = LoraRecipe(rank=4, alpha=8, dropout=0.1, learning_rate=3e-3, epochs=6, batch_size=2, micro_batch=1)


class StopError(Exception):
    """Raised by a progress callback: the process dies here."""


@pytest.fixture(scope="module")
def validation(annotations: Path, tiny_model: Path) -> list[Example]:
    found = load_tactic_annotations(annotations)
    config = LoraTaggerConfig(str(tiny_model), {t: a.prompt for t, a in found.items()}, engine=EngineSettings())
    return examples_of(Tactic.VALIDATION, found[Tactic.VALIDATION], open_encoder(tiny_model, config), power=0.0)


def test_the_loss_is_that_of_the_answer_token_alone(tiny_model: Path) -> None:
    """Padding on the left changes nothing: the sum over examples of -w log p(answer | prompt)."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    examples = [Example(tuple(range(40, 40 + n)), answer, weight) for n, answer, weight in ((9, 5, 1.0), (4, 7, 0.5))]
    by_hand = 0.0
    with torch.inference_mode():
        for example in examples:
            logits = model(torch.tensor([example.token_ids])).logits[0, -1]
            by_hand -= example.weight * float(logits.log_softmax(-1)[example.answer_id])
        assert float(answer_loss(model, examples, torch.device("cpu"))) == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.parametrize(("power", "weights"), [(0.0, (1.0, 1.0)), (1.0, (4 / 6, 2.0)), (0.5, (0.8452995, 1.4641016))])
def test_the_rarer_answer_counts_more_where_asked(power: float, weights: tuple[float, float]) -> None:
    """Three 0 and one 1: 3 ** -power and 1, scaled to a mean of 1 over the four."""
    sentences = tuple(Annotated("", "", holds) for holds in (False, False, False, True))
    assert answer_weights(Annotations(TacticPrompt("", "", "", ""), sentences), power) == pytest.approx(weights)


def test_every_example_is_seen_once_an_epoch() -> None:
    examples = [Example((i,), 0, 1.0) for i in range(5)]
    batches = list(batches_of(examples, LoraRecipe(epochs=2, batch_size=3)))
    assert [len(batch) for batch in batches] == [3, 2, 3, 2]
    for epoch in (batches[:2], batches[2:]):
        assert sorted(e.token_ids[0] for batch in epoch for e in batch) == [0, 1, 2, 3, 4]


def test_a_killed_training_ends_where_an_unbroken_one_does(
    tiny_model: Path, tmp_path: Path, validation: list[Example]
) -> None:
    def train(out: Path, stop_after: int | None = None) -> list[float]:
        def on_step(tactic: Tactic, step: int, steps: int, loss: float) -> None:
            if step == stop_after:
                raise StopError

        return AdapterTrainer(str(tiny_model), out, QUICK, save_every=4).train(Tactic.VALIDATION, validation, on_step)

    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole = train(tmp_path / "whole")
    with pytest.raises(StopError):
        train(tmp_path / "killed", stop_after=6)
    assert train(tmp_path / "killed") == whole[4:]
    assert train(tmp_path / "killed") == []
    weights = [load_file(tmp_path / name / "validation" / ADAPTER_WEIGHTS) for name in ("whole", "killed")]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_what_another_recipe_left_is_not_gone_on_with(
    tiny_model: Path, tmp_path: Path, validation: list[Example]
) -> None:
    AdapterTrainer(str(tiny_model), tmp_path, LoraRecipe(rank=2, epochs=1)).train(Tactic.VALIDATION, validation)
    other = AdapterTrainer(str(tiny_model), tmp_path, LoraRecipe(rank=4, epochs=1))
    with pytest.raises(LoraTrainingError, match="the adapter of validation is there, but was made"):
        other.train(Tactic.VALIDATION, validation)
    (tmp_path / "advice").mkdir()
    other.check(Tactic.ADVICE, validation)  # an empty folder is in nobody's way
    (tmp_path / "advice" / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(LoraTrainingError, match="is no adapter and in the way"):
        other.check(Tactic.ADVICE, validation)
    (tmp_path / ".training" / "questioning.pt").write_bytes(b"torn")
    with pytest.raises(LoraTrainingError, match=r"questioning\.pt cannot be read"):
        other.check(Tactic.QUESTIONING, validation)


def test_a_folder_that_cannot_be_made_is_told_before_the_base_is_loaded(
    tiny_model: Path, annotations: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(LoraTaggerFolderError, match="cannot be made"):
        train_tagger(load_tactic_annotations(annotations), str(tiny_model), tmp_path / "file" / "out", QUICK)


def test_an_adapter_learns_its_annotations(
    tiny_model: Path, annotations: Path, tmp_path: Path, validation: list[Example]
) -> None:
    recipe = LoraRecipe(rank=8, alpha=16, dropout=0.0, learning_rate=1e-2, epochs=20, batch_size=3)
    losses = AdapterTrainer(str(tiny_model), tmp_path, recipe).train(Tactic.VALIDATION, validation)
    assert 7.5 < losses[0] < 9.5  # a random model: about log 4096
    assert losses[-1] < 4.5  # the frozen output layer's words are so short that no state gets much below 3
    requests = [Request(Tactic.VALIDATION, list(example.token_ids)) for example in validation]
    no, yes = validation[1].answer_id, validation[0].answer_id
    adapters = {Tactic.VALIDATION: tmp_path / "validation"}
    log_odds = self_check.peft_log_odds(str(tiny_model), adapters, (no, yes), requests, "float32")
    assert [odds > 0 for odds in log_odds] == [True, False, False]


def test_ten_adapters_make_a_tagger(tiny_model: Path, annotations: Path, tmp_path: Path) -> None:
    """Adapters in the released layout, prompts, base, and what PEFT says of the probes."""
    found = load_tactic_annotations(annotations)
    losses = train_tagger(found, str(tiny_model), tmp_path, LoraRecipe(rank=2, epochs=1), max_tokens=1024)
    assert [len(some) for some in losses.values()] == [1] * 10
    assert list(find_adapters(tmp_path)) == list(TACTICS)
    config = load_config(tmp_path)
    assert config.base == str(tiny_model)
    assert config.prompts[Tactic.ADVICE] == found[Tactic.ADVICE].prompt
    stored = json.loads((tmp_path / self_check.FILE).read_text(encoding="utf-8"))
    assert len(stored["log_odds"]) == len(self_check.probe_requests(open_encoder(tmp_path, config)))


@pytest.mark.parametrize(("key", "value"), [("rank", 0), ("dropout", 1.0), ("learning_rate", -1.0)])
def test_an_impossible_recipe_is_named(key: str, value: float) -> None:
    with pytest.raises(LoraTrainingError, match=key):
        LoraRecipe(**{key: value})  # type: ignore[arg-type]
