"""verl 0.9.1's own trainer and Rapport's loop on the same job, on CPUs: first step, time per step, peak memory.

    python benchmarks/verl_side_by_side.py                  (about 5 minutes on 2 idle cores)
    python benchmarks/verl_side_by_side.py --steps 6 --only rapport

Both sides: the same model, the same prompts (token by token), samples, reply lengths, float32, FSDP2 on one rank, GRPO
with one update a step, no KL term, and the share of the letter e as reward. Each runs in a process of its own under a
hard time limit, and its whole process tree is watched: time is counted from the start of the process, memory is the sum
of the proportional set sizes, so that shared pages count once.

Left out on purpose: reward models (neither side starts its own), evaluation, checkpoints other than Rapport's at the
end. verl runs through the small platform plugin in benchmarks/verl_cpu.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from reward_servers.protocol import ScoreRequest, ScoreResult
    from rl.config import RunConfig
    from rl.types import Prompt

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT), str(HERE)]

STEP_LINE = {"verl": re.compile(r"\bstep:(\d+) - "), "rapport": re.compile(r"\bstep (\d+)/\d+  ")}
POLL_S = 1.0


@dataclass(frozen=True)
class Job:
    """What both sides do. Lengths in tokens; `prompts` is per step."""

    model: str = "tiny-qwen3"
    steps: int = 4
    prompts: int = 8
    samples: int = 4
    max_prompt_tokens: int = 256
    reply_tokens: int = 64
    lr: float = 1e-3


@dataclass
class Measured:
    """Seconds since the start at which each step was reported, and the highest memory seen, in bytes."""

    step_at_s: dict[int, float] = field(default_factory=dict)
    peak_bytes: int = 0
    peak_processes: int = 0

    @property
    def first_step_s(self) -> float:
        return self.step_at_s[1]

    @property
    def seconds_per_step(self) -> float:
        """Mean over the steps after the first, which holds compilation and first-use costs."""
        last = max(self.step_at_s)
        return (self.step_at_s[last] - self.step_at_s[1]) / (last - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=sorted(STEP_LINE))
    parser.add_argument("--limit-s", type=float, default=600.0, help="hard limit for each side")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    parser.add_argument("--rapport-side", type=Path, help=argparse.SUPPRESS)
    for name, default in asdict(Job()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    arguments = vars(parser.parse_args())
    job = Job(**{name: arguments[name] for name in asdict(Job())})
    if job.steps < 2:
        parser.error("--steps must be 2 or more: time per step is taken after the first")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that `watch` still ends what it started
    if arguments["rapport_side"]:
        run_rapport(job, arguments["rapport_side"])
        return
    sides = [arguments["only"]] if arguments["only"] else sorted(STEP_LINE)
    results = {side: run_side(side, job, arguments["limit_s"]) for side in sides}
    print_table(results, job)
    if arguments["out"]:
        figures = {side: asdict(result) for side, result in results.items()}
        arguments["out"].write_text(json.dumps({"job": asdict(job), **figures}, indent=1) + "\n", encoding="utf-8")


def print_table(results: dict[str, Measured], job: Job) -> None:
    print(f"\n{job}\n")
    print(f"{'':10}{'first step':>12}{'per step':>12}{'peak memory':>14}{'processes':>11}")
    for side, result in results.items():
        times = f"{result.first_step_s:>10.1f} s{result.seconds_per_step:>10.2f} s"
        print(f"{side:10}{times}{result.peak_bytes / 2**30:>10.2f} GiB{result.peak_processes:>11}")
    if len(results) == 2:
        ours, theirs = results["rapport"], results["verl"]
        first, step = theirs.first_step_s / ours.first_step_s, theirs.seconds_per_step / ours.seconds_per_step
        print(f"{'verl/ours':10}{first:>10.2f} x{step:>10.2f} x{theirs.peak_bytes / ours.peak_bytes:>10.2f} x")


# The job's prompts, as messages for verl and as token ids for Rapport.


def job_config(job: Job, folder: Path) -> RunConfig:
    from rl.config_loading import load_config

    values = {
        "name": "side-by-side",
        "output_dir": folder,
        "steps": job.steps,
        "prompts_per_step": job.prompts,
        "save_every": job.steps,
        "trackers": "[]",
        "model.path": job.model,
        "data.holdout_fraction": 0,
        "data.overlong": "skip",
        "rollout.n": job.samples,
        "rollout.max_prompt_tokens": job.max_prompt_tokens,
        "rollout.max_response_tokens": job.reply_tokens,
        "learner.lr": job.lr,
        "learner.micro_batch_tokens": 4 * (job.max_prompt_tokens + job.samples * job.reply_tokens),
        "learner.loss.kl_coef": 0,
        "reward.mode": "quality_only",
    }
    return load_config("tiny", [f"{key}={value}" for key, value in values.items()])


def job_prompts(job: Job, config: RunConfig, tokenizer: PreTrainedTokenizerBase) -> tuple[Prompt, ...]:
    """The first prompts of the starter conversations that are short enough, each used once."""
    from dialogue.loaders import load_conversations
    from rl.prompts import build_prompts, supporter_texts

    conversations = load_conversations("starter")
    untagged = dict.fromkeys(supporter_texts(conversations), ())
    wanted = job.prompts * job.steps
    prompts = build_prompts(conversations, untagged, tokenizer, config).prompts[:wanted]
    if len(prompts) < wanted:
        sys.exit(f"error: only {len(prompts)} of {wanted} prompts have at most {job.max_prompt_tokens} tokens")
    return prompts


# Rapport's side: its own loop, workers and learners, with a scorer that counts letters.


def run_rapport(job: Job, folder: Path) -> None:
    from transformers import AutoTokenizer

    from cluster.session import ray_session
    from rl.checkpoint import RunFolder
    from rl.learner import LearnerGroup
    from rl.models import resolve_model
    from rl.rollout import RolloutPool
    from rl.tracking import RunLog
    from rl.trainer import Trainer, Workers

    config = job_config(job, folder)
    model_path = resolve_model(job.model)
    prompts = job_prompts(job, config, AutoTokenizer.from_pretrained(model_path))
    run_folder = RunFolder(config)
    run_folder.prepare()
    with ray_session(parallel_actors=8), ExitStack() as on_exit:
        pool, learner = RolloutPool(config, model_path), LearnerGroup(config, model_path)
        on_exit.callback(pool.close)
        on_exit.callback(learner.close)
        with ThreadPoolExecutor(2) as starting:
            for started in [starting.submit(pool.start), starting.submit(learner.start)]:
                started.result()
        log = RunLog(run_folder.path, config.trackers)
        on_exit.callback(log.close)
        Trainer(config, Workers(pool, learner, LetterScorer()), prompts, (), run_folder, log).run()


class LetterScorer:
    """`rl.scoring.Scorer` with verl's trivial reward as quality and nothing else."""

    def score(self, requests: Sequence[ScoreRequest]) -> list[ScoreResult]:
        from verl_cpu.reward import share_of_e

        from reward_servers.protocol import EmpathyScore, Score

        middling = EmpathyScore((3.0,) * 6)
        return [Score(r.id, (r.response,), ((),), ((0.0,) * 10,), middling, share_of_e(r.response)) for r in requests]


