"""A run's folder: never half a checkpoint, never a step listed twice, never another run's settings."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from rl.checkpoint import RunFolder, TrainState
from rl.config import ConfigError, RunConfig, ServersConfig
from rl.run_lock import only_run_in
from rl.threads import share_of_cores
from rl.tracking import RunLog, read_lines, validate_trackers

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture
def config(tmp_path) -> RunConfig:
    return RunConfig(name="run", output_dir=str(tmp_path), keep_checkpoints=2)


def write(folder: Path) -> None:
    (folder / "hf").mkdir()


def test_a_checkpoint_comes_back_and_old_ones_go(config):
    folder = RunFolder(config)
    folder.prepare()
    for step in (5, 10, 15):
        folder.save(TrainState(step, step, {"epoch": 0}), write)
    assert [path.name for path in sorted(folder.checkpoints.iterdir())] == ["step-000010", "step-000015"]
    latest = folder.latest()
    assert latest is not None
    assert RunFolder.load_state(latest) == TrainState(15, 15, {"epoch": 0})


def test_an_interrupted_checkpoint_is_not_seen_and_the_last_good_one_stays(config):
    folder = RunFolder(config)
    folder.prepare()
    folder.save(TrainState(5, 5, {}), write)

    def disk_full(_: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        folder.save(TrainState(10, 10, {}), disk_full)
    assert [path.name for path in folder.checkpoints.glob("step-*")] == ["step-000005"]
    RunFolder(config).prepare()
    assert [path.name for path in folder.checkpoints.iterdir()] == ["step-000005"]


def test_another_configuration_does_not_go_on_in_the_same_folder(config):
    RunFolder(config).prepare()
    changed = replace(config, learner=replace(config.learner, lr=0.5))
    with pytest.raises(ConfigError, match=r"learner\.lr: 1e-06 -> 0\.5"):
        RunFolder(changed).prepare()


def test_a_run_of_an_older_version_without_a_newer_key_goes_on(config, tmp_path):
    folder = RunFolder(config)
    folder.prepare()
    saved = folder.path / "config.yaml"
    saved.write_text("".join(line for line in saved.read_text().splitlines(True) if "gpu_share" not in line))
    RunFolder(config).check()
    with pytest.raises(ConfigError, match=r"gpu_share: 1\.0 -> 0\.5"):
        RunFolder(replace(config, rollout=replace(config.rollout, gpu_share=0.5))).check()


def test_more_steps_and_other_time_outs_may_go_on(config):
    RunFolder(config).prepare()
    RunFolder(replace(config, steps=99, learner=replace(config.learner, timeout_s=5.0))).prepare()


def test_a_run_is_not_overwritten_when_resuming_is_off(config):
    RunFolder(config).prepare()
    with pytest.raises(ConfigError, match="already holds a run"):
        RunFolder(replace(config, resume=False)).prepare()


def test_rewinding_drops_later_steps_and_a_line_cut_by_a_kill(tmp_path):
    log = RunLog(tmp_path, ())
    for step in (1, 2, 3):
        log.metrics(step, {"loss": float(step)})
        log.samples(step, [{"text": "a"}, {"text": "b"}])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    log.rewind(2)
    assert [line["step"] for line in read_lines(tmp_path / "metrics.jsonl")] == [1, 2]
    assert [line["step"] for line in read_lines(tmp_path / "samples.jsonl")] == [1, 1, 2, 2]
    log.close()


def test_phases_are_timed_and_logged(tmp_path):
    log = RunLog(tmp_path, ())
    timings: dict[str, float] = {}
    with log.phase("learn", timings):
        pass
    log.close()
    assert timings["learn"] >= 0
    assert "phase learn" in (tmp_path / "train.log").read_text()


def test_tensorboard_gets_the_numbers(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = RunLog(tmp_path, ("tensorboard",))
    log.metrics(7, {"reward/mean": 0.25})
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    (event,) = events.Scalars("reward/mean")
    assert (event.step, event.value) == (7, 0.25)


def test_tensorboard_forgets_the_steps_that_a_resumed_run_does_again(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    killed = RunLog(tmp_path, ("tensorboard",))
    for step in (1, 2, 3):
        killed.metrics(step, {"reward/mean": 0.25})
    killed.close()
    resumed = RunLog(tmp_path, ("tensorboard",))
    resumed.rewind(1)
    resumed.metrics(2, {"reward/mean": 0.5})
    resumed.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("reward/mean")] == [(1, 0.25), (2, 0.5)]


def test_square_brackets_are_said_as_they_are(tmp_path, capsys):
    log = RunLog(tmp_path, ())
    log.say("data models/[v2]/x")
    log.close()
    assert "models/[v2]/x" in capsys.readouterr().out


def test_the_tagger_may_not_change_under_a_run_but_the_address_of_the_servers_may(config):
    RunFolder(config).prepare()
    RunFolder(replace(config, servers=ServersConfig(url="http://elsewhere", retries=9))).check()
    with pytest.raises(ConfigError, match=r"servers\.tagger"):
        RunFolder(replace(config, servers=ServersConfig(tagger="other"))).check()


def test_an_unknown_tracker_is_refused():
    with pytest.raises(ConfigError, match=r"mlflow.*tensorboard, wandb"):
        validate_trackers(["mlflow"])


def test_metrics_are_plain_json_lines(tmp_path):
    log = RunLog(tmp_path, ())
    log.metrics(1, {"loss": 0.1})
    log.close()
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 1, "loss": 0.1}


def test_long_phases_give_a_log_file_a_line_now_and_then(tmp_path, monkeypatch):
    clock = iter([0.0, 5.0, 16.0, 16.0, 20.0, 40.0, 40.0])
    monkeypatch.setattr("rl.tracking.time.monotonic", lambda: next(clock))
    log = RunLog(tmp_path, ())
    timings: dict[str, float] = {}
    with log.phase("generate", timings, step=3) as report:
        for done in (1, 2, 3, 4):
            report(done, 4)
    log.close()
    said = [line.split(" ", 1)[1] for line in (tmp_path / "train.log").read_text().splitlines()]
    assert said == ["step 3 phase generate", "step 3 generate 2/4", "step 3 generate 4/4"]
    assert timings["generate"] >= 0


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    code = f"""
from pathlib import Path
from rl.run_lock import only_run_in
from rl.threads import share_of_cores
with only_run_in(Path({str(tmp_path)!r})):
    print("held", flush=True)
    input()
"""
    holder = subprocess.Popen([sys.executable, "-c", code], cwd=REPO, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        with pytest.raises(ConfigError, match=f"process {holder.pid} on"), only_run_in(tmp_path):
            pass
    finally:
        holder.kill()
        holder.wait(30)
    with only_run_in(tmp_path):
        pass


def test_a_file_system_without_locks_is_told_and_does_not_stop_a_run(tmp_path, monkeypatch, caplog):
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("rl.run_lock.fcntl.flock", refuse)
    with only_run_in(tmp_path):
        assert "no locks on this file system" in caplog.text


def test_threads_are_a_share_of_the_cores_or_what_the_variable_says(monkeypatch):
    monkeypatch.delenv("RAPPORT_THREADS", raising=False)
    cores = len(os.sched_getaffinity(0))
    assert [share_of_cores(n) for n in (1, cores, 2 * cores)] == [cores, 1, 1]
    monkeypatch.setenv("RAPPORT_THREADS", "3")
    assert share_of_cores(2) == 3
