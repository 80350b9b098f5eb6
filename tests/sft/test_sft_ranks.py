"""Several processes that share the batches of a step give the losses and weights of one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from sft.commands import app
from sft.preparing import Prepared
from sft.ranks import Ranks
from sft.tracking import read_metrics
from sft.training import Trainer, train

RunOf = Callable[..., Prepared]
ROOT = Path(__file__).resolve().parents[2]
OPTIONS = ("steps=3", "dev.every=2", "optimizer.accumulation=3")  # one process has two batches, the other one


def rapport(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "rapport", "sft", "train", *arguments],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip


@pytest.mark.timeout(600)
def test_two_processes_give_the_losses_and_weights_of_one(run_of: RunOf, tmp_path: Path) -> None:
    """Dropout is on. The second run ends after two steps in two processes and goes on in one."""
    alone = train(run_of("name=alone", *OPTIONS))
    config = run_of("name=shared", *OPTIONS).folder.path.parent / "shared.yaml"
    text = (alone.folder / "config.yaml").read_text().replace("name: alone", "name: shared")
    config.write_text(text)
    done = rapport(str(config), "steps=2", "--processes", "2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("step 1/2:") == 1  # only the first process speaks
    (tmp_path / "shared" / "config.yaml").write_text(text)  # as if it had been stopped after two of three steps
    shared = train(run_of("name=shared", *OPTIONS))
    first, second = (read_metrics(result.folder / "metrics.jsonl") for result in (alone, shared))
    assert [record["step"] for record in first] == [record["step"] for record in second]
    for one, other in zip(first, second, strict=True):
        for name in one.keys() - {"seconds", "tokens_per_s", "lr"}:
            assert other[name] == pytest.approx(one[name], rel=2e-4, abs=1e-6), name
    saved = [load_file(result.folder / "best" / "adapter_model.safetensors") for result in (alone, shared)]
    for name, value in saved[0].items():
        torch.testing.assert_close(saved[1][name], value, atol=2e-5, rtol=1e-3)


def test_a_process_without_a_batch_applies_what_the_others_found(run_of: RunOf) -> None:
    """As with loss scaling on a GPU: its scaler has seen no loss when the gradients of the others arrive."""
    trainer = Trainer(run_of(), torch.device("cpu"))
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    first = next(iter(trainer.model.trained().values()))
    before = first.detach().clone()
    for parameter in trainer.model.trained().values():
        parameter.grad = torch.ones_like(parameter)
    values = trainer._apply()
    assert values["skipped"] == 0.0 and not torch.equal(first, before)


def test_each_batch_belongs_to_one_process() -> None:
    ranks = [Ranks(rank, 3) for rank in range(3)]
    assert [[number for number, _ in rank.share("abcde")] for rank in ranks] == [[0, 3], [1, 4], [2]]
    assert Ranks().share("ab") == [(0, "a"), (1, "b")]
    assert [rank.first for rank in ranks] == [True, False, False]


@pytest.mark.slow
def test_the_exit_code_of_a_process_that_fails_is_that_of_the_command(run_of: RunOf, tmp_path: Path) -> None:
    run_of().folder.prepare()
    missing = str(tmp_path / "run" / "config.yaml")
    done = rapport(missing, "name=other", "optimizer.lr=1e30", "optimizer.max_grad_norm=1e30", "--processes", "2")
    assert done.returncode == 1 and "the loss is" in done.stderr
    assert "ChildFailedError" not in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("count", "said"),
    [("0", "must be 1 or more"), ("5", "only optimizer.accumulation=4 batches"), ("999", "999: ")],
)
def test_more_processes_than_the_machine_or_a_step_has_are_refused(count: str, said: str) -> None:
    done = CliRunner().invoke(app, ["quickstart", "--processes", count])
    assert done.exit_code != 0 and said in str(done.exception)
