"""An ablation on the tiny model: which runs there are, what they share, and that finished ones are not repeated."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from rl.run_lock import only_run_in
from sft.ablation import running
from sft.ablation.running import prepare_ablation, run_ablation
from sft.ablation.table import as_json, as_markdown, draw, spread
from sft.ablation.variants import Variant, parse_seeds, variants_of
from sft.commands import app
from sft.config import ConfigError, SftConfig
from sft.examples import Loss, Source
from sft.measuring.measures import Measures, macro_f1, read_where_labelled
from sft.measuring.reading import Reader
from sft.model import build_model
from sft.saved import load_model
from sft.tokens import TokenSequence
from sft.tracking import read_metrics
from sft.training import Trainer

ConfigOf = Callable[..., SftConfig]


def test_an_ablation_from_start_to_table_and_again(ablation_config: ConfigOf, monkeypatch: pytest.MonkeyPatch) -> None:
    config = ablation_config()
    said: list[str] = []
    table = run_ablation(prepare_ablation(config, (0,)), said.append)
    assert said[:2] == ["the base, not fine-tuned", "linear probe on the base's own states"] and len(said) == 7
    assert [line.split(": ")[1] for line in said[2:4]] == ["full, seed 0", "no-emotion, seed 0"]
    folder = table.parent
    heads = {variant: json.loads((folder / f"{variant}-seed0" / "best" / "heads.json").read_text())["heads"]
             for variant in Variant}  # fmt: skip
    assert heads == {
        "full": ["emotion", "strategy"],
        "no-emotion": ["strategy"],
        "no-strategy": ["emotion"],
        "no-safety": ["emotion", "strategy"],
        "lm-only": [],
    }
    recorded = read_metrics(folder / "lm-only-seed0" / "metrics.jsonl")
    assert len([r for r in recorded if "train/lm" in r]) == 2 and "train/safety" not in recorded[0]
    text = table.read_text()
    assert "| lm-only | " in text and "Differences from the full run" in text
    assert re.search(r"\| majority class \| - \| - \| \d\.\d{3} \| ", text)
    assert re.search(r"\| linear probe \| - \| - \| \d\.\d{3} \| \d\.\d{3} \| \d\.\d{3} \| \d\.\d{3} \| - \|", text)
    record = json.loads((folder / "ablation.json").read_text())
    assert len(record["runs"]) == 5 and "emotion_accuracy" not in record["variants"]["no-emotion"]
    assert (folder / "ablation.png").read_bytes()[:4] == b"\x89PNG"
    before = table.read_bytes()
    monkeypatch.setattr(running, "train", lambda prepared: pytest.fail("a finished run was repeated"))
    said.clear()
    assert run_ablation(prepare_ablation(config, (0,)), said.append).read_bytes() == before
    assert all(line.endswith("finished before") for line in said)
    said.clear()  # a probe of other sequences is another probe; the runs are what they were
    assert "at most 1 training" in run_ablation(prepare_ablation(config, (0,), probe_rows=1), said.append).read_text()
    assert [line.endswith("finished before") for line in said] == [True, False] + [True] * 5


def test_what_an_older_version_measured_is_measured_anew_without_training(
    ablation_config: ConfigOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ablation_config("losses.strategy=0", "losses.safety=0")
    before = run_ablation(prepare_ablation(config, (0,)), lambda text: None).read_bytes()
    file = prepare_ablation(config, (0,)).run_of(Variant.FULL, 0).folder.path / running.MEASURES
    whole = file.read_bytes()
    record = json.loads(whole)
    del record["measures"]["safety_kl"]
    file.write_text(json.dumps(record))
    monkeypatch.setattr(Trainer, "update", lambda self: pytest.fail("a finished run was trained on"))
    assert run_ablation(prepare_ablation(config, (0,)), lambda text: None).read_bytes() == before
    assert file.read_bytes() == whole


def test_before_it_is_trained_a_model_is_its_base(ablation_config: ConfigOf) -> None:
    """New adapters add nothing; the base is not the teacher, which reads the rules."""
    full = prepare_ablation(ablation_config(), (0,)).prepared[Variant.FULL]
    model = build_model(full.config, full.base, torch.device("cpu")).eval()
    reader = Reader.with_teacher(model, full.chat, full.pad_id, full.config)
    rows = full.corpus.sequences[Source.OWN][:5]
    one, other = reader.read(rows), reader.read(rows, as_base=True)
    assert (one.nll, one.kl, one.tokens, one.ruled) == (other.nll, other.kl, other.tokens, other.ruled)
    assert one.kl > 0 and one.heads.keys() == {Loss.EMOTION, Loss.STRATEGY} and not other.heads
    with torch.no_grad():
        for name, value in model.trained().items():
            value.add_(0.1 if "lora" in name else 0)
    assert reader.read(rows, as_base=True).nll == one.nll != reader.read(rows).nll


def test_a_run_that_another_process_trains_is_not_touched(ablation_config: ConfigOf) -> None:
    ablation = prepare_ablation(ablation_config(), (0,))
    folder = ablation.run_of(Variant.FULL, 0).folder.path
    with only_run_in(folder), pytest.raises(ConfigError, match=r"full-seed0 is being trained by process \d+"):
        run_ablation(ablation)
    assert not (folder / "metrics.jsonl").exists()


def test_an_interrupted_ablation_goes_on(ablation_config: ConfigOf, monkeypatch: pytest.MonkeyPatch) -> None:
    config = ablation_config("losses.safety=0", "losses.strategy=0")
    update, made = Trainer.update, [0]

    def breaks_down(self: Trainer) -> dict[str, float]:
        made[0] += 1
        if made[0] == 4:  # the second step of the second run
            raise KeyboardInterrupt
        return update(self)

    monkeypatch.setattr(Trainer, "update", breaks_down)
    with pytest.raises(KeyboardInterrupt):
        run_ablation(prepare_ablation(config, (0,)), lambda text: None)
    made[0] = 100
    table = run_ablation(prepare_ablation(config, (0,)), lambda text: None)
    assert made[0] == 101  # only the step that was missing
    assert "2 of 2 runs" in table.read_text() and "±" not in table.read_text().split("\n\n", 2)[2]


def test_the_same_number_of_steps_and_sequences_for_all(ablation_config: ConfigOf) -> None:
    ablation = prepare_ablation(ablation_config("steps=0", "epochs=2"), (3,))
    runs = [ablation.run_of(variant, 3) for variant in Variant]
    assert {(run.steps, run.config.steps, run.config.seed) for run in runs} == {(18, 18, 3)}
    assert runs[4].config.losses.of(Loss.LM) == 1.0 and runs[4].losses == [Loss.LM]
    assert {row.losses for row in ablation.rows} == {frozenset({Loss.LM, Loss.EMOTION, Loss.STRATEGY, Loss.SAFETY})}


def test_a_measure_is_the_dev_loss_and_accuracy_of_the_run(ablation_config: ConfigOf) -> None:
    """The same sequences, measured by other code than that of training."""
    ablation = prepare_ablation(ablation_config("data.max_dev=0"), (0,))
    run_ablation(ablation, lambda text: None)
    prepared = ablation.run_of(Variant.FULL, 0)
    dev = next(r for r in read_metrics(prepared.folder.path / "metrics.jsonl") if "dev/loss" in r)
    model = load_model(prepared.folder.best).model
    found = Reader.with_teacher(model, prepared.chat, prepared.pad_id, prepared.config).read(ablation.rows).measures
    assert found.lm_loss == pytest.approx(dev["dev/lm"], rel=1e-5)
    assert found.safety_kl == pytest.approx(dev["dev/safety"], rel=1e-4)
    assert found.emotion_accuracy == pytest.approx(dev["dev/emotion_accuracy"])
    assert found.strategy_accuracy == pytest.approx(dev["dev/strategy_accuracy"])


def test_each_head_is_measured_on_its_own_corpus_where_that_is_there() -> None:
    def row(source: Source, *losses: Loss) -> TokenSequence:
        return TokenSequence(source.value, source, frozenset(losses), (), (1,))

    go, es = row(Source.GOEMOTIONS, Loss.EMOTION), row(Source.ESCONV, Loss.STRATEGY, Loss.LM)
    ed, own = row(Source.EMPATHETIC_DIALOGUES, Loss.LM, Loss.EMOTION), row(Source.OWN, Loss.STRATEGY)
    assert read_where_labelled([ed, own]) == [ed, own]
    found = read_where_labelled([go, es, ed, own])
    assert found == [go, es, replace(ed, losses=frozenset({Loss.LM}))]  # nothing of `own` is left to read


def test_so_many_sequences_of_each_source(ablation_config: ConfigOf) -> None:
    config = ablation_config("losses.safety=0")
    every = prepare_ablation(config, (0,), of_each=999).rows
    assert [len(prepare_ablation(config, (0,), of_each=n).rows) for n in (1, len(every))] == [1, len(every)]


def test_what_is_off_already_is_no_variant(ablation_config: ConfigOf) -> None:
    assert variants_of(ablation_config()) == list(Variant)
    assert variants_of(ablation_config("losses.safety=0")) == [
        Variant.FULL, Variant.NO_EMOTION, Variant.NO_STRATEGY, Variant.LM_ONLY,
    ]  # fmt: skip
    assert variants_of(ablation_config("losses.safety=0", "losses.strategy=0")) == [Variant.FULL, Variant.NO_EMOTION]
    with pytest.raises(ConfigError, match=r"only losses\.lm is on"):
        variants_of(ablation_config("losses.safety=0", "losses.strategy=0", "losses.emotion=0"))
    with pytest.raises(ConfigError, match=r"losses\.lm=0"):
        variants_of(ablation_config("losses.lm=0"))


def test_another_configuration_is_refused_before_the_first_run(ablation_config: ConfigOf) -> None:
    run_ablation(prepare_ablation(ablation_config("losses.safety=0", "losses.strategy=0"), (0,)), lambda text: None)
    with pytest.raises(ConfigError, match=r"full-seed0 was started with another configuration \(optimizer\.lr"):
        prepare_ablation(ablation_config("losses.safety=0", "losses.strategy=0", "optimizer.lr=0.1"), (0,))


def test_macro_f1_by_hand() -> None:
    """Labels a, a, b, and {a, b}; guesses a, b, b, b.

    a: 1 hit, 2 misses, no false alarm: 2 / (2 + 2) = 0.5.  b: 2 hits, no miss, 1 false alarm: 4 / 5 = 0.8.
    Class c is nobody's label and does not count.
    """
    labels = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]], dtype=bool)
    assert macro_f1([0, 1, 1, 1], labels) == pytest.approx(0.65)


def test_an_interval_by_hand() -> None:
    """1, 2, 3: s = 1, t(0.975, 2) = 4.302653, so half = 4.302653 / sqrt(3) = 2.484138."""
    found = spread([1.0, 2.0, 3.0])
    assert (found.mean, found.half) == (2.0, pytest.approx(2.484138, abs=1e-6))
    assert spread([4.0]).half is None


def test_the_table_pairs_runs_by_seed(tmp_path: Path) -> None:
    """The full runs differ by 1 between the seeds, but each variant is 0.5 above its own: an interval of no width."""
    results = {
        (variant, seed): Measures(lm_loss=2.0 + seed + 0.5 * place, tokens_per_s=100.0)
        for seed in (0, 1)
        for place, variant in enumerate((Variant.FULL, Variant.LM_ONLY))
    }
    text = as_markdown(results, {"majority class": Measures(strategy_accuracy=0.25)}, "Title", "Note.")
    assert "| full | 2.5000 ± 6.3531 | - | - | - | - | - | 100 ± 0 |" in text
    assert "| lm-only | +0.5000 ± 0.0000 | - | - | - | - | - | +0 ± 0 |" in text
    assert "| majority class | - | - | - | - | 0.250 | - | - |" in text
    record = as_json(results, {})
    assert record["differences"]["lm-only"]["lm_loss"]["values"] == [0.5, 0.5]
    draw(results, {"majority class": Measures(lm_loss=3.0)}, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000


@pytest.mark.parametrize("text", ["", "0,", "1,1", "-1", "a", "1.5", "²"])
def test_seeds_that_are_no_seeds(text: str) -> None:
    with pytest.raises(ConfigError, match="--seeds"):
        parse_seeds(text)


def test_a_dry_run_names_the_runs_and_writes_nothing(ablation_config: ConfigOf, tmp_path: Path) -> None:
    config = ablation_config()
    given = [f"model.path={config.model.path}", f"data.own={config.data.own}", f"output_dir={tmp_path / 'new'}"]
    done = CliRunner().invoke(app, ["ablate", "quickstart", *given, "--seeds", "0,1", "--dry-run"])
    assert done.exit_code == 0, done.output
    assert "10 runs of 20 steps: full, no-emotion, no-strategy, no-safety, lm-only; seeds 0, 1" in done.output
    assert not (tmp_path / "new").exists()
    assert CliRunner().invoke(app, ["ablate", "quickstart", "--split", "tests"]).exit_code == 2
