"""Figures with intervals, the published order tested, and the commands from labels to a verdict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from chat_server import serving_chat
from turn_cases import made_labels, write_dialogues
from typer.testing import CliRunner

from evaluation.files import EvaluationDataError
from reward_servers.empathy.commands import app
from reward_servers.turn_scorers import commands
from reward_servers.turn_scorers.augment import Kind
from reward_servers.turn_scorers.commands import LabellingError, OptionError
from reward_servers.turn_scorers.items import Item
from reward_servers.turn_scorers.measuring import Metric, Predictions, Verdict, report
from reward_servers.turn_scorers.recipe import Variant
from reward_servers.turn_scorers.saved import TurnScorerError

GOOD = json.dumps({item.value: 1 for item in Item})


def run(*words: object) -> str:
    """The output of `rapport scorer ...`; its own errors are raised."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_figures_are_means_over_seeds_and_the_order_is_what_comes_out(tmp_path: Path) -> None:
    replies = made_labels(tmp_path)
    labels = np.array([reply.label for reply in replies])
    times = np.full(len(labels), 2.0)

    def off_by(error: float) -> Predictions:
        return Predictions(labels + error, np.ones(len(labels)), times)

    noisy = Predictions(np.random.default_rng(0).uniform(1, 5, len(labels)), np.zeros(len(labels)), times)
    given = {
        Variant.BASELINE: [off_by(0.1), off_by(0.3)],
        Variant.STM: [noisy, noisy],
        Variant.MVC: [off_by(0.5), off_by(0.5)],
    }
    result = report(replies, given, {variant: (0, 1) for variant in given}, resamples=200)
    mae = result.figures[Variant.BASELINE][Metric.MAE]
    assert mae.value == pytest.approx(0.2) and mae.low <= 0.2 + 1e-9 and mae.high >= 0.2 - 1e-9
    assert mae.between_seeds == pytest.approx(np.std([0.1, 0.3], ddof=1))
    assert result.figures[Variant.MVC][Metric.SPEARMAN].value == pytest.approx(1.0)
    assert result.figures[Variant.MVC][Metric.EMOTION].value == 1.0
    assert result.latencies[Variant.STM].median_ms == 2.0
    verdicts = {(o.metric, o.better, o.worse): o.verdict for o in result.orders}
    assert verdicts[Metric.MAE, Variant.BASELINE, Variant.STM] is Verdict.HOLDS
    assert verdicts[Metric.MAE, Variant.MVC, Variant.BASELINE] is Verdict.REVERSED
    assert verdicts[Metric.SPEARMAN, Variant.MVC, Variant.BASELINE] is Verdict.OPEN  # both are perfect
    assert (Metric.EMOTION, Variant.MVC, Variant.BASELINE) not in verdicts  # reported as equal


def test_a_constant_scorer_has_no_correlation_rather_than_one_of_nothing(tmp_path: Path) -> None:
    replies = made_labels(tmp_path)
    flat = Predictions(np.full(len(replies), 3.0), np.zeros(len(replies)), np.ones(len(replies)))
    figure = report(replies, {Variant.MVC: [flat]}, {Variant.MVC: (0,)}, 100).figures[Variant.MVC][Metric.SPEARMAN]
    assert np.isnan(figure.value) and np.isnan(figure.low) and np.isnan(figure.between_seeds)


def test_from_dialogues_to_a_verdict_by_the_commands(tmp_path: Path, encoder: str) -> None:
    data, labels, out = write_dialogues(tmp_path), tmp_path / "labels.jsonl", tmp_path / "scorers"
    said = run("label", "--data", data, "--formula-only", "--out", labels)
    assert "CC BY-NC 4.0" in said and "variance" in said
    small = ["--encoder", encoder, "--epochs", 1, "--emotion-epochs", 1, "--batch", 8, "--max-length", 64]
    said = run("train", "all", "--labels", labels, "--out", out, "--seeds", "0,1", *small)
    assert "not for commercial use" in said and (out / "mvc" / "seed-1" / "turn_scorer.json").is_file()
    said = run("eval", out, "--labels", labels, "--json", tmp_path / "eval.json", "--resamples", 100)
    assert "Spearman" in said and "published" in said
    found = json.loads((tmp_path / "eval.json").read_text())
    assert set(found["figures"]) == {"baseline", "stm", "mvc"} and found["seeds"]["stm"] == [0, 1]
    kept = out / "mvc" / "seed-1" / "predictions.npz"
    before = kept.stat().st_mtime_ns
    (out / "stm" / "seed-0" / "predictions.npz").write_bytes(b"torn")
    again = run("eval", out, "--labels", labels, "--json", tmp_path / "again.json", "--resamples", 100)
    assert "stm/seed-0: 1 of" in again and "mvc/seed-1: 1 of" not in again  # only what is lacking is asked again
    assert kept.stat().st_mtime_ns == before
    assert json.loads((tmp_path / "again.json").read_text())["figures"] == found["figures"]
    run("eval", out, "--labels", labels, "--limit", 2, "--resamples", 100)
    assert kept.stat().st_mtime_ns > before  # of other replies
    other = tmp_path / "other.jsonl"
    run("label", "--data", data, "--formula-only", "--out", other, "--seed", 5)
    with pytest.raises(TurnScorerError, match="trained with other labels"):
        run("eval", out, "--labels", other)
    with pytest.raises(OptionError, match="--seeds"):
        run("train", "mvc", "--labels", labels, "--out", out, "--seeds", "0,zero")
    with pytest.raises(OptionError, match="STM's first stage"):
        run("train", "mvc", "--labels", labels, "--out", out, "--emotion-rate", 1e-4)


