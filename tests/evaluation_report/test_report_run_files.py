"""A run's folder is read whole, in part, or refused with file, line and what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dialogue.tactics import Tactic
from evaluation.report.json_files import ReportError
from evaluation.report.run_files import read_run


def test_a_whole_run(run_folder):
    run = read_run(run_folder)
    assert (run.name, len(run.samples), run.steps_done, run.missing) == ("small", 12, 2, ())
    assert [evaluation.step for evaluation in run.evaluations] == [0, 2]
    assert run.samples[1].tactics == ((Tactic.VALIDATION, Tactic.PARAPHRASING), (Tactic.QUESTIONING,))
    assert run.samples[3].empty and run.samples[3].dimensions is None
    assert run.evaluations[0].replies[0].previous == (Tactic.ADVICE, Tactic.QUESTIONING)
    assert run.samples[0].previous == (Tactic.VALIDATION,)
    assert run.series("eval/empathy") == ([0, 2], [2.5, 3.25])
    assert run.setting("model.lora.rank") == 8 and run.setting("model.lora.alpha", 3) == 3


def test_an_unfinished_run_says_what_is_missing(make_run):
    folder = make_run(without=("closing.json", "evaluation-000002.json"))
    run = read_run(folder)
    assert run.closing is None
    assert "has not finished" in run.missing[0] and "goes on from its last checkpoint" in run.missing[0]


def test_a_last_line_that_was_cut_off_is_left_out(run_folder):
    with (run_folder / "samples.jsonl").open("a") as file:
        file.write('{"step": 3, "prompt')
    run = read_run(run_folder)
    assert len(run.samples) == 12
    assert run.missing == (
        "The last line of samples.jsonl is incomplete (the run was killed or is writing): it is left out.",
    )


def refused(folder: Path) -> str:
    with pytest.raises(ReportError) as error:
        read_run(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_is_no_run(tmp_path, make_run):
    assert "there is no such folder" in refused(tmp_path / "nowhere")
    assert "there is no config.yaml in it; give the folder of a run" in refused(tmp_path)
    folder = make_run(
        "young",
        without=(
            "metrics.jsonl", "samples.jsonl", "closing.json", "evaluation-000000.json", "evaluation-000002.json"
        ),
    )  # fmt: skip
    assert "nothing was measured yet" in refused(folder)


def test_a_broken_configuration(run_folder):
    (run_folder / "config.yaml").write_text("name: [1\n")
    assert "config.yaml: cannot be read" in refused(run_folder)


def test_a_run_that_is_no_grpo_run(run_folder):
    (run_folder / "config.yaml").write_text("name: dpo\nsteps: 12\nloss: {beta: 0.1}\n")
    assert "config.yaml: not the configuration of a run of `rapport train`" in refused(run_folder)


BROKEN_LINES = {
    "not JSON": ('{"step": 1,}', "line 2: not valid JSON"),
    "not an object": ("[1]", "line 2: expected an object, found [1]"),
    "not UTF-8": (b"\xff\xfe", "line 2: not UTF-8 (byte 0 is 0xff)"),
    "no step": ("{}", 'line 2: "step" must be a whole number; it is missing'),
    "a text for a number": (
        '{"step": 1, "reward/mean": "x"}',
        'line 2: "reward/mean" must be a number; found "x"',
    ),
}


@pytest.mark.parametrize(("line", "message"), BROKEN_LINES.values(), ids=BROKEN_LINES)
def test_a_broken_line_of_metrics(run_folder, line, message):
    path = run_folder / "metrics.jsonl"
    data = line if isinstance(line, bytes) else line.encode()
    path.write_bytes(b'{"step": 0}\n' + data + b'\n{"step": 2}\n')
    assert f"{path}, {message}" in refused(run_folder)


BROKEN_SAMPLES = {
    "unknown tactic": ({"sentence_tactics": [["kindness"]]}, '"sentence_tactics" must be lists of these names'),
    "fewer tactics than sentences": ({"sentence_tactics": []}, "1 lists, one for each sentence"),
    "no text": ({"text": None}, '"text" must be a text; found null'),
    "a missing dimension": ({"empathy": {"self_oriented": 1.0}}, '"empathy" must be null or an object of'),
    "a yes for a number": ({"reward": True}, '"reward" must be a number; found true'),
    "a list for components": ({"raw": [1]}, '"raw" must be an object of numbers'),
    "components without quality": ({"raw": {"d_kl": 1.0}}, '"raw" must be null or an object that holds "quality"'),
}


@pytest.mark.parametrize(("change", "message"), BROKEN_SAMPLES.values(), ids=BROKEN_SAMPLES)
def test_a_broken_sample(run_folder, change, message):
    path = run_folder / "samples.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(json.dumps(json.loads(lines[0]) | change) + "\n" + "".join(lines[1:]))
    told = refused(run_folder)
    assert f"{path}, line 1: " in told and message in told


BROKEN_FILES = {
    "cut off": ("closing.json", '{\n"before_step": 0,\n', "closing.json, line 3: not valid JSON"),
    "three bounds": (
        "closing.json",
        '{"before_step": 0, "after_step": 1, "prompts": 1, "probes": [],'
        ' "changes": [{"name": "x", "before": 1, "after": 2, "interval": [1, 2, 3]}]}',
        'changes 1: "interval" must be null or two numbers',
    ),
    "nine counts": (
        "evaluation-000000.json",
        '{"step": 0, "replies": [{"previous_counts": [0, 0, 0, 0, 0, 0, 0, 0, 0]}]}',
        'evaluation-000000.json, replies 1: "previous_counts" must be null or 10 counts',
    ),
    "texts for dimensions": (
        "evaluation-000000.json",
        '{"step": 0, "replies": [{"dimensions": ["a", "b", "c", "d", "e", "f"]}]}',
        'evaluation-000000.json, replies 1: "dimensions" must be null or 6 numbers',
    ),
}


@pytest.mark.parametrize(("name", "text", "message"), BROKEN_FILES.values(), ids=BROKEN_FILES)
def test_a_broken_file(run_folder, name, text, message):
    (run_folder / name).write_text(text)
    assert message in refused(run_folder)
