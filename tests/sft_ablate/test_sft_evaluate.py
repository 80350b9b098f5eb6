"""`rapport sft evaluate` on a run of the tiny model: its figures, what they are compared with, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from sft.commands import app
from sft.config import SftConfig
from sft.corpus import Corpus
from sft.examples import Loss, Source
from sft.export import export_model
from sft.measuring.evaluating import evaluate, plan_evaluation, score
from sft.measuring.measures import Guesses, commonest
from sft.preparing import prepare
from sft.tracking import read_metrics
from sft.training import train

ConfigOf = Callable[..., SftConfig]


def ask(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)])


@pytest.fixture(scope="module")
def trained(config_in: ConfigOf, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(prepare(config_in(tmp_path_factory.mktemp("trained"), "data.max_dev=0"))).folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "run")


def test_from_a_run_to_its_figures(run: Path) -> None:
    """On the dev sequences, whose loss and accuracy other code has measured at the end of the training."""
    done = ask(run, "--split", "valid", "--probe-rows", 12)
    assert done.exit_code == 0, done.output
    record = json.loads((run / "evaluation-valid.json").read_text())
    dev = next(r for r in read_metrics(run / "metrics.jsonl") if "dev/loss" in r)
    replies, of_base = record["replies"], record["replies_of_base"]
    assert replies["lm_loss"] == pytest.approx(dev["dev/lm"], rel=1e-5)
    assert replies["safety_kl"] == pytest.approx(dev["dev/safety"], rel=1e-4)
    assert replies["tokens"] == replies["ruled"] == of_base["tokens"]  # the quickstart's rules apply to every reply
    assert f"LM loss {replies['lm_loss']:.4f} nats a token; its base {of_base['lm_loss']:.4f}" in done.output
    for name in ("emotion", "strategy"):
        head: dict[str, Any] = record["heads"][name]
        assert list(head["scores"]) == ["head", "commonest label", "linear probe"]
        assert head["scores"]["head"]["accuracy"] == pytest.approx(dev[f"dev/{name}_accuracy"])
        classes = head["classes"].values()
        assert sum(one["turns"] for one in classes) == sum(one["said"] for one in classes) == head["turns"]
        assert sum(one["right"] for one in classes) == round(head["turns"] * head["scores"]["head"]["accuracy"])
    assert re.search(r"emotion: \d+ turns of own\n  head +accuracy 0\.\d{3} \[0\.\d{3}, 0\.\d{3}\]", done.output)


def test_the_commonest_label_is_that_of_the_training_data(run: Path) -> None:
    """Half of the conversations are sad and half of the replies disclose nothing but ask: see `talks`."""
    found = evaluate(plan_evaluation(run, []))
    head = found.heads["strategy"]
    assert head.scores["commonest label"].accuracy == head.classes["Question"].turns / head.turns
    assert "linear probe" not in head.scores


def test_an_exported_model_is_measured_alike(run: Path, tmp_path: Path) -> None:
    export_model(run, tmp_path / "merged")
    one, other = (evaluate(plan_evaluation(place, [])) for place in (run, tmp_path / "merged"))
    assert other.replies.lm_loss == pytest.approx(one.replies.lm_loss, rel=1e-4) and other.heads == one.heads
    assert other.replies_of_base is None and other.replies.safety_kl is None
    refused = ask(tmp_path / "merged", "--probe-rows", 5)
    assert "no base to probe" in str(refused.exception)


def test_other_data_and_fewer_of_them(run: Path, talks: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(talks.read_bytes())
    assert ask(run, f"data.own={copy}", "--of-each", 1, "--out", tmp_path / "one.json").exit_code == 0
    assert json.loads((tmp_path / "one.json").read_text())["sequences"] == {"own": 1}
    assert not list(run.glob("evaluation*"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["optimizer.lr=1"], "only data"),
        (["data.folder=/nowhere"], "no folder with any of"),
        (["data.own=/nowhere.jsonl"], "/nowhere.jsonl"),
        (["--out", "/nowhere/found.json"], "there is no folder /nowhere"),
        (["--split", "test"], "examples of your own are train and valid alone"),
    ],
)
def test_what_is_refused_before_weights_are_loaded(run: Path, arguments: list[str], said: str) -> None:
    refused = ask(run, *arguments)
    assert refused.exit_code and said in str(refused.exception)
    assert not list(run.glob("evaluation*"))


def test_a_folder_without_a_model_and_a_split_that_is_none(tmp_path: Path) -> None:
    assert "holds no fine-tuned model" in str(ask(tmp_path).exception)
    assert ask(tmp_path, "--split", "train").exit_code == 2


def test_labels_that_no_training_example_has_are_not_guessed(run: Path) -> None:
    """Rather than the first class of the list, as if it were the commonest."""
    plan = plan_evaluation(run, [])
    taught = Corpus({Source.OWN: [replace(row, losses=frozenset({Loss.EMOTION})) for row in plan.rows]}, 0)
    assert commonest(taught, plan.rows, plan.heads).keys() == {Loss.EMOTION}


def test_an_interval_by_hand() -> None:
    """Wilson, 1 of 4, z = 1.959964: centre (1 + z^2/2) / (4 + z^2) = 0.372473, half width 0.326885."""
    found = score(Guesses([0, 0, 0, 0], np.eye(2, dtype=bool)[[0, 1, 1, 1]]))
    z2 = 1.959964**2
    half = (z2**0.5 / (4 + z2)) * (4 * 0.25 * 0.75 + z2 / 4) ** 0.5
    assert found.accuracy == 0.25
    assert (found.low + found.high) / 2 == pytest.approx((1 + z2 / 2) / (4 + z2), abs=1e-6)
    assert (found.high - found.low) / 2 == pytest.approx(half, abs=1e-6)
