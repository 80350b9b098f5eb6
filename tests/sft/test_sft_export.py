"""Merge and export: what transformers opens gives the logits of the adapted model."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dialogue.conversation import Conversation, Role, Turn
from sft.config import ConfigError
from sft.export import export_model
from sft.model import SftModel
from sft.predict import Predictor, Sampling
from sft.preparing import Prepared
from sft.saved import load_model, save_model

RunOf = Callable[..., Prepared]
ModelOf = Callable[..., SftModel]


def test_the_export_has_the_logits_of_the_adapted_model(run_of: RunOf, model_of: ModelOf, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    prepared = run_of()
    model = model_of(prepared, stirred=True).eval()
    run = tmp_path / "run"
    (run / "best").mkdir(parents=True)
    save_model(model, prepared.config, run / "best")
    out = tmp_path / "out"
    assert export_model(run, out) == run / "best"
    plain = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    ids = torch.tensor([AutoTokenizer.from_pretrained(out).encode("My cat is ill.")])
    with torch.no_grad():
        adapted = model.lm(input_ids=ids).logits
        torch.testing.assert_close(plain(input_ids=ids).logits, adapted, atol=1e-4, rtol=1e-4)
        with model.as_teacher():
            assert (model.lm(input_ids=ids).logits - adapted).abs().max() > 1e-2
    assert not (out / "adapter_config.json").exists()
    assert {"heads.safetensors", "heads.json", "tokenizer.json"} <= {path.name for path in out.iterdir()}


def test_an_exported_model_is_loaded_with_its_heads(run_of: RunOf, model_of: ModelOf, tmp_path: Path) -> None:
    prepared = run_of()
    (tmp_path / "best").mkdir()
    save_model(model_of(prepared, stirred=True), prepared.config, tmp_path / "best")
    export_model(tmp_path, tmp_path / "out")
    said = Conversation("c", (Turn(Role.SEEKER, "My cat is ill."),))
    heads_only = Sampling(max_new_tokens=0)
    before, after = (Predictor.load(tmp_path / name).predict(said, heads_only) for name in ("best", "out"))
    assert before.emotions is not None and after.emotions == pytest.approx(before.emotions, abs=1e-4)
    assert before.strategies is not None and after.strategies == pytest.approx(before.strategies, abs=1e-4)
    shutil.rmtree(tmp_path / "best")  # it needs nothing of the run
    assert load_model(tmp_path / "out").config.model.path == str(tmp_path / "out")


def test_what_cannot_be_exported_is_refused(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(ConfigError, match="exists already"):
        export_model(tmp_path, tmp_path / "there")
    with pytest.raises(ConfigError, match="holds no fine-tuned model"):
        export_model(tmp_path, tmp_path / "new")
    assert not (tmp_path / "new").exists()