def test_what_a_model_does_not_answer_readably_is_left_out_and_counted(tmp_path: Path) -> None:
    data, labels = write_dialogues(tmp_path, train=4, others=2), tmp_path / "labels.jsonl"
    calls: list[str] = []

    def answer(body: dict[str, Any]) -> dict[str, Any]:
        question = body["messages"][1]["content"]
        calls.append(question)
        said = "Five out of five!" if "<reply>\nRoses take years to grow.\n" in question else GOOD
        return {"choices": [{"message": {"role": "assistant", "content": said}}]}

    with serving_chat(answer, lambda: ["m"]) as url:
        ask = ["label", "--data", data, "--judge", url, "--out", labels]
        with pytest.raises(LabellingError, match=r"2 of the \d+ replies asked about have no label"):
            run(*ask)
        assert not labels.exists()
        asked = len(calls)
        said = run(*ask, "--max-missing", 0.5)
        assert len(calls) == asked  # all of it came from the cache
    assert "2 left out" in said
    rows = [json.loads(line) for line in labels.read_text().splitlines()]
    assert not [row for row in rows if row["reply"] == "Roses take years to grow." and row["kind"] == Kind.ORIGINAL]
    assert {tuple(row["llm"]) for row in rows if row["kind"] != Kind.RANDOM} == {(1, 1, 1, 1, 1)}
    summary = json.loads((tmp_path / "labels.summary.json").read_text())
    assert summary["without_label"] == 2 and "not one JSON object" in next(iter(summary["reasons"]))


def test_a_model_that_cannot_do_it_is_given_up_early_and_what_was_asked_is_not_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, labels = write_dialogues(tmp_path), tmp_path / "labels.jsonl"
    monkeypatch.setattr(commands, "_TOGETHER", 8)
    monkeypatch.setattr(commands, "_FEWEST_JUDGED", 8)
    calls: list[str] = []
    able = False

    def answer(body: dict[str, Any]) -> dict[str, Any]:
        calls.append(body["messages"][1]["content"])
        return {"choices": [{"message": {"role": "assistant", "content": GOOD if able else "Very kind!"}}]}

    with serving_chat(answer, lambda: ["m"]) as url:
        ask = ["label", "--data", data, "--judge", url, "--out", labels]
        with pytest.raises(LabellingError, match="8 of the 8 replies asked about have no label"):
            run(*ask, "--max-missing", 0.9)
        assert len(calls) == 16  # each of eight once more, and no other
        able = True
        said = run(*ask, "--cache", tmp_path / "anew")
        asked = len(calls)
        assert f"labelling: {asked - 16} of {asked - 16}" in said  # the parts are shown as one
        run(*ask, "--cache", tmp_path / "anew")
        assert len(calls) == asked


def test_a_wrong_address_or_model_is_told_before_the_data_is_read(tmp_path: Path) -> None:
    label = ["label", "--data", tmp_path / "nowhere", "--out", tmp_path / "labels.jsonl"]
    with pytest.raises(EvaluationDataError, match="not the address of a model"):
        run(*label, "--judge", "127.0.0.1:8000")
    with (
        serving_chat(lambda: {}, lambda: ["one", "two"]) as url,
        pytest.raises(EvaluationDataError, match="--judge-name"),
    ):
        run(*label, "--judge", url)


@pytest.mark.parametrize("options", [[], ["--formula-only", "--judge", "http://127.0.0.1:1/v1"]])
def test_the_two_kinds_of_label_are_never_chosen_in_silence(tmp_path: Path, options: list[str]) -> None:
    with pytest.raises(OptionError, match="--judge URL or --formula-only"):
        run("label", "--data", tmp_path, "--out", tmp_path / "labels.jsonl", *options)


def test_help_teaches_and_names_the_licence() -> None:
    assert isinstance(app, typer.Typer)
    for command in ("label", "train"):
        assert "CC BY-NC 4.0" in run(command, "--help")
    assert "--scorer" in run("trust", "--help")
