"""The whole system on the tiny model: a run leaves what it should, survives SIGKILL exactly, and loses no prompt."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from page_browser import open_browser
from real_report import check_report

from dialogue.loaders import STARTER
from rl.tracking import read_lines

REPO = Path(__file__).resolve().parents[2]
LIMIT_S = 600
SMALL = (
    "prompts_per_step=3",
    "rollout.n=3",
    "rollout.max_response_tokens=12",
    "evaluation.max_prompts=3",
    "evaluation.samples_per_prompt=2",
)


def some_talks(folder: Path) -> Path:
    """Twelve of the starter conversations, two exchanges of each: less to tag and to probe than all of them."""
    path = folder / "talks.jsonl"
    talks = [json.loads(line) for line in STARTER.read_text(encoding="utf-8").splitlines()[:12]]
    path.write_text("".join(json.dumps({**talk, "turns": talk["turns"][:4]}) + "\n" for talk in talks))
    return path


def command(folder: Path, tiny_model: Path, *overrides: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "rapport",
        "train",
        "tiny",
        f"output_dir={folder}",
        f"model.path={tiny_model}",
        f"data.path={some_talks(folder)}",
        *SMALL,
        *overrides,
    ]


def train(folder: Path, tiny_model: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command(folder, tiny_model, *overrides), cwd=REPO, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return done


def train_and_kill_at(folder: Path, tiny_model: Path, moment: str, *overrides: str) -> None:
    """Start a run and SIGKILL its driver when train.log says that `moment` has begun."""
    log = folder / "tiny" / "train.log"
    seen_before = log.read_text().count(moment) if log.is_file() else 0
    run = subprocess.Popen(
        command(folder, tiny_model, *overrides), cwd=REPO, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    children: list[psutil.Process] = []
    try:
        deadline = time.monotonic() + LIMIT_S
        while not (log.is_file() and log.read_text().count(moment) > seen_before):
            assert run.poll() is None, f"the run ended before {moment!r}:\n{log.read_text() if log.is_file() else ''}"
            assert time.monotonic() < deadline, f"{moment!r} did not come in {LIMIT_S} s"
            time.sleep(0.01)
        children = psutil.Process(run.pid).children(recursive=True)
    finally:
        os.kill(run.pid, signal.SIGKILL)
        run.wait()
    _, alive = psutil.wait_procs(children, timeout=10)
    for orphan in alive:
        orphan.kill()


Loss = tuple[int, float, float]
Sampled = Counter[tuple[int, str, str]]


def losses(folder: Path) -> list[Loss]:
    return [
        (line["step"], line["learner/loss"], line["learner/grad_norm"])
        for line in read_lines(folder / "tiny" / "metrics.jsonl")
        if "learner/loss" in line
    ]


def sampled(folder: Path) -> Sampled:
    return Counter((s["step"], s["prompt_id"], s["text"]) for s in read_lines(folder / "tiny" / "samples.jsonl"))


@dataclass(frozen=True)
class KilledRun:
    """A run of four steps that was killed in the fourth, when the last checkpoint was that of the second."""

    folder: Path
    losses_before: list[Loss]  # of what it had done when it was killed: steps 1 to 3
    sampled_before: Sampled


@pytest.fixture(scope="module")
def killed(tmp_path_factory, tiny_model) -> KilledRun:
    folder = tmp_path_factory.mktemp("killed")
    settings = ("steps=4", "save_every=2")
    train_and_kill_at(folder, tiny_model, "step 4 phase generate", *settings)
    run = KilledRun(folder, losses(folder), sampled(folder))
    train(folder, tiny_model, *settings)
    return run


@pytest.fixture(scope="module")
def finished(killed) -> Path:
    """That run when it was started again and went to its end."""
    return killed.folder


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, tiny_model) -> Path:
    """A run of six steps with a checkpoint after each."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    train(folder, tiny_model, "steps=6", "save_every=1")
    return folder


@pytest.mark.timeout(LIMIT_S * 2)
def test_a_step_done_again_after_a_kill_is_the_same_bit_for_bit(killed):
    assert [step for step, _, _ in killed.losses_before] == [1, 2, 3]
    assert losses(killed.folder)[:3] == killed.losses_before  # of these, the third was computed twice
    assert [step for step, _, _ in losses(killed.folder)] == [1, 2, 3, 4]
    assert killed.sampled_before <= sampled(killed.folder)


@pytest.mark.timeout(LIMIT_S)
def test_a_run_leaves_everything_it_should(finished):
    run = finished / "tiny"
    steps = [line for line in read_lines(run / "metrics.jsonl") if "reward/mean" in line]
    assert [line["step"] for line in steps] == [1, 2, 3, 4]
    assert {"time/generate", "time/score", "time/learn", "time/sync", "reward/d_kl", "learner/kl"} <= steps[0].keys()
    samples = read_lines(run / "samples.jsonl")
    assert len(samples) == 4 * 3 * 3
    assert all(len(s["sentences"]) == len(s["sentence_tactics"]) for s in samples)
    assert {sample["policy_version"] for sample in samples} == {0, 1, 2, 3}
    assert all((s["previous_counts"] is None) == s["prompt_id"].endswith("/1") for s in samples)
    closing = json.loads((run / "closing.json").read_text())
    assert (closing["before_step"], closing["after_step"]) == (0, 4)
    assert {"stickiness", "distinct_tactics", "empathy", "d_kl"} <= {row["name"] for row in closing["changes"]}
    assert "honest" in {probe["name"] for probe in closing["probes"]}
    assert any((run / "tensorboard").iterdir())
    assert (run / "config.yaml").is_file()
    assert samples[0]["prompt_id"] in (run / "report.html").read_text(encoding="utf-8")


