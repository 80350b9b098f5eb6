"""Each mistake of a user is one clear error and exit code 2, and Ray is never started for it.

The command line runs in this process: what is imported for one mistake serves the next. tests/test_cli.py starts it as
a program.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import socket
from pathlib import Path
from unittest import mock

import pytest

import rapport
from dialogue.loaders import load_conversations
from dialogue.split import split_conversations
from rl.config_loading import PRESETS


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


def started(quick: list[str]) -> list[str]:
    return [argument for argument in quick if argument != "--dry-run"]


def test_an_unknown_key(quick):
    assert "unknown key learner.enigne (did you mean engine?)" in refused(*quick, "learner.enigne=zero2")


def test_an_impossible_value(quick):
    assert "rollout.n=1: a group needs at least 2" in refused(*quick, "rollout.n=1")


def test_a_number_of_threads_that_is_none(quick, monkeypatch):
    monkeypatch.setenv("RAPPORT_THREADS", "many")
    assert "RAPPORT_THREADS=many: expected a number of threads" in refused(*quick)


def test_a_missing_model(quick):
    assert "no-such-model" in refused(*quick, "model.path=no-such-model")


def test_a_missing_data_file(quick):
    assert "missing.jsonl" in refused(*quick, "data.path=missing.jsonl")


def test_a_missing_file_for_the_warm_start(quick):
    assert "elsewhere.jsonl: there is no such file" in refused(*quick, "warm_start.data=elsewhere.jsonl")


@pytest.mark.parametrize("preset", [name for name in PRESETS.names() if name.startswith("mint")])
def test_a_paper_preset_without_its_data_names_the_key_and_what_it_takes(preset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    error = refused("train", preset, "--dry-run")
    assert "data.path=conversations_322.json: there is no such file; data.path takes a JSON array" in error
    assert "for example data.path=" in error


def test_a_folder_or_nothing_instead_of_data(quick, tmp_path):
    assert f"data.path={tmp_path}: it is a folder; data.path takes" in refused(*quick, f"data.path={tmp_path}")
    assert "data.path=: it is empty" in refused(*quick, "data.path=")


def test_a_model_folder_in_which_something_is_missing(quick, tmp_path, tiny_model):
    def copy_without(name: str, *patterns: str) -> str:
        shutil.copytree(tiny_model, tmp_path / name, ignore=shutil.ignore_patterns(*patterns))
        return f"model.path={tmp_path / name}"

    assert "has no config.json" in refused(*quick, copy_without("a", "config.json"))
    assert "holds no tokenizer" in refused(*quick, copy_without("b", "tokenizer.json"))
    assert "holds no weights" in refused(*quick, copy_without("c", "*.safetensors"))
    chatless = copy_without("d", "chat_template*")
    settings = tmp_path / "d" / "tokenizer_config.json"
    kept = {key: value for key, value in json.loads(settings.read_text()).items() if key != "chat_template"}
    settings.write_text(json.dumps(kept))
    assert "has no chat template" in refused(*quick, chatless)


def test_a_model_name_with_a_slip(quick):
    assert "did you mean smollm2-135m?" in refused(*quick, "model.path=smollm2-135")


def test_more_tokens_than_the_model_reads(quick):
    error = refused(*quick, "rollout.max_prompt_tokens=5000")
    assert "reads 4096 tokens at most" in error


def test_no_room_for_one_prompt_in_the_cache(quick):
    error = refused(*quick, "rollout.kv_cache_gib=0.001")  # 2 x 4 layers x 2 heads x 64 x 4 bytes x 1048 tokens
    assert "keys and values of one prompt and reply of 1048 tokens take 0.004 GiB; raise it" in error


def test_adapters_for_layers_that_the_model_does_not_have(quick):
    error = refused(*quick, "model.lora.rank=4", "model.lora.target_modules=[q_proj,query]")
    assert "has no query; it has down_proj, gate_proj" in error


def test_a_model_over_several_gpus_where_there_is_none(quick):
    with mock.patch("torch.cuda.device_count", return_value=0):
        assert "tensor_parallel_size=2" in refused(*quick, "rollout.tensor_parallel_size=2")


def test_more_gpus_than_there_are(quick):
    with mock.patch("torch.cuda.device_count", return_value=2):
        assert "but the cluster has 2" in refused(*quick, "learner.ranks=4")


def test_an_output_folder_that_is_a_file(quick, tmp_path):
    (tmp_path / "taken").write_text("")
    assert "taken is a file" in refused(*quick, f"output_dir={tmp_path / 'taken'}")


def test_a_saved_configuration_that_cannot_be_read(quick, tmp_path):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "config.yaml").write_text("- not\n- ours\n")
    assert "config.yaml: not a mapping" in refused(*quick)


def test_lessons_that_are_all_held_out(quick, tmp_path):
    data = conversations(tmp_path / "d.jsonl", *(talk(f"t{i}", f"hi {i}", "yes") for i in range(12)))
    held = split_conversations(load_conversations(tmp_path / "d.jsonl"), 0.2, 0)[1]
    conversations(tmp_path / "held.jsonl", *(talk(c.id, *(turn.text for turn in c.turns)) for c in held))
    error = refused(*quick, data, f"warm_start.data={tmp_path / 'held.jsonl'}")
    assert "every conversation of it is held out" in error


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


def test_a_folder_in_which_another_process_trains(quick, tmp_path):
    from rl.run_lock import only_run_in

    with only_run_in(tmp_path / "tiny"):
        assert f"{tmp_path / 'tiny'} is being trained by process {os.getpid()} on " in refused(*started(quick))


def test_a_ray_address_where_nothing_answers(quick, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    code, out, err = run(*started(quick))
    assert code == 1, out + err
    assert f"RAY_ADDRESS=127.0.0.1:{port}: nothing answers" in " ".join(err.split())


def test_a_dry_run_prints_the_configuration_and_the_plan(quick):
    code, out, err = run(*quick, "learner.ranks=2")
    assert code == 0, err
    assert "ranks: 2" in out
    assert "fsdp2, 2 rank(s)" in out
