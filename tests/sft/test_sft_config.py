"""Every preset parses; every mistake is one error that names the key; the command line ends with code 2."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rl.typed_yaml import to_yaml
from sft.commands import app
from sft.config import ConfigError, Quantisation
from sft.config_loading import PRESETS, load_config

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.parametrize("name", PRESETS.names())
def test_every_preset_parses_and_survives_a_round_trip(name: str, tmp_path: Path) -> None:
    config = load_config(name)
    (tmp_path / "saved.yaml").write_text(to_yaml(config))
    assert load_config(str(tmp_path / "saved.yaml")) == config


def test_the_t4_preset_is_the_reports_recipe() -> None:
    config = load_config("t4")
    lora, optimizer, losses = config.model.lora, config.optimizer, config.losses
    assert config.model.quantisation is Quantisation.nf4
    assert (lora.rank, lora.alpha, lora.dropout) == (16, 32, 0.05)
    assert lora.target_modules == ("q_proj", "k_proj", "v_proj", "o_proj")
    assert (optimizer.lr, optimizer.batch, optimizer.accumulation, config.epochs) == (2e-4, 4, 8, 2)
    assert (optimizer.warmup, optimizer.decay, optimizer.max_grad_norm) == (0.1, "cosine", 1.0)
    assert (losses.lm, losses.emotion, losses.strategy, losses.safety) == (1.0, 0.2, 0.2, 0.1)


MISTAKES = {
    "optimiser.lr=1": r"unknown key optimiser \(did you mean optimizer\?\)",
    "optimizer.rate=1": r"unknown key optimizer\.rate",
    "optimizer=1": "optimizer is a group of keys",
    "optimizer.lr=fast": r"optimizer\.lr.*fast",
    "optimizer.lr=0": r"optimizer\.lr=0\.0: must be a number above 0",
    "optimizer.lr=nan": r"optimizer\.lr=nan: must be a number above 0",
    "optimizer.batch=0": r"optimizer\.batch=0: must be 1 or more",
    "optimizer.warmup=1": r"optimizer\.warmup=1\.0: must lie from 0 to below 1",
    "optimizer.decay=stairs": r"optimizer\.decay.*stairs.*cosine",
    "safety.tau=-1": r"safety\.tau=-1\.0",
    "losses.emotion=-1": "the lambda of emotion is -1",
    "data.max_tokens=1": r"data\.max_tokens=1",
    "model.lora.target_modules=[lm_head]": "lm_head cannot be adapted",
    "dev.every=0": r"dev\.patience=3 with dev\.every=0",
    "model.lora.target_modules=[]": r"target_modules is empty: no layer would get an adapter",
    "model.lora.alpha=0": r"model\.lora\.alpha=0: must be 1 or more",
    "optimizer.betas=[0.9]": r"betas=\[0\.9\]: must be two numbers",
    "optimizer.betas=[0.9,1]": r"betas\[1\]=1\.0: must lie from 0 to below 1",
    "seed=-1": r"seed=-1: must be 0 or more",
    "name=a/b": "must be a plain folder name",
    "name=..": "must be a plain folder name",
    "steps": "expected key=value",
}


@pytest.mark.parametrize(("override", "message"), MISTAKES.items())
def test_a_mistake_names_its_key(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config("quickstart", [override])


def test_an_unknown_preset_lists_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"'quikstart' \(did you mean quickstart\?\)"):
        load_config("quikstart")
    with pytest.raises(ConfigError, match="every lambda is 0"):
        load_config("quickstart", [f"losses.{name}=0" for name in ("lm", "emotion", "strategy", "safety")])


def test_a_dry_run_prints_the_plan_and_writes_nothing(tiny_model: Path, tmp_path: Path) -> None:
    overrides = [f"model.path={tiny_model}", f"output_dir={tmp_path / 'runs'}"]
    done = CliRunner().invoke(app, ["quickstart", *overrides, "--dry-run"])
    assert done.exit_code == 0, done.output
    assert "20 steps of 8 sequences" in done.output and "losses: lm 1, emotion 0.2" in done.output
    assert not (tmp_path / "runs").exists()


def test_a_bad_configuration_ends_with_code_2() -> None:
    call = (
        "import rapport\n"
        "rapport.COMMANDS.setdefault('sft', rapport.Entry('sft.commands', 'app', 'Fine-tune.'))\n"
        "rapport.main()\n"
    )
    environment = os.environ | {"NO_COLOR": "1", "RAPPORT_TRACEBACK": ""}
    command = [sys.executable, "-c", call, "sft", "train", "t4", "optimizer.lrr=1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=ROOT, env=environment)
    assert done.returncode == 2, done.stderr
    assert "unknown key optimizer.lrr (did you mean lr?)" in done.stderr
    assert "Traceback" not in done.stderr