# verl's side: its command line, fed from two parquet files.


def write_verl_data(job: Job, folder: Path) -> Path:
    import pandas
    from transformers import AutoTokenizer

    from dialogue.loaders import load_conversations
    from dialogue.prompts import chat_messages
    from rl.config import PromptMode
    from rl.models import resolve_model

    tokenizer = AutoTokenizer.from_pretrained(resolve_model(job.model))
    conversations = {conversation.id: conversation for conversation in load_conversations("starter")}
    rows = []
    for prompt in job_prompts(job, job_config(job, folder), tokenizer):
        conversation_id, turn = prompt.id.rsplit("/", 1)
        messages = chat_messages(conversations[conversation_id], int(turn), PromptMode.simple)
        rendered = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        if tuple(rendered) != prompt.token_ids:
            sys.exit(f"error: prompt {prompt.id} has other token ids on verl's side")
        reward = {"style": "rule", "ground_truth": ""}
        rows.append({"data_source": "letters", "prompt": messages, "ability": "", "reward_model": reward})
    path = folder / "prompts.parquet"
    pandas.DataFrame(rows).to_parquet(path)
    return path


def verl_command(job: Job, data: Path, model: Path, folder: Path) -> list[str]:
    rows = job.prompts * job.samples
    longest = job.max_prompt_tokens + job.reply_tokens
    policy, rollout, training = "actor_rollout_ref.actor", "actor_rollout_ref.rollout", "trainer"
    overrides = {
        "algorithm.adv_estimator": "grpo",
        "data.train_files": data,
        "data.val_files": data,
        "data.shuffle": False,
        "data.train_batch_size": job.prompts,
        "data.max_prompt_length": job.max_prompt_tokens,
        "data.max_response_length": job.reply_tokens,
        "data.dataloader_num_workers": 0,
        "actor_rollout_ref.model.path": model,
        "actor_rollout_ref.model.use_remove_padding": False,
        "+actor_rollout_ref.model.override_config.attn_implementation": "sdpa",
        "actor_rollout_ref.model.enable_gradient_checkpointing": False,
        f"{policy}.strategy": "fsdp2",
        f"{policy}.optim.lr": job.lr,
        f"{policy}.ppo_mini_batch_size": job.prompts,
        f"{policy}.ppo_micro_batch_size_per_gpu": 16,
        f"{policy}.use_kl_loss": False,
        f"{policy}.use_torch_compile": False,
        f"{policy}.fsdp_config.use_torch_compile": False,
        f"{policy}.fsdp_config.model_dtype": "fp32",
        f"+{policy}.fsdp_config.mixed_precision.param_dtype": "fp32",
        f"{rollout}.name": "vllm",
        f"{rollout}.n": job.samples,
        f"{rollout}.tensor_model_parallel_size": 1,
        f"{rollout}.dtype": "float32",
        f"{rollout}.enforce_eager": True,
        f"{rollout}.free_cache_engine": False,
        f"+{rollout}.enable_sleep_mode": False,
        f"{rollout}.load_format": "dummy",
        f"{rollout}.max_model_len": longest,
        f"{rollout}.max_num_batched_tokens": max(1024, longest),
        f"{rollout}.max_num_seqs": rows,
        f"{rollout}.log_prob_micro_batch_size_per_gpu": 16,
        f"{rollout}.agent.num_workers": 1,
        f"{rollout}.checkpoint_engine.update_weights_bucket_megabytes": 64,
        f"+{rollout}.engine_kwargs.vllm.worker_extension_cls": "verl_cpu.vllm_worker.CpuWorkerExtension",
        "reward.num_workers": 1,
        "reward.custom_reward_function.path": HERE / "verl_cpu" / "reward.py",
        "transfer_queue.backend.SimpleStorage.num_data_storage_units": 2,  # two a node; 8 only take memory here
        f"{training}.use_v1": True,
        f"{training}.device": "cpu",
        f"{training}.n_gpus_per_node": 1,
        f"{training}.nnodes": 1,
        f"{training}.logger": "[console]",
        f"{training}.total_training_steps": job.steps,
        f"{training}.save_freq": -1,
        f"{training}.test_freq": -1,
        f"{training}.val_before_train": False,
        f"{training}.resume_mode": "disable",
        f"{training}.default_local_dir": folder / "checkpoints",
        "ray_kwargs.ray_init.num_cpus": 32,
        "++ray_kwargs.ray_init.num_gpus": 1,
        "+ray_kwargs.ray_init.include_dashboard": False,
    }
    return [sys.executable, "-m", "verl.trainer.main_ppo", *(f"{key}={value}" for key, value in overrides.items())]


