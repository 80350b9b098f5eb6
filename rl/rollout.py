"""Rollouts: prompts in, groups of n replies out, by vLLM engines in Ray actors.

    driver (RolloutPool)                                       worker 0..W-1 (RolloutWorker, one vLLM engine each)
    generate: prompts --balanced shares--> ask(share) -------> continuous batching over the whole share
              groups  <--ray.wait--------- answer, answer, ... one per prompt, when its n replies are complete
    update_weights: WeightUpdate ------------ to all --------> load, forget cached prefixes, version = update.version

A prompt is    queued  ->  in flight on worker w  ->  done
                  ^______________|  w died, raised or showed no sign of life for `rollout.timeout_s`: w is killed and
                                    started again with the newest weights, and its unfinished prompts are queued

A worker shows that it lives by an answer, or by an empty message every second in which vLLM gets on.

What waits for what: `generate` for the next answer of any worker, `update_weights` for every worker, a queued prompt
for an idle worker (a survivor that has finished its share or the one started anew). The time-out of each is
`rollout.timeout_s`, counted from the worker's last sign of life.

Invariants:
- Every prompt asked comes back as exactly one `RolloutGroup` with n rollouts, in the order asked, or `generate` raises
  a `RolloutError` that names the prompt, the worker, its node and the root cause. None comes back twice.
- All rollouts of one call are of one policy version, that of the last `update_weights`.
- A prompt is asked at most 1 + `rollout.retries` times.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import ray

from rl.config import RunConfig
from rl.rollout_handle import RolloutError, WorkerFailure, WorkerHandle
from rl.rollout_worker import Answer, Ask, Sampling
from rl.types import Prompt, RolloutGroup
from rl.weight_sync import WeightUpdate

__all__ = ["Progress", "RolloutError", "RolloutPool", "Sampling", "WorkerStatus", "balanced_shares"]

Progress = Callable[[int, int], None]  # groups done, groups asked


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """One worker as the driver sees it now. `in_flight`: ids of the prompts it is working on."""

    index: int
    node: str
    pid: int
    ready: bool
    in_flight: tuple[str, ...]


class RolloutPool:
    """All rollout workers as one. Create it, `start`, use it, `close`. Needs a connected Ray."""

    def __init__(self, config: RunConfig, model_path: Path) -> None:
        self.config = config
        self.model_path = Path(model_path)
        self._workers: list[WorkerHandle] = []
        self._update: WeightUpdate | None = None
        self._call: _Call | None = None
        self._broken: RolloutError | None = None

    @property
    def version(self) -> int:
        """The policy version of the weights in the workers; 0 before the first update."""
        return self._update.version if self._update is not None else 0

    def start(self) -> None:
        """Start all workers and load the model in each.

        Raises:
            RolloutError: Ray has no room for a worker, or one failed to load the model `1 + rollout.retries` times.
        """
        gpu = bool(ray.cluster_resources().get("GPU", 0))
        count = self.config.rollout.workers
        self._workers = [WorkerHandle(index, self.config, self.model_path, gpu) for index in range(count)]
        for worker in self._workers:
            worker.create()
        for worker in self._workers:
            try:
                worker.find_place()
            except WorkerFailure as failure:
                raise self._break("", worker, failure) from failure
        neighbours = Counter(worker.place.node_id for worker in self._workers)
        for worker in self._workers:
            worker.neighbours = neighbours[worker.place.node_id]
            worker.begin_setup(self._update)
        while not all(worker.ready for worker in self._workers):
            self._wait_once()

    def status(self) -> list[WorkerStatus]:
        """For a display or a test; may be called from another thread than `generate`."""
        call = self._call
        return [
            WorkerStatus(
                worker.index,
                worker.place.node,
                worker.place.pid,
                worker.ready,
                tuple(call.prompts[index].id for index in list(worker.in_flight)) if call is not None else (),
            )
            for worker in self._workers
        ]

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        seeds: Sequence[int],
        on_progress: Progress | None = None,
    ) -> list[RolloutGroup]:
        """Sample `sampling.n` replies to each prompt; groups come in the order of the prompts.

        Args:
            prompts: any number; a prompt may occur twice.
            sampling: the same for all.
            seeds: one per prompt, 0 <= seed < 2**31. The same weights, prompt and seed give the same tokens, whichever
                worker answers (up to floating-point ties between batch compositions).
            on_progress: called with (groups done, groups asked) after every group.

        Raises:
            RolloutError: see the invariants above. The pool cannot be used after it; close it.
        """
        self._check_usable()
        self._call = call = _Call(self._asks(prompts, sampling, seeds), prompts, sampling, on_progress)
        try:
            while not call.complete:
                self._hand_out(call)
                self._wait_once()
        except BaseException as error:
            if self._broken is None:  # interrupted: workers still hold prompts of this call
                self._broken = RolloutError("", -1, "", f"an earlier call ended with {type(error).__name__}: {error}")
            raise
        finally:
            self._call = None
        return call.groups()

    def update_weights(self, update: WeightUpdate) -> dict[str, float]:
        """Give every worker new weights. A worker that dies meanwhile is started again with them.

        Returns:
            Seconds: `total_s` here, `fetch_s` and `load_s` of the slowest worker; and `bytes` per worker.

        Raises:
            RolloutError: a worker could not load them.
        """
        self._check_usable()
        started = time.monotonic()
        self._update = update
        refs = [(worker, worker.begin_update(update)) for worker in self._workers]
        timings: dict[str, float] = {}
        for worker, ref in refs:
            try:
                taken = worker.result(ref, "it was still loading weights")
            except WorkerFailure as failure:
                if failure.raised:  # the same weights would be refused again
                    raise self._break("", worker, failure) from failure
                self._replace(worker, failure)
                continue
            timings = {name: max(value, timings.get(name, 0.0)) for name, value in taken.items()}
        while not all(worker.ready for worker in self._workers):
            self._wait_once()
        return timings | {"total_s": time.monotonic() - started}

    def close(self) -> None:
        """End all workers. May be called at any time, and twice."""
        if ray.is_initialized():
            for worker in self._workers:
                worker.kill()
        self._workers = []

    def _check_usable(self) -> None:
        if self._broken is not None:
            raise self._broken
        if not self._workers:
            raise RuntimeError("the rollout pool is not running: call start() first")

    def _asks(self, prompts: Sequence[Prompt], sampling: Sampling, seeds: Sequence[int]) -> list[Ask]:
        if len(seeds) != len(prompts):
            raise ValueError(f"{len(prompts)} prompts need as many seeds, got {len(seeds)}")
        room = self.config.rollout.max_prompt_tokens + self.config.rollout.max_response_tokens - sampling.max_tokens
        for prompt in prompts:
            if not 0 < len(prompt.token_ids) <= room:
                raise RolloutError(
                    prompt.id,
                    -1,
                    "",
                    f"its {len(prompt.token_ids)} tokens and {sampling.max_tokens} of reply do not fit: a prompt may "
                    f"have 1 to {room} tokens here; raise rollout.max_prompt_tokens or shorten the conversation",
                )
        return [Ask(i, prompt.token_ids, seed) for i, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True))]

    def _hand_out(self, call: _Call) -> None:
        idle = [worker for worker in self._workers if worker.idle]
        if not call.queue or not idle:
            return
        # A worker that is being started again, or still busy, will want its part: leave it to the next round.
        first = call.asked == 0
        count = len(call.queue) if first else -(-len(call.queue) * len(idle) // len(self._workers))
        taken = [call.queue.popleft() for _ in range(count)]
        call.asked += len(taken)
        for worker, share in zip(idle, balanced_shares(taken, len(idle), call.sampling), strict=True):
            if share:
                worker.ask(share, call.sampling)

    def _wait_once(self) -> None:
        """Wait for one sign of life, or for the next deadline, and act on it."""
        watched = [worker for worker in self._workers if worker.waits_for is not None]
        patience = max(0.0, min(worker.deadline for worker in watched) - time.monotonic())
        ready, _ = ray.wait([worker.waits_for for worker in watched], timeout=patience)
        for worker in watched:
            if worker.waits_for in ready:
                self._take(worker)
            elif worker.deadline <= time.monotonic():
                self._replace(worker, WorkerFailure(worker.overdue()))

    def _take(self, worker: WorkerHandle) -> None:
        try:
            if not worker.ready:
                worker.finish_setup()
                return
            answer = worker.next_answer()
        except WorkerFailure as failure:
            self._replace(worker, failure)
            return
        if answer is not None and self._call is not None:
            self._call.record(answer, self.version)

    def _replace(self, worker: WorkerHandle, failure: WorkerFailure) -> None:
        """Kill a failed worker, queue what it had in flight, and start it again, or give up."""
        unfinished = list(worker.in_flight.values())
        for ask in unfinished:
            assert self._call is not None
            if not self._call.ask_again(ask, self.config.rollout.retries):
                raise self._break(self._call.prompts[ask.index].id, worker, failure) from failure
        if worker.failed_starts_with_this_one > self.config.rollout.retries:
            raise self._break("", worker, failure) from failure
        worker.respawn(self._update)

    def _break(self, prompt: str, worker: WorkerHandle, failure: WorkerFailure) -> RolloutError:
        self._broken = RolloutError(prompt, worker.index, worker.place.node, str(failure))
        return self._broken


class _Call:
    """The state of one `generate`."""

    def __init__(
        self, asks: Sequence[Ask], prompts: Sequence[Prompt], sampling: Sampling, on_progress: Progress | None
    ) -> None:
        self.queue = deque(asks)
        self.prompts = prompts
        self.sampling = sampling
        self.asked = 0
        self._on_progress = on_progress
        self._failures: Counter[int] = Counter()
        self._done: dict[int, RolloutGroup] = {}

    @property
    def complete(self) -> bool:
        return len(self._done) == len(self.prompts)

    def record(self, answer: Answer, version: int) -> None:
        prompt = self.prompts[answer.index]
        versions = {rollout.policy_version for rollout in answer.rollouts}
        if answer.index in self._done or len(answer.rollouts) != self.sampling.n or versions != {version}:
            raise RuntimeError(
                f"prompt {prompt.id} was answered wrongly: {len(answer.rollouts)} of {self.sampling.n} rollouts, "
                f"policy versions {sorted(versions)} instead of {version}, before: {answer.index in self._done}"
            )
        self._done[answer.index] = RolloutGroup(prompt, answer.rollouts)
        if self._on_progress is not None:
            self._on_progress(len(self._done), len(self.prompts))

    def ask_again(self, ask: Ask, retries: int) -> bool:
        """Queue a prompt whose worker failed; False when it has had all its attempts."""
        self._failures[ask.index] += 1
        if self._failures[ask.index] > retries:
            return False
        self.queue.append(ask)
        return True

    def groups(self) -> list[RolloutGroup]:
        return [self._done[index] for index in range(len(self.prompts))]


def balanced_shares(asks: Sequence[Ask], workers: int, sampling: Sampling) -> Iterator[list[Ask]]:
    """Split asks into `workers` shares of nearly equal work: the longest first, each to the lightest share.

    Work is counted in tokens, those of the prompt once and of all its replies at their full length.
    """
    shares: list[list[Ask]] = [[] for _ in range(workers)]
    loads = [0] * workers
    for ask in sorted(asks, key=lambda ask: (-len(ask.token_ids), ask.index)):
        lightest = loads.index(min(loads))
        shares[lightest].append(ask)
        loads[lightest] += len(ask.token_ids) + sampling.n * sampling.max_tokens
    yield from shares
