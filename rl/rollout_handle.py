"""The driver's view of one rollout worker: start it, ask it, notice that it died or hangs, kill it, start it again."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rl.config import RolloutConfig, RunConfig
from rl.rollout_worker import Answer, Ask, EngineError, RolloutWorker, Sampling

if TYPE_CHECKING:
    from rl.weight_sync import WeightUpdate

KILL_TIMEOUT_S = 15.0
START_TIMEOUT_S = 1200.0  # placement, imports and loading the model; `rollout.timeout_s` is for a worker at work
# Milliseconds that an idle OpenMP thread of Intel's runtime spins: the learner wants its core. GNU's does by itself.
# Never 0, nor OMP_WAIT_POLICY=PASSIVE: decoding enters thousands of short parallel regions a second, and waking a
# sleeping thread for each took a third of the tokens per second (benchmarks/generation.py).
CPU_ENVIRONMENT = {"KMP_BLOCKTIME": "1"}


class RolloutError(RuntimeError):
    """Generation cannot go on. `prompt` is empty where no single one is concerned, `worker` -1 where no worker is."""

    def __init__(self, prompt: str, worker: int, node: str, cause: str) -> None:
        super().__init__(prompt, worker, node, cause)
        self.prompt, self.worker, self.node, self.cause = prompt, worker, node, cause

    def __str__(self) -> str:
        what = f"prompt {self.prompt}" if self.prompt else "generation"
        where = f" on rollout worker {self.worker} (node {self.node})" if self.worker >= 0 else ""
        return f"{what}{where} failed: {self.cause}"


class WorkerFailure(Exception):  # noqa: N818 - not yet an error: the pool may recover from it
    """A worker died, raised or did not answer in time; the text is the root cause. `raised`: the process lives on."""

    def __init__(self, cause: str, *, raised: bool = False) -> None:
        super().__init__(cause)
        self.raised = raised


@dataclass(frozen=True, slots=True)
class Place:
    """Where a worker runs. `node`: address; `node_id`: Ray's id."""

    node_id: str
    node: str
    pid: int


def worker_gpus(rollout: RolloutConfig) -> float:
    """GPUs that one worker asks Ray for."""
    return rollout.tensor_parallel_size * rollout.gpu_share


