"""The GRPO loop, readable top to bottom.

    PromptQueue --take--> prompts --generate--> RolloutGroups --score--> ScoredGroups --advantages--> TrainGroups
         ^                   RolloutPool             reward servers                                      |
         |  handed back: too few rollouts could be scored                                               v
         +-------------------------------------------------------------------- learn (LearnerGroup), sync, save

Synchronous: each arrow waits for the one before, with a time-out of its own.
    generate  waits for the rollout workers; a dead or hung one is replaced by the pool
    score     waits for the reward servers; the client retries, then answers with failures
    learn     waits for all learner ranks; one that dies ends the run, which resumes from its checkpoint
    sync      waits for every rollout worker to hold the new weights

Left out on purpose: overlapping generation with learning. Every rollout carries its policy version and the loss its
importance correction, so an asynchronous queue can stand between `generate` and `learn`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rl.advantage import compute_advantages
from rl.checkpoint import RunFolder, TrainState
from rl.config import RunConfig
from rl.evaluation import EvalRun, evaluate
from rl.learner import LearnerGroup
from rl.metrics import sample_records, step_metrics
from rl.prompts import PromptQueue, rollout_seed
from rl.rollout import RolloutPool, Sampling
from rl.scoring import ScoredGroup, Scorer, score_groups
from rl.tracking import RunLog
from rl.types import Prompt, TrainGroup
from rl.weight_sync import WeightUpdate


class TrainingError(RuntimeError):
    """The run cannot go on; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Workers:
    """The running parts that a step uses."""

    pool: RolloutPool
    learner: LearnerGroup
    scorer: Scorer


