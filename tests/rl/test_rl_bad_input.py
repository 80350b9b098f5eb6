"""Each mistake of a user is one clear error and exit code 2, and Ray is never started for it.

The command line runs in this process: what is imported for one mistake serves the next. tests/test_cli.py starts it as
a program.
"""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from unittest import mock

import pytest

import rapport


def run(*arguments: str) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of the command line. Ray is there, but starting it fails the test."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch("ray.init", side_effect=AssertionError("Ray was started")),
        mock.patch("sys.argv", ["rapport", *arguments]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as exit_,
    ):
        rapport.main()
    return int(exit_.value.code or 0), out.getvalue(), err.getvalue()


def refused(*arguments: str) -> str:
    """The error line of a command that must be refused."""
    code, out, err = run(*arguments)
    assert code == 2, out + err
    return " ".join(err.split())


def conversations(path: Path, *records: object) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return f"data.path={path}"


def talk(name: str, *texts: str) -> dict[str, object]:
    roles = ("seeker", "supporter")
    return {"id": name, "turns": [{"role": roles[i % 2], "text": text} for i, text in enumerate(texts)]}


@pytest.fixture
def quick(tmp_path, tiny_model) -> list[str]:
    return ["train", "tiny", f"model.path={tiny_model}", f"output_dir={tmp_path}", "--dry-run"]


def test_an_unknown_key(quick):
    assert "unknown key learner.enigne (did you mean engine?)" in refused(*quick, "learner.enigne=zero2")


def test_an_impossible_value(quick):
    assert "rollout.n=1: a group needs at least 2" in refused(*quick, "rollout.n=1")


def test_a_missing_model(quick):
    assert "no-such-model" in refused(*quick, "model.path=no-such-model")


def test_a_missing_data_file(quick):
    assert "missing.jsonl" in refused(*quick, "data.path=missing.jsonl")


def test_a_missing_file_for_the_warm_start(quick):
    assert "elsewhere.jsonl: there is no such file" in refused(*quick, "warm_start.data=elsewhere.jsonl")


def test_a_malformed_conversation(quick, tmp_path):
    bad = {"id": "t2", "turns": [{"role": "doctor", "text": "hm"}]}
    error = refused(*quick, conversations(tmp_path / "d.jsonl", talk("t1", "hi", "hello"), bad))
    assert "d.jsonl" in error
    assert "t2" in error
    assert "doctor" in error


def test_a_prompt_over_the_limit(quick, tmp_path):
    long = talk("long", "word " * 400, "I see.")
    error = refused(
        *quick, conversations(tmp_path / "d.jsonl", talk("a", "hi", "yes"), long), "rollout.max_prompt_tokens=64"
    )
    assert "rollout.max_prompt_tokens=64" in error
    assert "data.overlong=skip" in error


def test_a_reward_server_that_is_down(quick):
    error = refused(*quick, "servers.url=http://127.0.0.1:9", "servers.timeout_s=2")
    assert "127.0.0.1:9" in error


def test_an_unknown_loss(quick):
    assert "learner.loss.policy_loss" in refused(*quick, "learner.loss.policy_loss=vanila")


def test_more_prompts_per_step_than_prompts(quick, tmp_path):
    data = conversations(tmp_path / "d.jsonl", *(talk(f"t{i}", "hi", "yes") for i in range(4)))
    assert "prompts_per_step=50" in refused(*quick, data, "prompts_per_step=50")


def test_a_folder_that_holds_another_run(quick, tmp_path):
    from rl.checkpoint import RunFolder
    from rl.config_loading import load_config

    RunFolder(load_config("tiny", [f"output_dir={tmp_path}", "learner.lr=0.5"])).prepare()
    error = refused(*quick)
    assert "learner.lr: 0.5 -> 0.001" in error


def test_a_dry_run_prints_the_configuration_and_the_plan(quick):
    code, out, err = run(*quick, "learner.ranks=2")
    assert code == 0, err
    assert "ranks: 2" in out
    assert "fsdp2, 2 rank(s)" in out
