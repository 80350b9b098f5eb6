"""The command line as a user meets it: the real program in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = (
    "train",
    "export",
    "sft",
    "chat",
    "tag",
    "tagger",
    "score",
    "scorer",
    "serve",
    "report",
    "evaluate",
    "judge",
)


def rapport(*arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"NO_COLOR": "1", "COLUMNS": "120", "RAPPORT_TRACEBACK": ""}
    command = [sys.executable, str(ROOT / "rapport.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, cwd=ROOT, env=environment)


def assert_one_clear_error(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("rror") >= 1
    for word in words:
        assert word in done.stderr


def test_help_lists_every_command() -> None:
    done = rapport("--help")
    assert done.returncode == 0, done.stderr
    for command in COMMANDS:
        assert f" {command} " in done.stdout


def test_help_loads_no_room_and_no_heavy_library() -> None:
    probe = (
        "import sys, rapport\n"
        "sys.argv = ['rapport', '--help']\n"
        "try: rapport.main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'ray', 'vllm', 'transformers', 'rl', 'dialogue', 'reward_servers'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, timeout=240, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_help_is_quick() -> None:
    """Under a second of processor time, however busy the machine is."""
    rapport("--help")  # the first start compiles and reads files that later ones find in memory
    before = os.times()
    rapport("--help")
    after = os.times()
    used = after.children_user - before.children_user + after.children_system - before.children_system
    assert used < 1.0


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help(command: str) -> None:
    done = rapport(command, "--help")
    assert done.returncode == 0, done.stderr
    assert command in done.stdout
    assert "--help" in done.stdout


def test_version() -> None:
    done = rapport("--version")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("rapport 0.")


def test_unknown_command_names_it_and_the_one_meant() -> None:
    assert_one_clear_error(rapport("trian"), "trian", "'train'")


def test_unknown_preset_lists_the_known_ones() -> None:
    assert_one_clear_error(rapport("train", "quikstart"), "quikstart", "quickstart")


def test_unknown_key_is_named() -> None:
    assert_one_clear_error(rapport("train", "tiny", "learner.lrr=1e-6", "--dry-run"), "learner.lrr")


def test_impossible_value_is_named() -> None:
    assert_one_clear_error(rapport("train", "tiny", "rollout.n=1", "--dry-run"), "rollout.n")


@pytest.mark.parametrize("command", ["tag", "score"])
def test_missing_input_file_is_named(command: str, tmp_path: Path) -> None:
    missing = tmp_path / "missing.jsonl"
    assert_one_clear_error(rapport(command, str(missing), "--out", str(tmp_path / "out.jsonl")), "missing.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize("command", ["tag", "score"])
def test_malformed_line_is_named(command: str, tmp_path: Path) -> None:
    source = tmp_path / "broken.jsonl"
    source.write_text('{"response": "I hear you.", "history": [{"role": "user", "content": "Hi"}]}\n{"response": \n')
    done = rapport(command, str(source), "--out", str(tmp_path / "out.jsonl"))
    assert_one_clear_error(done, "broken.jsonl", "2")


def test_export_of_a_folder_without_checkpoints(tmp_path: Path) -> None:
    assert_one_clear_error(rapport("export", str(tmp_path), "--out", str(tmp_path / "hf")), "checkpoint")


def test_an_unknown_model_is_refused_before_anything_starts() -> None:
    done = rapport("train", "tiny", "model.path=no-such-model", "--dry-run")
    assert_one_clear_error(done, "no-such-model", "smollm2-135m")