class Trainer:
    """One run: `run()` trains from the last checkpoint, or from the start, to the last step."""

    def __init__(
        self,
        config: RunConfig,
        workers: Workers,
        train_prompts: Sequence[Prompt],
        held_out: Sequence[Prompt],
        folder: RunFolder,
        log: RunLog,
    ) -> None:
        self.config = config
        self.workers = workers
        self.held_out = held_out
        self.folder = folder
        self.log = log
        self.queue = PromptQueue(train_prompts, config.seed, config.rollout.retries)
        self.step = 0
        self.policy_version = 0
        self.total_steps = config.steps or config.epochs * (len(train_prompts) // config.prompts_per_step)
        self.sampling = Sampling(
            n=config.rollout.n,
            temperature=config.rollout.temperature,
            top_p=config.rollout.top_p,
            max_tokens=config.rollout.max_response_tokens,
        )

    def run(self) -> EvalRun:
        """Train to the end and return the evaluation of the final policy."""
        self._resume()
        self._sync()
        if self.step == 0:
            self._evaluate_now()
        while self.step < self.total_steps:
            self._train_step()
            if self._due(self.config.evaluation.every):
                self._evaluate_now()
            if self._due(self.config.save_every) or self.step == self.total_steps:
                self._save()
        return self._evaluate_now()

    def _train_step(self) -> None:
        timings: dict[str, float] = {}
        prompts = self.queue.take(self.config.prompts_per_step)
        with self.log.phase("generate", timings, self.step + 1) as progress:
            seeds = [rollout_seed(self.config.seed, self.step, p, self.queue.attempts(p.id)) for p in prompts]
            groups = self.workers.pool.generate(prompts, self.sampling, seeds, progress)
        with self.log.phase("score", timings, self.step + 1):
            scores = score_groups(self.workers.scorer, groups, self.config)
        for prompt, reason in scores.handed_back:
            self.queue.hand_back(prompt, reason)
        for group in scores.groups:
            self.queue.done(group.prompt)
        teaching = [group for group in scores.groups if not group.zero_variance]
        batch = train_groups(teaching, self.config)
        learned: dict[str, float] = {}
        with self.log.phase("learn", timings, self.step + 1):
            if batch:
                learned = self.workers.learner.train(batch, self.sampling.temperature)
                self.policy_version += 1
        self._check_learned(learned)
        self.step += 1
        if batch:
            with self.log.phase("sync", timings, self.step):
                self._sync()
        metrics = step_metrics(groups, scores, learned, timings)
        self.log.metrics(self.step, metrics)
        self.log.samples(self.step, sample_records(scores, batch_of=teaching))
        self.log.say(_step_line(self.step, self.total_steps, metrics))

    def _resume(self) -> None:
        checkpoint = self.folder.latest()
        if checkpoint is None:
            self.log.rewind(0)
            EvalRun.forget_after(self.folder.path, 0)
            return
        state = RunFolder.load_state(checkpoint)
        self.queue.restore(state.queue)
        self.workers.learner.load(checkpoint / "learner")
        self.step, self.policy_version = state.step, state.policy_version
        self.log.rewind(state.step)
        EvalRun.forget_after(self.folder.path, state.step)
        self.log.say(f"resumed from {checkpoint} at step {self.step} of {self.total_steps}")

    def _sync(self) -> None:
        lora = self.config.model.lora if self.config.model.lora.rank else None
        buckets = tuple(self.workers.learner.weights())
        self.workers.pool.update_weights(WeightUpdate(self.policy_version, buckets, lora))
        del buckets  # the workers have read them: let Ray free the shared memory

    def _save(self) -> None:
        timings: dict[str, float] = {}
        state = TrainState(self.step, self.policy_version, self.queue.state())
        with self.log.phase("save", timings, self.step):
            self.folder.save(state, self._write_weights)

    def _write_weights(self, folder: Path) -> None:
        self.workers.learner.save(folder / "learner")
        self.workers.learner.export(folder / "hf")

    def _evaluate_now(self) -> EvalRun:
        if not self.held_out:
            return EvalRun(self.step, (), 0)
        saved = EvalRun.path(self.folder.path, self.step)
        if saved.is_file():
            return EvalRun.load(saved)
        timings: dict[str, float] = {}
        with self.log.phase("evaluate", timings) as progress:
            result = evaluate(
                self.workers.pool,
                self.workers.scorer,
                self.held_out,
                self.step,
                self.config,
                progress,
            )
        result.save(saved)
        self.log.metrics(self.step, {**result.metrics(), "time/evaluate": timings["evaluate"]})
        self.log.say(result.line())
        return result

    def _check_learned(self, learned: dict[str, float]) -> None:
        """Stop before a broken update can be synced or saved; the last checkpoint is from before it."""
        broken = [f"{name}={value}" for name, value in learned.items() if not math.isfinite(value)]
        if broken:
            raise TrainingError(
                f"step {self.step + 1}: the update is not finite ({', '.join(broken)}); it was not saved. Lower "
                "learner.lr or learner.max_grad_norm, or try model.dtype=float32, and start again"
            )
        gap = learned.get("logprob_diff_mean", 0.0)
        if gap > self.config.learner.max_logprob_gap:
            raise TrainingError(
                f"step {self.step + 1}: log-probabilities of the rollout workers and the learner differ by {gap:.3f} "
                f"on average, more than learner.max_logprob_gap={self.config.learner.max_logprob_gap}: the two no "
                "longer hold the same policy. Compare model.dtype of both sides, or use float32 to find the cause"
            )

    def _due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0


def train_groups(groups: Sequence[ScoredGroup], config: RunConfig) -> list[TrainGroup]:
    """Join rollouts and advantages into what the learners take."""
    advantages = compute_advantages(
        [group.rewards for group in groups],
        [[len(rollout.token_ids) for rollout in group.rollouts] for group in groups],
        config.learner.loss,
    )
    return [
        TrainGroup(
            prompt_ids=group.prompt.token_ids,
            response_ids=tuple(rollout.token_ids for rollout in group.rollouts),
            rollout_logprobs=tuple(rollout.logprobs for rollout in group.rollouts),
            advantages=tuple(advantages_G),
        )
        for group, advantages_G in zip(groups, advantages, strict=True)
    ]


def _step_line(step: int, total: int, metrics: dict[str, float]) -> str:
    times = "  ".join(f"{name[5:]} {value:.1f}s" for name, value in metrics.items() if name.startswith("time/"))
    shown = {"reward": "reward/mean", "empathy": "reward/quality", "D_KL": "reward/d_kl", "KL": "learner/kl"}
    values = "  ".join(f"{label} {metrics[name]:.3f}" for label, name in shown.items() if name in metrics)
    lost = {"flat groups": "groups/zero_variance", "asked again": "groups/handed_back"}
    notes = "".join(
        f"  {label} {metrics[name]:.0f}/{metrics['groups/asked']:.0f}" for label, name in lost.items() if metrics[name]
    )
    return f"step {step}/{total}  {values}  tokens {metrics['rollout/tokens_mean']:.0f}{notes}  |  {times}"
