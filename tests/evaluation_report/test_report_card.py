"""The model card: a header that the hub can read, the run's numbers, and open questions named as open."""

from __future__ import annotations

import json

import yaml

from evaluation.report.card import model_card
from evaluation.report.run_files import read_run


def header_and_text(folder):
    _, header, text = model_card(read_run(folder)).split("---\n", 2)
    return yaml.safe_load(header), text


def set_config(folder, old, new):
    path = folder / "config.yaml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def test_header_and_numbers(run_folder):
    header, text = header_and_text(run_folder)
    assert header["license"] == "apache-2.0" and header["base_model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert header["pipeline_tag"] == "text-generation" and "rapport" in header["tags"]
    results = header["model-index"][0]["results"][0]
    assert {"type": "empathy", "name": "Empathy", "value": 3.25} in results["metrics"]
    assert (
        "| Empathy (1 to 5, a scoring model's opinion of the text) | 2.50 | 3.25 | +0.75 [+0.50, +1.00] | better |"
        in text
    )
    assert "not a therapist" in text and "synthetic" in text and "comfort spam 1.20" in text
    assert "honest 3.00 (the human reply)" in text
    assert "began with its dequantised weights, not with the released ones" in text


def test_a_hub_model_of_unknown_licence(run_folder):
    set_config(run_folder, "smollm2-135m", "somebody/model")
    header, text = header_and_text(run_folder)
    assert header["base_model"] == "somebody/model" and header["license"] == "other"
    assert "Its licence is not recorded: add it." in text and "dequantised" not in text


def test_a_local_folder_is_no_hub_id(run_folder):
    set_config(run_folder, "smollm2-135m", "/models/mine")
    header, text = header_and_text(run_folder)
    assert "base_model" not in header and "/models" not in text
    assert "Base model: mine. **Its licence is not recorded" in text and "| Model | mine, LoRA of rank 8 |" in text


def test_a_folder_may_look_like_a_hub_id(run_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    set_config(run_folder, "smollm2-135m", "runs/mine")
    assert header_and_text(run_folder)[0]["base_model"] == "runs/mine"
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    assert "base_model" not in header_and_text(run_folder)[0]


def test_conversations_of_ones_own(run_folder, tmp_path):
    own = tmp_path / "mine.jsonl"
    set_config(run_folder, "path: starter", f"path: {own}")
    assert "was not at hand" in header_and_text(run_folder)[1]
    turns = [{"role": "seeker", "text": "Hello."}, {"role": "supporter", "text": "Hello you."}]
    own.write_text(json.dumps({"id": "1", "source": "diary", "turns": turns}))
    header, text = header_and_text(run_folder)
    assert "`mine.jsonl`: 1 conversations (1 from diary). **The run does not record their licence" in text
    assert header["license"] == "other"  # the base model's does not hold for what was learnt from such data
    assert header["license_name"] == "see-the-base-model-and-the-data"
    assert str(tmp_path) not in model_card(read_run(run_folder))


def test_an_unfinished_run(make_run):
    header, text = header_and_text(make_run(without=("closing.json",)))
    assert "model-index" not in header
    assert "There is no comparison of before and after yet: closing.json is not there" in text


def test_names_that_mean_something_to_yaml(run_folder):
    set_config(run_folder, 'name: "small"', "name: 'a: [b] ${c} | d'")
    header, _ = header_and_text(run_folder)
    assert header["model-index"][0]["name"] == "a: [b] $ {c} | d"