# One side in a process of its own, watched.


def run_side(side: str, job: Job, limit_s: float) -> Measured:
    from rl.models import resolve_model

    model = resolve_model(job.model)
    with tempfile.TemporaryDirectory(prefix="vs-") as name:  # short: Ray puts sockets under it
        folder = Path(name)
        environment = os.environ | {
            "PYTHONPATH": f"{ROOT}{os.pathsep}{HERE}",
            "RAY_TMPDIR": name,
            "RAY_USAGE_STATS_ENABLED": "0",
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "PYTHONUNBUFFERED": "1",
            "COLUMNS": "200",
        }
        if side == "verl":
            command = verl_command(job, write_verl_data(job, folder), model, folder)
            environment |= {
                "VERL_USE_EXTERNAL_MODULES": "verl_cpu.platform,verl_cpu.engine",
                "VERL_PLATFORM": "cpu",
                "VLLM_CPU_KVCACHE_SPACE": "1",
            }
        else:
            options = [f"--{key.replace('_', '-')}={value}" for key, value in asdict(job).items()]
            command = [sys.executable, __file__, "--rapport-side", name, *options]
        print(f"{side}: starting, at most {limit_s:.0f} s", flush=True)
        return watch(side, command, environment, job.steps, limit_s)


def watch(side: str, command: Sequence[str], environment: dict[str, str], steps: int, limit_s: float) -> Measured:
    """Run to the report of the last step, or fail with the last lines of the output."""
    measured, lines = Measured(), []
    started = time.monotonic()
    process = psutil.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def read(stream: IO[str]) -> None:
        for line in stream:
            lines.append(line.rstrip())
            if match := STEP_LINE[side].search(line):
                measured.step_at_s[int(match[1])] = time.monotonic() - started
                print(f"{side}: step {match[1]} at {time.monotonic() - started:.1f} s", flush=True)

    threading.Thread(target=read, args=(process.stdout,), daemon=True).start()
    family: dict[int, psutil.Process] = {}
    try:
        while steps not in measured.step_at_s:
            if process.poll() is not None or time.monotonic() - started > limit_s:
                what = "ended early" if process.poll() is not None else f"took more than {limit_s:.0f} s"
                where = (
                    f"steps seen: {sorted(measured.step_at_s) or 'none'}; peak {measured.peak_bytes / 2**30:.1f} GiB"
                )
                sys.exit(f"error: {side} {what} ({where}); its last lines:\n" + "\n".join(lines[-40:]))
            time.sleep(POLL_S)
            family |= {member.pid: member for member in [process, *process.children(recursive=True)]}
            sizes = [size for member in family.values() if (size := _proportional_size(member))]
            measured.peak_bytes = max(measured.peak_bytes, sum(sizes))
            measured.peak_processes = max(measured.peak_processes, len(sizes))
    finally:
        _end(family)
    return measured


def _proportional_size(process: psutil.Process) -> int:
    try:
        return process.memory_full_info().pss
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return 0


def _end(family: dict[int, psutil.Process]) -> None:
    """Ask all processes of the tree to stop, then kill what is left: Ray's are in sessions of their own."""
    for stop in (psutil.Process.terminate, psutil.Process.kill):
        for process in family.values():
            if process.is_running():  # false for a process id that was given to another process since
                stop(process)
        psutil.wait_procs(list(family.values()), timeout=15)


if __name__ == "__main__":
    main()