@pytest.mark.browser
@pytest.mark.timeout(LIMIT_S)
def test_its_report_in_a_browser_shows_what_the_run_wrote(finished, tmp_path):
    run = finished / "tiny"
    with open_browser(tmp_path) as browser:
        ends = (run / "evaluation-000000.json", run / "evaluation-000004.json")
        check_report(browser, run / "report.html", read_lines(run / "samples.jsonl"), ends)


@pytest.mark.timeout(LIMIT_S)
def test_the_workers_sample_from_the_learners_policy(finished):
    steps = [line for line in read_lines(finished / "tiny" / "metrics.jsonl") if "learner/loss" in line]
    assert max(line["learner/logprob_diff_max"] for line in steps) < 1e-3


@pytest.mark.timeout(LIMIT_S)
def test_the_checkpoint_is_a_plain_hugging_face_folder(finished):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    weights = finished / "tiny" / "checkpoints" / "step-000004" / "hf"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(weights), AutoTokenizer.from_pretrained(weights)
    ids = tokenizer("hello", return_tensors="pt")
    assert model.generate(**ids, max_new_tokens=3, do_sample=False).shape[0] == 1


@pytest.mark.slow
@pytest.mark.timeout(LIMIT_S * 6)
def test_a_run_killed_in_every_phase_of_step_3_equals_an_uninterrupted_one(uninterrupted, tmp_path, tiny_model):
    for phase in ("generate", "score", "learn", "sync", "save"):
        train_and_kill_at(tmp_path, tiny_model, f"step 3 phase {phase}", "steps=6", "save_every=1")
    train(tmp_path, tiny_model, "steps=6", "save_every=1")
    assert losses(tmp_path) == losses(uninterrupted)  # bit for bit
    assert sampled(tmp_path) == sampled(uninterrupted)


@pytest.mark.slow
@pytest.mark.timeout(LIMIT_S)
def test_a_finished_run_started_again_trains_nothing_and_shows_its_table(finished, tiny_model):
    before = (finished / "tiny" / "metrics.jsonl").read_text()
    again = train(finished, tiny_model, "steps=4", "save_every=2")
    assert (finished / "tiny" / "metrics.jsonl").read_text() == before
    assert "held-out turns" in again.stdout


def kill_when(log: Path, moment: str, driver: subprocess.Popen[bytes], process_name: str) -> None:
    """SIGKILL one child of the driver whose Ray name contains `process_name`, when train.log says `moment`."""
    deadline = time.monotonic() + LIMIT_S
    while not (log.is_file() and moment in log.read_text()):
        assert driver.poll() is None, f"the run ended before {moment!r}"
        assert time.monotonic() < deadline, f"{moment!r} did not come in {LIMIT_S} s"
        time.sleep(0.005)
    victims = [
        child
        for child in psutil.Process(driver.pid).children(recursive=True)
        if child.is_running() and any(process_name in word for word in child.cmdline()[:1])
    ]
    assert len(victims) == 2, f"expected two processes of {process_name}, found {victims}"
    victims[0].kill()


@pytest.mark.slow
@pytest.mark.timeout(LIMIT_S)
def test_a_killed_rollout_worker_and_a_killed_reward_replica_lose_no_prompt(tmp_path, tiny_model):
    overrides = ("steps=3", "rollout.workers=2", "servers.replicas=2", "rollout.max_response_tokens=150")
    with (tmp_path / "output").open("wb") as output:
        run = subprocess.Popen(command(tmp_path, tiny_model, *overrides), cwd=REPO, stdout=output, stderr=output)
    try:
        log = tmp_path / "tiny" / "train.log"
        kill_when(log, "step 2 phase generate", run, "RolloutWorker")
        kill_when(log, "step 2 phase score", run, "empathy-scorer")
        code = run.wait(timeout=LIMIT_S)
    finally:
        run.kill()
    assert code == 0, (tmp_path / "output").read_text()[-6000:]
    samples = read_lines(tmp_path / "tiny" / "samples.jsonl")
    steps = [line for line in read_lines(log.parent / "metrics.jsonl") if "reward/mean" in line]
    assert [line["step"] for line in steps] == [1, 2, 3]
    updates = 0
    for line in steps:
        records = [s for s in samples if s["step"] == line["step"]]
        assert len({(r["prompt_id"], r["rollout"]) for r in records}) == len(records) == 9
        assert len({r["prompt_id"] for r in records}) == 3
        assert {r["policy_version"] for r in records} == {updates}
        updates += line["groups/zero_variance"] < line["groups/asked"]  # else there is nothing to learn from
    assert len({s["prompt_id"] for s in samples}) == 9  # within one pass no prompt comes twice
    assert all(line["counts/failed_scores"] == 0 for line in steps)


@pytest.mark.slow
@pytest.mark.timeout(LIMIT_S * 2)
def test_a_step_on_the_real_conversations(real_data, tmp_path, tiny_model):
    data = real_data / "mint" / "conversations_322.json"
    train(tmp_path, tiny_model, "steps=1", f"data.path={data}", "rollout.max_prompt_tokens=2048", "data.overlong=skip")
    (step,) = [line for line in read_lines(tmp_path / "tiny" / "metrics.jsonl") if "reward/mean" in line]
    assert step["groups/asked"] == 3