@dataclass
class WorkerHandle:
    """One worker slot. The actor in it may be replaced; `starts` counts those that failed before they were ready."""

    index: int
    config: RunConfig
    model_path: Path
    gpu: bool
    place: Place = field(default_factory=lambda: Place("", "not placed yet", 0))
    neighbours: int = 1
    failed_starts: int = 0
    in_flight: dict[int, Ask] = field(default_factory=dict)
    deadline: float = 0.0
    _limit_s: float = START_TIMEOUT_S
    _actor: Any = None  # ActorHandle[RolloutWorker]
    _placing: Any = None
    _starting: list[ray.ObjectRef] = field(default_factory=list)
    _stream: Any = None

    @property
    def ready(self) -> bool:
        return self._actor is not None and not self._starting

    @property
    def failed_starts_with_this_one(self) -> int:
        return self.failed_starts + (not self.ready)

    @property
    def idle(self) -> bool:
        return self.ready and self._stream is None

    @property
    def waits_for(self) -> Any:
        """What `ray.wait` can watch: the start-up or the stream of answers; None for an idle worker."""
        return self._starting[-1] if self._starting else self._stream

    def create(self) -> None:
        """Ask Ray for the process. Nothing is loaded before `begin_setup`."""
        options: dict[str, Any] = {"num_cpus": 1, "max_restarts": 0, "scheduling_strategy": "SPREAD"}
        if self.gpu:
            options["num_gpus"] = worker_gpus(self.config.rollout)
        else:
            options["runtime_env"] = {"env_vars": CPU_ENVIRONMENT}
        self._actor = ray.remote(**options)(RolloutWorker).remote()
        self._placing = self._actor.where.remote()
        self._alive(START_TIMEOUT_S)

    def find_place(self) -> None:
        """Wait until Ray has placed the actor.

        Raises:
            WorkerFailure: it did not within `START_TIMEOUT_S`.
        """
        self.place = Place(*self._get(self._placing, "no node has the resources that one rollout worker asks for"))

    def begin_setup(self, update: WeightUpdate | None) -> None:
        """Start loading the model, then `update`; `finish_setup` follows when `waits_for` is ready."""
        assert self._actor is not None and self._placing is not None
        setup = self._actor.setup.remote(self.config, self.model_path, self.neighbours, self.gpu)
        self._starting = [self._placing, setup]
        if update is not None:
            self._starting.append(self._actor.update.remote(update))
        self._alive(START_TIMEOUT_S)

    def finish_setup(self) -> None:
        """Collect the start-up.

        Raises:
            WorkerFailure: with the first step that went wrong.
        """
        place, *_ = [self._get(ref, "it was still loading the model") for ref in self._starting]
        self.place, self._starting, self.failed_starts = Place(*place), [], 0

    def respawn(self, update: WeightUpdate | None) -> None:
        """Kill whatever is there and start a fresh actor with the newest weights."""
        self.failed_starts = self.failed_starts_with_this_one
        self.kill()
        self.create()
        self.begin_setup(update)

    def ask(self, asks: Sequence[Ask], sampling: Sampling) -> None:
        assert self._actor is not None
        self.in_flight = {ask.index: ask for ask in asks}
        self._stream = self._actor.generate.options(num_returns="streaming").remote(list(asks), sampling)
        self._alive()

    def next_answer(self) -> Answer | None:
        """The answer that `ray.wait` announced; None for a mere sign of life and at the end of the share.

        Raises:
            WorkerFailure: instead of an answer.
        """
        try:
            ref = next(self._stream)
        except StopIteration:
            self._stream = None
            if self.in_flight:
                raise WorkerFailure(f"it ended with {len(self.in_flight)} prompts unanswered") from None
            return None
        answer: Answer | None = self._get(ref, "an announced answer did not arrive")
        if answer is not None:
            del self.in_flight[answer.index]
        self._alive()
        return answer

    def begin_update(self, update: WeightUpdate) -> ray.ObjectRef:
        assert self._actor is not None
        self._alive()
        return self._actor.update.remote(update)

    def result(self, ref: ray.ObjectRef, late: str) -> Any:
        """What a call returned.

        Raises:
            WorkerFailure: the call raised, the worker died, or the deadline passed (`late` says doing what).
        """
        return self._get(ref, late)

    def kill(self) -> None:
        """End the process, a stopped one too; never raises for one that is gone already."""
        if self._actor is not None:
            answers = self.answers()  # asked before: once told to kill it, Ray calls a stopped process dead as well
            ray.kill(self._actor)
            if self.place.pid and not answers:
                _signal_kill(self.place)
        self._actor, self._placing, self._starting, self._stream = None, None, [], None
        self.place = replace(self.place, pid=0)
        self.in_flight = {}

    def answers(self) -> bool:
        """Whether a call on the actor comes back at once, because it is free or because it is known to be dead."""
        assert self._actor is not None
        probe = self._actor.where.remote()
        done, _ = ray.wait([probe], timeout=1.0)
        return bool(done)

    def overdue(self) -> str:
        if self._starting:
            return f"it did not load the model within {self._limit_s:g} s"
        return (
            f"no sign of life for rollout.timeout_s={self._limit_s:g} with {len(self.in_flight)} prompts in flight; "
            "raise it if the machine is that slow"
        )

    def _alive(self, limit_s: float | None = None) -> None:
        self._limit_s = self.config.rollout.timeout_s if limit_s is None else limit_s
        self.deadline = time.monotonic() + self._limit_s

    def _get(self, ref: ray.ObjectRef, late: str) -> Any:
        try:
            return ray.get(ref, timeout=max(0.0, self.deadline - time.monotonic()))
        except GetTimeoutError as error:
            raise WorkerFailure(f"{late} after {self._limit_s:g} s") from error
        except RayTaskError as error:
            cause = error.cause
            text = str(cause) if isinstance(cause, EngineError) else f"{type(cause).__name__}: {cause}"
            raise WorkerFailure(" ".join(text.split()), raised=True) from error
        except RayError as error:
            raise WorkerFailure(f"{type(error).__name__}: {' '.join(str(error).split())}") from error


def _signal_kill(place: Place) -> None:
    """SIGKILL on the worker's own node: a stopped or deadlocked process does not answer Ray's request to exit."""
    strategy = NodeAffinitySchedulingStrategy(place.node_id, soft=False)
    options: dict[str, Any] = {"num_cpus": 0, "max_retries": 0, "scheduling_strategy": strategy}
    ray.wait(
        [ray.remote(**options)(_kill_process).remote(place.pid)], timeout=KILL_TIMEOUT_S
    )  # no answer: the node itself is gone


def _kill_process(pid: int) -> None:
    if Path(f"/proc/{pid}").exists():
        os.kill(pid, signal.SIGKILL)
